"""The RAG example from its folder of manifests: retrieval through tools, typed answers, and changes under traffic."""

from __future__ import annotations

import json

import pytest

import rag
from tests.support.grid import are_replaced, becomes, running
from tests.support.world import MLFLOW, REPORTS, Given, Kube, eventually, traffic


@pytest.fixture
def example(kube: Kube):
    rag.release(MLFLOW)
    documents = rag.manifests(kube.namespace)
    tools = [d for d in documents if d["kind"] == "DSPyTool"]
    for tool in tools:
        kube.apply(tool)
    programs = {d["metadata"]["name"]: Given(kube, d) for d in documents if d["kind"] == "DSPyProgram"}
    yield programs, tools
    kube("delete", "dspyprograms,dspytools", "--all", "--wait=true")


@pytest.mark.alone  # everything that a request passes runs on these two cores, and is rolled at once
def test_the_rag_example_end_to_end(example, kube):
    programs, tools = example
    for program in programs.values():
        program.becomes_ready(180)
    becomes(kube, "bedrock-embed", "bedrock", "Healthy")
    assert rag.ingest(kube) == len(rag.rows("documents"))
    recall = rag.recall(kube, kube.namespace)
    found = rag.ask_all(kube)
    REPORTS.append(f"RAG example: recall@5={recall:.3f} {json.dumps(found)}")
    assert recall >= 0.9
    assert found["typed"] == found["answers"] == 40
    assert found["from_the_right_document"] >= 36
    served = programs["rag"]
    body = {"question": rag.rows("questions")[0]["question"]}
    with traffic(served, rate=20, body=body) as requests:
        before = running(kube, "despina.dev/tool")
        rag.release(MLFLOW, (), "rag")
        for tool in tools:
            changed = tool["spec"]["contract"] | {"description": "Rolled while it is used."}
            kube.apply(tool | {"spec": tool["spec"] | {"contract": changed}})
        eventually("version 2 is active", lambda: served.is_active("2"), 180)
        eventually("the tools are rolled", lambda: are_replaced(kube, "despina.dev/tool", before), 180)
        eventually("the last old pod is gone", lambda: served.only_pods_of("2"), 120)
    assert not requests.report("RAG program and its tools rolled at once", allowed={"1", "2"})
    assert requests.records[-1]["status"] == 200

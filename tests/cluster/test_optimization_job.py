"""The Job of an optimisation, as the API server itself sees it: every field is known and allowed together."""

from __future__ import annotations

import json

import pytest

from despina.api.optimizing import optimization_config
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.api.runs import OptimizationRun
from despina.desired.optimization import build_optimization, golden_file, optimization_name
from tests.cluster.test_evaluation_job import DATASETS, POD_TEMPLATES
from tests.support.gen import ref
from tests.support.optimizations import loop
from tests.support.world import Kube, manifest


@pytest.mark.parametrize("golden", DATASETS)
@pytest.mark.parametrize("pod_template", POD_TEMPLATES)
def test_the_api_server_takes_the_job(golden, pod_template):
    lm = {"name": "main", "model": "openai/x", "apiKeySecretRef": {"name": "keys", "key": "k"}}
    parts = loop(dataset={"goldenRef": DATASETS[golden]})
    document = manifest("searched", lms=[lm], podTemplate=POD_TEMPLATES[pod_template], **parts)
    document["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000"
    program = Program.parse(document)
    base = runtime_config(program, revision_of(program, ref("1")))
    run = OptimizationRun(
        job=optimization_name(program, base, (), 0, ""), trigger="by hand", base_version="1",
        base_revision=base.revision, labels_until=0, budget_lm_calls=300, started_at="2026-01-02T03:04:05Z",
    )  # fmt: skip
    config = optimization_config(program, base, None, 0.0, golden_file(program))
    job = build_optimization(program, run, config, PlacementProfile(), "despina-runtime:1")
    created = json.loads(
        Kube()("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(job))
    )
    assert created["spec"]["podReplacementPolicy"] == "Failed"
    assert created["metadata"]["annotations"] == job["metadata"]["annotations"]

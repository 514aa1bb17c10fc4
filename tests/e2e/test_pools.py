"""Pools of nodes: pods run where their placement says, and a pool without a node is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from localcluster import bin_dir
from tests.support.grid import apply_package, backend_of, pods_of, sample_pods, tool
from tests.support.world import OUT, Kube, eventually, log_model

pytestmark = pytest.mark.alone  # others' pods would find the fake nodes


@pytest.fixture
def pools(kube):
    """Fake nodes with a GPU, and on AWS."""
    names = {
        "gpu-node": ({"nvidia.com/gpu.present": "true"}, "nvidia.com/gpu", {"nvidia.com/gpu": "1"}),
        "aws-node": ({"eks.amazonaws.com/nodegroup": "despina"}, "aws", {}),
    }
    with (OUT / "kwok.log").open("wb") as log:
        command = [str(bin_dir() / "kwok"), f"--kubeconfig={kube.folder / 'kubeconfig'}", "--manage-all-nodes=false"]
        command += [
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    for name, (labels, taint, devices) in names.items():
        size = {"cpu": "16", "memory": "64Gi", "pods": "50", **devices}
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": labels | {"fake": "yes"},
                    "annotations": {"kwok.x-k8s.io/node": "fake"},
                },
                "spec": {"taints": [{"key": taint, "value": "fake", "effect": "NoSchedule"}]},
            }
        )
        patch = json.dumps({"status": {"allocatable": size, "capacity": size}})
        kube("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)
    yield kube
    kube("delete", "dspytools,dspyprograms", "--all", "--wait=true")
    for name in names:
        kube("delete", "node", name, "--ignore-not-found")
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_pods_run_on_the_pool_that_their_placement_names(pools):
    log_model("good", "placed", "champion")
    # The real node carries the pools' labels too, for what must run.
    fake = {"fake": "yes"}
    on_aws = {"profile": "aws", "nodeSelector": fake, "tolerations": [{"key": "aws", "operator": "Exists"}]}
    backends = (
        sample_pods("gpu", placement={"profile": "gpu", "nodeSelector": fake}),
        sample_pods("aws", placement=on_aws),
        sample_pods("plain"),
        sample_pods("nowhere", placement={"profile": "gpu", "nodeSelector": {"zone": "moon"}}),
    )
    apply_package(pools)
    pools.apply(tool("search", *backends))
    document = {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": "placed"},
        "spec": {
            "source": {
                "mlflow": {"model": "placed", "alias": "champion", "trackingURI": os.environ["DESPINA_TEST_MLFLOW"]}
            },
            "placement": on_aws,
            "tools": [{"name": "find", "ref": {"name": "search"}}],
        },
    }
    pools.apply(document)
    stranded = document | {"metadata": {"name": "stranded"}}
    stranded["spec"] = document["spec"] | {"placement": {"profile": "gpu", "nodeSelector": {"zone": "moon"}}}
    pools.apply(stranded)
    for backend, node in (("gpu", "gpu-node"), ("aws", "aws-node"), ("plain", "local")):
        eventually(
            f"{backend} is placed", lambda b=backend, n=node: _nodes(pools, f"despina.dev/backend={b}") == {n}, 60
        )
    eventually("the program is placed", lambda: _nodes(pools, "despina.dev/program=placed") == {"aws-node"}, 60)
    (gpu,) = pods_of(pools, "search", "gpu")
    assert gpu["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    eventually(
        "the empty pool is named", lambda: "pool gpu: " in backend_of(pools, "search", "nowhere").get("message", ""), 60
    )
    assert backend_of(pools, "search", "nowhere")["reason"] == "Unschedulable"
    ready = eventually("the program's pool is named", lambda: _unschedulable(pools, "stranded"), 60)
    assert ready["message"].startswith("pool gpu: ")


def _nodes(kube: Kube, label: str) -> set[str]:
    return {p["spec"].get("nodeName", "") for p in kube.json("get", "pods", "-l", label)["items"]}


def _unschedulable(kube: Kube, name: str) -> dict | None:
    conditions = (kube.json("get", "dspy", name).get("status") or {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Ready" and c["reason"] == "Unschedulable"), None)

"""The Job of an Evaluate gate, as the API server itself sees it: every field is known and allowed together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from despina.api.gates import Gate
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.desired.evaluation import Evaluation, build_evaluation, evaluation_config
from tests.support.gen import ref
from tests.support.world import Kube, manifest

DATASETS = {
    "a ConfigMap": {"configMap": {"name": "rows", "key": "rows.jsonl"}},
    "a dataset of MLflow": {"mlflow": {"name": "heldout"}},
}
POD_TEMPLATES: dict[str, Any] = {
    "nothing of its own": None,
    "a private registry, a pool, a token and sidecars": {
        "spec": {
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "containers": [
                {
                    "name": "program",
                    "env": [
                        {"name": "MLFLOW_TRACKING_TOKEN", "valueFrom": {"secretKeyRef": {"name": "m", "key": "t"}}}
                    ],
                },
                {"name": "logs", "image": "logs:1"},
            ],
            "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
            "volumes": [{"name": "certs", "emptyDir": {}}],
        }
    },
}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("pod_template", POD_TEMPLATES)
def test_the_api_server_takes_the_job(dataset, pod_template):
    lm = {"name": "main", "model": "openai/x", "apiKeySecretRef": {"name": "keys", "key": "k"}}
    document = manifest("scored", lms=[lm], podTemplate=POD_TEMPLATES[pod_template])
    document["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000"
    program = Program.parse(document)
    evaluate = {"datasetRef": DATASETS[dataset], "maxRegressionPercent": 5}
    gate = Gate.model_validate({"name": "score", "type": "Evaluate", "evaluate": evaluate})
    config = runtime_config(program, revision_of(program, ref("1")))
    made = Evaluation("scored-eval-1", gate, evaluation_config(gate.evaluate, config, config))
    job = build_evaluation(program, made, PlacementProfile(), "despina-runtime:1")
    created = json.loads(
        Kube()("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(job))
    )
    assert created["spec"]["podReplacementPolicy"] == "Failed"
    assert created["spec"]["podFailurePolicy"] == job["spec"]["podFailurePolicy"]

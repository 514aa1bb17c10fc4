"""Labels of callers meet what they are about, in a real MLflow, whichever pod they are given to."""

from __future__ import annotations

import httpx

from despina.wire import FeedbackConfig
from tests.support.pods import Pod, fresh
from tests.support.world import eventually

EXPERIMENT = "ns/triage"


def feedback(experiment: str = EXPERIMENT, **changes) -> FeedbackConfig:
    return FeedbackConfig(**{"experiment": experiment, "sample_percent": 0, **changes})


def label(pod: Pod, prediction: str, **what) -> httpx.Response:
    return httpx.post(f"{pod.url}/feedback", json={"prediction_id": prediction, "label": "failure", **what}, timeout=20)


class Seen:
    """What an MLflow experiment holds."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._client, self._experiment = httpx.Client(base_url=uri, timeout=20), experiment

    def traces(self) -> list[dict]:
        found = self._client.get(
            "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": self._experiment}
        ).json()
        if "experiment" not in found:
            return []
        place = {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": found["experiment"]["experiment_id"]},
        }
        answer = self._client.post("/api/3.0/mlflow/traces/search", json={"locations": [place], "max_results": 500})
        return answer.raise_for_status().json().get("traces", [])

    def labels(self) -> dict[str, list[dict]]:
        """Assessments by trace."""
        return {t["trace_id"]: t.get("assessments", []) for t in self.traces()}


def test_a_label_is_delivered_with_what_it_is_about(pod, version, mlflow_uri):
    running = pod(version, feedback=feedback("one"))
    eventually("ready", running.is_ready, 90)
    answer = running.ask(fresh())
    said = label(
        running, answer.headers["despina-prediction-id"], reason="it is an account", expected={"category": "account"}
    )
    assert (said.status_code, said.json()["status"]) == (202, "Stored"), said.text
    seen = Seen(mlflow_uri, "one")
    found = eventually("delivered", lambda: next((a for a in seen.labels().values() if len(a) == 2), None), 30)
    by_name = {a["assessment_name"]: a for a in found}
    print(found)
    assert by_name["label"]["feedback"]["value"] == "failure"
    assert by_name["label"]["rationale"] == "it is an account"
    print(seen.traces())

"""What callers say of answers meets them in MLflow, whichever replica they say it to, and though a container is killed."""

from __future__ import annotations

import asyncio
import contextlib
import random

import httpx

from tests.support.grid import kill
from tests.support.labels import Callers, Seen, compare
from tests.support.world import MLFLOW, REPORTS, eventually, log_model

RATE, SECONDS_BEFORE, LABELS_AFTER = 20, 80, 120


def half_go_elsewhere(callers: Callers) -> bool:
    """As they shall, but for the time in which there was only one replica, and that after the last question."""
    return callers.elsewhere >= len(callers.said) / 4


def test_labels_given_to_any_replica_are_in_mlflow_once_though_a_container_is_killed(given, kube):
    log_model("compiled", "labelled", "champion")
    program = given("labelled", replicas=2, feedback={}, cache={"keyScope": "Both"})
    program.becomes_ready()
    callers, experiment = Callers(program.url, RATE), Seen(MLFLOW, f"{kube.namespace}/labelled")

    def kill_one() -> None:
        eventually("labels", lambda: len(callers.said) > SECONDS_BEFORE, 60)
        kill(random.choice(program.pods())["metadata"]["name"])
        enough = len(callers.said) + LABELS_AFTER
        eventually("more labels", lambda: len(callers.said) > enough and half_go_elsewhere(callers), 120)

    asyncio.run(callers.run_while(kill_one))
    with contextlib.suppress(AssertionError):  # what is missing is told below
        eventually("delivered", lambda: not compare(callers.said, experiment.traces()).lost, 60)
    held = compare(callers.said, experiment.traces())
    REPORTS.append(
        f"labels while a container is killed: sent={callers.sent} failed={len(callers.failed)} "
        f"labels={len(callers.said)} elsewhere={callers.elsewhere} lost={len(held.lost)} duplicated={held.duplicated} "
        f"(asked again {callers.asked_again}, gone {callers.gone}, unrecorded {held.unrecorded})"
    )
    print(REPORTS[-1])
    assert not callers.failed, callers.failed[:5]
    assert not callers.refused, callers.refused[:5]
    assert not held.lost, held.lost[:5]
    assert held.duplicated == 0
    assert sum(c.get("restartCount", 0) for p in program.pods() for c in p["status"]["containerStatuses"]) == 1
    unknown = httpx.post(f"{program.url}/feedback", json={"prediction_id": "nobody-made-it", "label": "failure"})
    assert unknown.status_code == 404, unknown.text
    program.becomes("FeedbackDelivered", "True", "Delivered")

"""What people and servers undo is made good, and no caller notices."""

from __future__ import annotations

import time
from typing import Any

from tests.support.undone import (
    FALLBACK,
    delete_the_service,
    err_while_events_are_refused,
    go_back_by_hand,
    lose_the_service,
    reached,
    resume_after_a_bad_release,
    rollout,
    suspend,
)
from tests.support.world import eventually, log_model, move_alias, traffic


def test_a_service_is_deleted_while_a_version_is_in_quarantine(given, kube):
    log_model("good", "led", "champion")
    log_model("broken-import", "led")
    program = given("led", replicas=2, rollout=rollout())
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        move_alias("led", "2")
        eventually("version 2 is quarantined", lambda: program.quarantined("2"), 120)
        delete_the_service(program, "1")
        requests.goes_on(200)
    failed = requests.report("a Service deleted while a version is in quarantine", allowed={"1"})
    assert not failed, failed[:5]
    with traffic(program, rate=50) as requests:
        started = time.time()
        lose_the_service(program, "1")
        requests.goes_on(200)
    failed = requests.report("a Service that is gone while a version is in quarantine", allowed={"1"})
    assert not [r for r in failed if not is_nowhere(r, started)], failed[:5]
    assert reached(program) == {"1"}


def is_nowhere(record: dict[str, Any], since: float) -> bool:
    """A connection that was begun while the nodes knew of no such address: nobody can answer it."""
    return "ConnectError" in record.get("error", "") and -0.1 < record["at"] - since < 3


def test_a_person_goes_back_to_a_version_that_had_erred(given, kube):
    log_model("boom", "meant", "champion")
    log_model("guarded", "meant")
    program = given("meant", replicas=2, rollout=rollout(), fallback=FALLBACK)
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        go_back_by_hand(program, "1", "2")
    failed = requests.report("a person goes back to a version that had erred", allowed={"1", "2"})
    assert not failed, failed[:5]
    assert requests.records[-1]["version"] == "1"


def test_a_bad_version_is_taken_back_though_events_are_refused(given, kube):
    log_model("guarded", "unheard", "champion")
    log_model("boom", "unheard")
    program = given("unheard", replicas=2, rollout=rollout(), fallback=FALLBACK)
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        err_while_events_are_refused(program, "1", "2")
    failed = requests.report("a version taken back though Events are refused", allowed={"1", "2"})
    assert not failed, failed[:5]


def test_after_a_suspension_the_old_version_serves_though_the_alias_moved_to_a_broken_one(given, kube):
    log_model("good", "asleep", "champion")
    log_model("broken-import", "asleep")
    program = given("asleep", replicas=2, rollout=rollout())
    program.becomes_ready()
    with traffic(program, rate=50) as before:
        before.goes_on(200)
    suspend(program)
    resume_after_a_bad_release(program, "1", "2")
    with traffic(program, rate=50) as after:
        eventually("version 2 is quarantined", lambda: program.quarantined("2"), 120)
        after.goes_on(200)
    for requests in (before, after):
        failed = requests.report("a suspension during which the alias moved to a broken version", allowed={"1"})
        assert not failed, failed[:5]
    assert reached(program) == {"1"}
    assert len(after.records) > 100

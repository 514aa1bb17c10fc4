"""What the buttons do: each changes a few words of the manifest that the operator knows (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from despina.api.status import ProgramStatus
from despina.cluster.reading import mapping
from despina.desired.labels import ABORT, INVALIDATE_CACHE, OPTIMIZE, PROMOTE, RESTART, RETRY

NOTED = {
    "promote": PROMOTE,
    "abort": ABORT,
    "retry": RETRY,
    "restart": RESTART,
    "clear": INVALIDATE_CACHE,
    "optimise": OPTIMIZE,
}
ROLLBACK = "rollback"
UNPINNED = "none"


class Act(NamedTuple):
    """A button."""

    name: str
    subject: str
    """What it is about: a version, a revision, or empty."""
    label: str
    hint: str


def acts_of(document: dict[str, Any], status: ProgramStatus) -> list[Act]:
    """The buttons that make sense for a program as it is."""
    return [*_of_a_rollout(document, status), *_of_what_serves(mapping(document.get("spec")))]


def _of_a_rollout(document: dict[str, Any], status: ProgramStatus) -> Iterator[Act]:
    candidate, rollout = status.candidate, status.rollout
    if candidate and rollout and rollout.step == "AwaitPromotion":
        yield Act("promote", candidate.revision, f"Promote v{candidate.version}", "Send callers there now")
    if candidate and rollout:
        yield Act("abort", candidate.revision, f"Abort v{candidate.version}", "End this rollout; callers stay")
    for version in dict.fromkeys(entry.version for entry in status.model.quarantined[-3:]):
        yield Act("retry", version, f"Retry v{version}", "Try the quarantined version again")
    pinned = mapping(mapping(document.get("spec")).get("rollout")).get("rollbackTo")
    if pinned is not None:
        yield Act(ROLLBACK, UNPINNED, "End the rollback", "Follow the registry again")
    elif status.previous and status.previous.version.isdecimal():
        version = status.previous.version
        yield Act(ROLLBACK, version, f"Roll back to v{version}", "Serve it whatever the alias says")


def _of_what_serves(spec: dict[str, Any]) -> Iterator[Act]:
    yield Act("restart", "", "Restart", "Replace the pods one after the other")
    if spec.get("cache"):
        yield Act("clear", "", "Clear cache", "Have every pod empty its cache")
    if spec.get("optimization"):
        yield Act("optimise", "", "Optimise", "Begin an optimisation run")


def patch_of(act: Act, now: float) -> dict[str, Any]:
    """What is written to the manifest. A word that was not there before asks anew."""
    if act.name == ROLLBACK:
        version = None if act.subject == UNPINNED else int(act.subject)
        return {"spec": {"rollout": {"rollbackTo": version}}}
    return {"metadata": {"annotations": {NOTED[act.name]: act.subject or f"page-{now:.0f}"}}}


def renewed(act: Act, annotations: dict[str, Any]) -> dict[str, Any] | None:
    """What must be taken away first so that the same word asks again; None where nothing has to be."""
    name = NOTED.get(act.name)
    is_there = name is not None and act.subject and annotations.get(name) == act.subject
    return {"metadata": {"annotations": {name: None}}} if is_there else None

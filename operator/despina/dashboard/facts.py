"""What manifests and Events say, as far as the page needs it: read once, when they change.

All of it is anybody's words, and a later operator may say more: what cannot be read is left out.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from despina.api.status import HistoryEntry, ProgramStatus
from despina.cluster.reading import as_far_as_readable, entries, mapping, text
from despina.dashboard.words import shown
from despina.decide.quarantine import parse_timestamp

Key = tuple[str, str]
"""Namespace and name."""
Document = dict[str, Any]
ENDED = ("Done", "Failed", "RolledBack", "Abandoned")
"""Steps of a rollout that is over."""


class Said(NamedTuple):
    """A condition."""

    status: str = "Unknown"
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """A program's row, without its figures."""

    key: Key
    uid: str
    ready: Said
    up_to_date: Said
    progressing: Said
    version: str
    since: float
    candidate: str
    step: str
    step_since: float
    breaker: str
    breaker_said: str
    score: str
    is_suspended: bool
    packed: bytes
    """The whole document, as it was read."""

    @property
    def document(self) -> Document:
        """The manifest with its status."""
        found: Document = json.loads(zlib.decompress(self.packed))
        return found


class Note(NamedTuple):
    """An Event on a program."""

    at: float
    kind: str
    reason: str
    message: str


def facts_of(document: Document) -> Facts:
    """A program's manifest."""
    meta, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    meta.pop("managedFields", None)
    status = status_of(document)
    rollout, served = status.rollout, serving(status)
    return Facts(
        key=(text(meta.get("namespace")), text(meta.get("name"))),
        uid=text(meta.get("uid")),
        ready=_condition(status, "Ready"),
        up_to_date=_condition(status, "UpToDate"),
        progressing=_condition(status, "Progressing"),
        version=shown(status.active.version, 20) if status.active else "",
        since=parse_timestamp(served.activated_at) if served else 0.0,
        candidate=shown(status.candidate.version, 20) if status.candidate else "",
        step=rollout.step if rollout and rollout.step not in ENDED else "",
        step_since=parse_timestamp(rollout.started_at) if rollout else 0.0,
        breaker=status.breaker.state if status.breaker else "",
        breaker_said=shown(status.breaker.reason) if status.breaker else "",
        score=shown(score_of(status, status.active.revision if status.active else ""), 12),
        is_suspended=spec.get("suspend") is True,
        packed=zlib.compress(json.dumps(document).encode(), 1),
    )


def status_of(document: Document) -> ProgramStatus:
    """Its status, as far as it can be read."""
    return as_far_as_readable(ProgramStatus, mapping(document.get("status"))) or ProgramStatus()


def serving(status: ProgramStatus) -> HistoryEntry | None:
    """What callers reach now, as the record has it."""
    return status.history[-1] if status.history else None


def score_of(status: ProgramStatus, revision: str) -> str:
    """What an evaluation found of a revision, in percent; empty where none is on record."""
    rollout = status.rollout
    if rollout is None or rollout.id != revision:
        return ""
    scores = [gate.score.score_percent for gate in rollout.gates if gate.score and gate.score.score_percent]
    return f"{_rounded(scores[-1])} %" if scores else ""


def _rounded(percent: str) -> str:
    try:
        value = float(percent)
    except ValueError:
        return percent
    return f"{value:.1f}" if math.isfinite(value) else percent


def _condition(status: ProgramStatus, kind: str) -> Said:
    found = next((c for c in status.conditions if c.type == kind), None)
    return Said(found.status.value, shown(found.reason, 60), shown(found.message)) if found else Said()


def note_of(event: Document) -> tuple[Key, Note]:
    """An Event, and the program that it is about."""
    about, meta = mapping(event.get("involvedObject")), mapping(event.get("metadata"))
    at = text(event.get("lastTimestamp")) or text(event.get("eventTime")) or text(meta.get("creationTimestamp"))
    kind = "Warning" if event.get("type") == "Warning" else "Normal"
    note = Note(parse_timestamp(at), kind, shown(text(event.get("reason")), 60), shown(text(event.get("message"))))
    return (text(meta.get("namespace")), text(about.get("name"))), note


def program_of_pod(pod: Document, label: str) -> Key:
    """The program that a pod's label names, within the pod's own namespace."""
    meta = mapping(pod.get("metadata"))
    return text(meta.get("namespace")), text(mapping(meta.get("labels")).get(label))


def address_of(pod: Document) -> str:
    """Where a pod can be asked; empty while it cannot."""
    status, meta = mapping(pod.get("status")), mapping(pod.get("metadata"))
    is_there = status.get("phase") == "Running" and "deletionTimestamp" not in meta
    return text(status.get("podIP")) if is_there else ""


def is_ready(pod: Document) -> bool:
    """Whether Kubernetes sends it requests."""
    found = entries(mapping(pod.get("status")).get("conditions"))
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in found)

"""What the page knows at the moment: every program with its Events, its pods and what they count. No I/O here.

Rows are made when somebody wants to see them, and only when something changed; their events for streams are encoded
once, however many look on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from despina.cluster.reading import mapping, text
from despina.dashboard.counting import Meter
from despina.dashboard.curves import spark
from despina.dashboard.facts import (
    Document,
    Facts,
    Key,
    Note,
    address_of,
    facts_of,
    is_ready,
    note_of,
    program_of_pod,
)
from despina.dashboard.history import History
from despina.dashboard.rates import looked
from despina.dashboard.rows import Row, row_of
from despina.desired.labels import PROGRAM
from despina.wire import Figures, PodState

MOST_NOTES, MOST_PODS = 50, 500
"""Of one program."""
SPARKS = ("requests", "p95")


@dataclass(slots=True)
class Pod:
    """One pod of a program."""

    name: str
    ip: str
    ready: bool
    state: PodState | None = None
    """What it said last; asked only while somebody looks at its program."""


class Encoded(NamedTuple):
    """A row as streams send it."""

    number: int
    """Higher than that of any row before."""
    row: Row
    """What it was made of."""
    data: bytes
    sparks: dict[str, str]


@dataclass(slots=True)
class Known:
    """One program."""

    facts: Facts
    notes: dict[str, Note] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    history: History = field(default_factory=History)
    answered: float = 0.0
    """When a pod last answered."""
    row: Row | None = None
    encoded: Encoded | None = None
    changes: int = 0
    """Of everything that is no figure."""

    def stale(self, is_figure: bool = False) -> None:
        """Something is not as it was."""
        self.row = None
        self.changes += not is_figure


class World:
    """All programs, by namespace and name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.programs: dict[Key, Known] = {}
        self.tools: dict[Key, Document] = {}
        self.silent_since: dict[str, float] = {}
        """Since when the API server says nothing about something."""
        self._numbers = itertools.count(int(clock() * 1000))  # later than those of the process before
        self._early: dict[Key, dict[str, Document]] = {}

    # Manifests

    def set_programs(self, namespace: str, items: Iterable[Document]) -> None:
        """All programs of a namespace."""
        found = {facts_of(item).key: item for item in items}
        for key in [key for key in self.programs if key[0] == namespace and key not in found]:
            del self.programs[key]
        for item in found.values():
            self.set_program(item)

    def set_program(self, item: Document) -> None:
        """One that is new or changed."""
        facts = facts_of(item)
        known = self.programs.get(facts.key)
        if known is None or known.facts.uid != facts.uid:
            self.programs[facts.key] = known = Known(facts)
            for pod in self._early.pop(facts.key, {}).values():
                self.set_pod(pod)
        known.facts = facts
        known.stale()

    def drop_program(self, item: Document) -> None:
        """One that is gone."""
        self.programs.pop(_key(item), None)

    def set_tools(self, namespace: str, items: Iterable[Document]) -> None:
        """All tools of a namespace."""
        self.tools = {key: tool for key, tool in self.tools.items() if key[0] != namespace}
        for item in items:
            self.set_tool(item)

    def set_tool(self, item: Document) -> None:
        """One that is new or changed; only its status is kept."""
        self.tools[_key(item)] = {"status": mapping(item.get("status"))}

    def drop_tool(self, item: Document) -> None:
        """One that is gone."""
        self.tools.pop(_key(item), None)

    # Events

    def set_notes(self, namespace: str, items: Iterable[Document]) -> None:
        """All Events of a namespace."""
        for key, known in self.programs.items():
            if key[0] == namespace:
                known.notes.clear()
        for item in items:
            self.add_note(item)

    def add_note(self, item: Document) -> None:
        """One Event. Of those on a program, the latest are kept."""
        key, note = note_of(item)
        known = self.programs.get(key)
        if known is None:
            return
        known.notes[text(mapping(item.get("metadata")).get("name"))] = note
        if len(known.notes) > MOST_NOTES:
            del known.notes[min(known.notes, key=lambda name: known.notes[name].at)]
        known.changes += 1

    # Pods

    def set_pods(self, namespace: str, items: Iterable[Document]) -> None:
        """All pods of a namespace's programs."""
        there: dict[Key, set[str]] = {}
        for item in items:
            there.setdefault(program_of_pod(item, PROGRAM), set()).add(_key(item)[1])
            self.set_pod(item)
        for key, known in self.programs.items():
            if key[0] == namespace:
                self._stay(known, there.get(key, set()))

    def set_pod(self, item: Document) -> None:
        """One that is new or changed. It may come before its program."""
        key, name = program_of_pod(item, PROGRAM), _key(item)[1]
        known = self.programs.get(key)
        if known is None:
            waiting = self._early.setdefault(key, {}) if len(self._early) < MOST_PODS else {}
            if len(waiting) < MOST_PODS:
                waiting[name] = item
            return
        ip = address_of(item)
        if not ip or (name not in known.pods and len(known.pods) >= MOST_PODS):
            self._stay(known, known.pods.keys() - {name})
            return
        before = known.pods.get(name)
        known.pods[name] = Pod(name, ip, is_ready(item), before.state if before else None)
        known.stale()

    def drop_pod(self, item: Document) -> None:
        """One that is gone."""
        key, name = program_of_pod(item, PROGRAM), _key(item)[1]
        self._early.get(key, {}).pop(name, None)
        if known := self.programs.get(key):
            self._stay(known, known.pods.keys() - {name})

    def _stay(self, known: Known, names: Iterable[str]) -> None:
        kept = set(names)
        known.meter.stay(kept)
        known.pods = {name: pod for name, pod in known.pods.items() if name in kept}
        known.stale()

    # What pods say

    def heard(self, key: Key, uid: str, said: dict[str, Figures | None]) -> None:
        """What a program's pods count now; those that did not answer keep what they had said."""
        known = self.programs.get(key)
        if known is None or known.facts.uid != uid:
            return
        answers = {name: figures for name, figures in said.items() if figures and name in known.pods}
        for name, figures in answers.items():
            known.meter.take(name, figures)
        now = self.clock()
        known.answered = now if answers else known.answered
        if answers or not known.pods:
            known.history.look(looked(now, known.meter.total(), known.meter.gauges()))
        known.stale(is_figure=True)

    def told(self, key: Key, pod: str, state: PodState | None) -> None:
        """What one of its pods holds and serves."""
        known = self.programs.get(key)
        if known and state and pod in known.pods:
            known.pods[pod].state = state

    def said(self, what: str, is_fine: bool) -> None:
        """Whether the API server answers about something."""
        if is_fine:
            self.silent_since.pop(what, None)
        else:
            self.silent_since.setdefault(what, self.clock())

    # What is shown

    def row(self, known: Known) -> Row:
        """A program's row."""
        if known.row is None:
            history = known.history
            gauges, degraded = known.meter.gauges(), history.degraded()
            known.row = row_of(known.facts, history.present(), gauges, degraded, self.clock())
        return known.row

    def rows(self, namespaces: Iterable[str]) -> list[Row]:
        """Those of some namespaces."""
        shown = set(namespaces)
        return [self.row(known) for key, known in self.programs.items() if key[0] in shown]

    def encoded(self, known: Known) -> Encoded:
        """A row for streams; its number is a new one only when something in it is."""
        row, before = self.row(known), known.encoded
        if before is not None and before.row is row:
            return before
        sparks = {name: spark(known.history, name, self.clock()) for name in SPARKS}
        data = json.dumps(
            {"key": "/".join(row.key), "level": row.state.level, "cells": row.cells, "paths": sparks},
            separators=(",", ":"),
        ).encode()
        is_same = before is not None and before.data == data
        number = before.number if before and is_same else next(self._numbers)
        known.encoded = Encoded(number, row, data, sparks)
        return known.encoded

    def number(self) -> int:
        """Of an event, higher than all before."""
        return next(self._numbers)


def _key(item: Any) -> Key:
    meta = mapping(mapping(item).get("metadata"))
    return text(meta.get("namespace")), text(meta.get("name"))

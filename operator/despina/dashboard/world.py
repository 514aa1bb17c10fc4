"""What the page knows at the moment: every program with its Events, its pods and what they count. No I/O here.

Rows are made when somebody wants to see them, and only when something changed; their events for streams are encoded
once, however many look on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from despina.cluster.reading import mapping, text
from despina.dashboard.counting import Meter
from despina.dashboard.curves import Chart, charts, remembered, spark
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
from despina.dashboard.named import Named
from despina.dashboard.past import Past
from despina.dashboard.rates import looked
from despina.dashboard.rows import Row, row_of
from despina.dashboard.words import shown
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
    state: Told | None = None
    """What it said last; asked only while somebody looks at its program."""


class Told(NamedTuple):
    """Of what a pod says of itself, as much as the page shows: all of it may be long."""

    workers: str
    held: str
    trouble: str


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
    notes: dict[str, Note]
    pods: dict[str, Pod]
    meter: Meter = field(default_factory=Meter)
    history: History = field(default_factory=History)
    answered: float = 0.0
    """When a pod last answered."""
    row: Row | None = None
    encoded: Encoded | None = None
    changes: int = 0
    """Of everything that is no figure."""

    def take(self, pod: str, figures: Figures | None, tag: str) -> bool:
        """What one of its pods counts, or that this is as it was; whether that can be told."""
        if figures and pod in self.pods:
            self.meter.take(pod, figures, tag)
            return True
        return not figures and self.meter.same(pod, tag)

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
        self.past = Past(None, clock)
        """What Prometheus says of it, where there is one."""
        self._numbers = itertools.count(int(clock() * 1000))  # later than those of the process before
        self._notes: Named[Note] = Named(self.programs)
        self._pods: Named[Pod] = Named(self.programs)

    # Manifests

    def set_programs(self, namespace: str, items: Iterable[Document]) -> None:
        """All programs of a namespace."""
        found = {facts_of(item).key: item for item in items}
        for key in [key for key in self.programs if key[0] == namespace and key not in found]:
            self._drop(key)
        for item in found.values():
            self.set_program(item)

    def set_program(self, item: Document) -> None:
        """One that is new or changed."""
        facts = facts_of(item)
        known = self.programs.get(facts.key)
        if known is None or known.facts.uid != facts.uid:
            self.programs[facts.key] = Known(facts, {}, {})  # there is one now, so that all about it finds room
            known = Known(facts, self._notes.of(facts.key), self._pods.of(facts.key))
            self.programs[facts.key] = known
        known.facts = facts
        known.stale()

    def drop_program(self, item: Document) -> None:
        """One that is gone."""
        self._drop(_key(item))

    def _drop(self, key: Key) -> None:
        self.programs.pop(key, None)
        self._notes.drop(key)
        self._pods.drop(key)

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
        for key in self._notes.within(namespace):
            self._notes.of(key).clear()
            self._notes.tidy(key)
        for item in items:
            self.add_note(item)

    def add_note(self, item: Document) -> None:
        """One Event. Of those on a program, the latest are kept."""
        key, note = note_of(item)
        notes = self._notes.of(key)
        notes[text(mapping(item.get("metadata")).get("name"))] = note
        if len(notes) > MOST_NOTES:
            del notes[min(notes, key=lambda name: notes[name].at)]
        if known := self.programs.get(key):
            known.changes += 1

    def drop_note(self, item: Document) -> None:
        """One Event that Kubernetes keeps no longer."""
        key, _ = note_of(item)
        if self._notes.of(key).pop(text(mapping(item.get("metadata")).get("name")), None) and key in self.programs:
            self.programs[key].changes += 1
        self._notes.tidy(key)

    # Pods

    def set_pods(self, namespace: str, items: Iterable[Document]) -> None:
        """All pods of a namespace's programs."""
        there: dict[Key, set[str]] = {}
        for item in items:
            there.setdefault(program_of_pod(item, PROGRAM), set()).add(_key(item)[1])
            self.set_pod(item)
        for key in self._pods.within(namespace):
            for name in self._pods.of(key).keys() - there.get(key, set()):
                self._end(key, name)

    def set_pod(self, item: Document) -> None:
        """One that is new or changed; one that cannot be asked is none."""
        key, name = program_of_pod(item, PROGRAM), _key(item)[1]
        pods, ip = self._pods.of(key), address_of(item)
        before = pods.get(name)
        if not ip:
            self._end(key, name)
        elif before or len(pods) < MOST_PODS:
            pods[name] = Pod(name, ip, is_ready(item), before.state if before else None)
            self._turn(key)

    def drop_pod(self, item: Document) -> None:
        """One that is gone."""
        self._end(program_of_pod(item, PROGRAM), _key(item)[1])

    def _end(self, key: Key, name: str) -> None:
        if self._pods.of(key).pop(name, None):
            self._turn(key)
        self._pods.tidy(key)

    def _turn(self, key: Key) -> None:
        """A program's pods are others."""
        if known := self.programs.get(key):
            known.meter.stay(known.pods)
            known.stale()

    # What pods say

    def heard(
        self, key: Key, uid: str, said: Mapping[str, Figures | None], tags: Mapping[str, str] | None = None
    ) -> None:
        """What a program's pods count now; what those that did not answer had counted is kept. A pod with nothing but
        the tag that it had says the same as before."""
        known = self.programs.get(key)
        if known is None or known.facts.uid != uid:
            return
        answers = {name for name, figures in said.items() if known.take(name, figures, (tags or {}).get(name, ""))}
        known.meter.miss(said.keys() - answers)
        now = self.clock()
        known.answered = now if answers else known.answered
        if answers or not known.pods:
            known.history.look(looked(now, known.meter))
        elif known.meter.is_silent():
            known.history.forget_present()
        known.stale(is_figure=True)

    def told(self, key: Key, pod: str, state: PodState | None) -> None:
        """What one of its pods holds and serves."""
        known = self.programs.get(key)
        if known and state and pod in known.pods:
            known.pods[pod].state = told_of(state)

    def said(self, what: str, is_fine: bool) -> None:
        """Whether the API server answers about something."""
        if is_fine:
            self.silent_since.pop(what, None)
        else:
            self.silent_since.setdefault(what, self.clock())

    # What is shown

    def charts(self, known: Known, span: str) -> dict[str, Chart]:
        """A program's curves: out of Prometheus where it answers, else those that are remembered."""
        found = self.past.curves(known.facts.key, span)
        return charts(found if found is not None else remembered(known.history, span, self.clock()))

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


def told_of(state: PodState) -> Told:
    """What is kept of it."""
    held = ", ".join(f"{shown(name, 20)} {held.phase}" for name, held in list(state.held.items())[:3])
    trouble = shown(state.feedback.trouble) if state.feedback else ""
    return Told(f"{state.workers}/{state.wanted_workers or state.workers}", held, trouble)


def _key(item: Any) -> Key:
    meta = mapping(mapping(item).get("metadata"))
    return text(meta.get("namespace")), text(meta.get("name"))

"""The API server, in memory: objects with uids and resource versions, and the operator's client of it.

Documents are replaced and never changed, so that a copy of the tables is a copy of everything. What is left out: schemas
(other than that a ConfigMap may be immutable), defaults, and field ownership, of which only one thing is kept: annotations
that were applied and are applied no more go away, and others' stay.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from despina.cluster.errors import Conflict, Gone, Unavailable, error_for
from despina.decide.quarantine import timestamp

Document = dict[str, Any]
SERVERS_OWN = ("uid", "creationTimestamp", "resourceVersion")
READ, CREATE, PATCH, DELETE = "read", "create", "patch", "delete"
STATUS = "DSPyProgram/status"
ANSWER_LOST, NEVER_ARRIVED = 1, 0
"""Two ways for a request to time out; the other ways to fail are HTTP's own numbers."""


@dataclass
class Api:
    """All objects of one namespace."""

    changed: Callable[[str, str], None] = lambda kind, name: None
    """Called after each change of an object, whoever made it."""
    clock: Callable[[], float] = lambda: 0.0
    objects: dict[str, dict[str, Document]] = field(default_factory=dict)
    applied: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """The annotations of each object that are there because they were applied."""
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    """What the operator is refused now, by kind and verb."""
    version: int = 1
    """Of the last write, as etcd counts."""
    writes: list[tuple[str, str, str]] = field(default_factory=list)
    """Of the operator: verb, kind and name."""

    def of(self, kind: str) -> dict[str, Document]:
        return self.objects.setdefault(kind, {})

    def get(self, kind: str, name: str) -> Document | None:
        return self.of(kind).get(name)

    def put(self, document: Document) -> Document:
        """Store an object as it is, but for what the server itself counts. Nothing happens if it says nothing new."""
        kind, meta = document["kind"], document["metadata"]
        old = self.get(kind, meta["name"])
        if old is not None and _unversioned(old) == _unversioned(document):
            return old
        self.version += 1
        before = (old or {"metadata": meta})["metadata"]
        mine = {
            "uid": before.get("uid") or f"uid-{self.version}",
            "creationTimestamp": before.get("creationTimestamp") or timestamp(self.clock()),
            "resourceVersion": str(self.version),
        }
        new = {**document, "metadata": {**meta, **mine}}
        self.of(kind)[meta["name"]] = new
        self.changed(kind, meta["name"])
        return new

    def drop(self, kind: str, name: str) -> None:
        if self.of(kind).pop(name, None) is not None:
            self.version += 1
            self.applied.pop((kind, name), None)
            self.changed(kind, name)

    def change(self, kind: str, name: str, **parts: Any) -> None:
        """Replace top-level parts of an object."""
        self.put({**self.of(kind)[name], **parts})

    def note(self, kind: str, name: str, notes: dict[str, str | None]) -> None:
        """Set annotations of an object; None takes one away."""
        document = self.of(kind)[name]
        meta = document["metadata"]
        merged = {k: v for k, v in ((meta.get("annotations") or {}) | notes).items() if v is not None}
        self.put({**document, "metadata": {**meta, "annotations": merged}})

    def copy(self) -> dict[str, dict[str, Document]]:
        return {kind: dict(table) for kind, table in self.objects.items()}


def _unversioned(document: Document) -> Document:
    meta = {k: v for k, v in document["metadata"].items() if k not in SERVERS_OWN}
    return {**document, "metadata": meta}


@types.coroutine
def _pause() -> Generator[None, None, None]:
    yield


@dataclass
class Client:
    """What the operator takes for its `Cluster`. It may be stopped before any of its requests, to go on later or never."""

    api: Api
    pause_in: int | None = None
    """The number of requests until it is stopped."""

    async def get(self, kind: str, namespace: str, name: str) -> Document | None:
        await self._turn(kind, READ)
        return self.api.get(kind, name)

    async def list(self, kind: str, namespace: str, labels: dict[str, str | None]) -> list[Document]:
        await self._turn(kind, READ)
        labelled = ((d, d["metadata"].get("labels") or {}) for d in self.api.of(kind).values())
        return [d for d, has in labelled if all(k in has and v in (None, has[k]) for k, v in labels.items())]

    async def create(self, document: Document) -> None:
        kind, name = document["kind"], document["metadata"]["name"]
        lost = await self._turn(kind, CREATE, name)
        if self.api.get(kind, name):
            raise Conflict(f"{kind} {name} exists")
        if kind != "Event":
            self.api.put(document)
        _answer(lost)

    async def apply(self, document: Document) -> Document:
        kind, meta = document["kind"], document["metadata"]
        name = meta["name"]
        lost = await self._turn(kind, PATCH, name)
        old = self.api.get(kind, name)
        if old:  # what is not there is made, whatever version is given
            self._check(old, meta.get("resourceVersion"), f"{kind} {name}")
        if old and old.get("immutable") and old.get("data") != document.get("data"):
            raise error_for(422, f"PATCH {kind} {name}", "field is immutable when `immutable` is set")
        before = self.api.applied.get((kind, name), frozenset())
        theirs = {
            k: v for k, v in ((old or {}).get("metadata", {}).get("annotations") or {}).items() if k not in before
        }
        ours = meta.get("annotations") or {}
        notes = {"annotations": theirs | ours} if theirs or ours else {}
        self.api.applied[kind, name] = frozenset(ours)
        plain = {k: v for k, v in meta.items() if k not in ("annotations", "resourceVersion")}
        return _answer(lost, self.api.put({**document, "metadata": plain | notes}))

    async def apply_status(self, document: Document) -> Document:
        kind, meta = document["kind"], document["metadata"]
        lost = await self._turn(f"{kind}/status", PATCH, meta["name"])
        old = self.api.get(kind, meta["name"])
        if old is None:
            raise Gone(f"{kind} {meta['name']}")
        self._check(old, meta.get("resourceVersion"), f"{kind} {meta['name']}")
        return _answer(lost, self.api.put({**old, "status": document["status"]}))

    async def label(self, kind: str, namespace: str, name: str, version: str, labels: dict[str, str]) -> Document:
        def changes(d: Document) -> Document:
            return {"metadata": {**d["metadata"], "labels": (d["metadata"].get("labels") or {}) | labels}}

        return await self._merge(kind, name, version, changes)

    async def scale(self, namespace: str, deployment: str, version: str | None, replicas: int) -> Document:
        return await self._merge(
            "Deployment/scale", deployment, version, lambda d: {"spec": {**d["spec"], "replicas": replicas}}
        )

    async def annotate(self, namespace: str, deployment: str, version: str | None, notes: dict[str, str]) -> Document:
        return await self._merge(
            "Deployment", deployment, version, lambda d: {"metadata": _noted(d["metadata"], notes)}
        )

    async def restart(
        self, namespace: str, deployment: str, version: str | None, pod_notes: dict[str, str], notes: dict[str, str]
    ) -> Document:
        def changes(d: Document) -> Document:
            template = d["spec"]["template"]
            made = {**template, "metadata": _noted(template["metadata"], pod_notes)}
            return {"metadata": _noted(d["metadata"], notes), "spec": {**d["spec"], "template": made}}

        return await self._merge("Deployment", deployment, version, changes)

    async def delete(self, kind: str, namespace: str, name: str, version: str | None = None) -> None:
        lost = await self._turn(kind, DELETE, name)
        old = self.api.get(kind, name)
        if old:
            self._check(old, version, f"{kind} {name}")
            self.api.drop(kind, name)
        _answer(lost)

    async def _merge(
        self, kind: str, name: str, version: str | None, changes: Callable[[Document], Document]
    ) -> Document:
        lost = await self._turn(kind, PATCH, name)
        old = self.api.get(kind.partition("/")[0], name)
        if old is None:
            raise Gone(f"{kind} {name}")
        self._check(old, version, f"{kind} {name}")
        return _answer(lost, self.api.put({**old, **changes(old)}))

    async def _turn(self, kind: str, verb: str, name: str = "") -> bool:
        """Wait for one's turn; raises what the server refuses. Whether the answer will be lost."""
        if self.pause_in is not None:
            self.pause_in -= 1
            if self.pause_in < 0:
                self.pause_in = None
                await _pause()
        status = self.api.refused.get((kind, verb))
        if status == NEVER_ARRIVED:
            raise Unavailable(f"{verb} {kind}: timed out")
        if status not in (None, ANSWER_LOST):
            raise error_for(status, f"{verb} {kind}", "refused for a while")
        if verb != READ:
            self.api.writes.append((verb, kind, name))
        return status == ANSWER_LOST

    @staticmethod
    def _check(old: Document, version: str | None, what: str) -> None:
        if version and old["metadata"]["resourceVersion"] != version:
            raise Conflict(f"{what} has changed meanwhile")


def _noted(meta: Document, notes: dict[str, str]) -> Document:
    return {**meta, "annotations": (meta.get("annotations") or {}) | notes}


def _answer(is_lost: bool, document: Document | None = None) -> Any:
    if is_lost:
        raise Unavailable("the answer was lost")
    return document


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each part of a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for k, v in items for place in [(*path, k), *places(v, (*path, k))]]


def with_part(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with one part replaced, or without it where the value is None."""
    key, rest = path[0], path[1:]
    new = with_part(document[key], rest, value) if rest else value
    if isinstance(document, dict):
        return {k: v for k, v in {**document, key: new}.items() if v is not None}
    return [v for v in [*document[:key], new, *document[key + 1 :]] if v is not None]

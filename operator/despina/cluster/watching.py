"""Following all objects of a kind, for those who only look: listed once, then watched, listed anew when that breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from despina.cluster.client import Cluster, Document
from despina.cluster.errors import ClusterError, Gone

log = logging.getLogger(__name__)
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 30.0


@dataclass(frozen=True)
class Followed:
    """What is followed, and who is told. All of it is called in the event loop's own thread."""

    kind: str
    namespace: str
    all: Callable[[list[Document]], None]
    """What is there; whatever else was known is not any more."""
    changed: Callable[[Document], None]
    gone: Callable[[Document], None]
    fine: Callable[[bool], None]
    """Whether the API server answers."""
    params: dict[str, Any]
    """Such as `label_selector`."""


async def follow(cluster: Cluster, what: Followed) -> None:
    """For ever."""
    wait = SHORTEST_WAIT
    while True:
        try:
            items, version = await cluster.listed(what.kind, what.namespace, **what.params)
            what.all(items)
            what.fine(True)
            wait = SHORTEST_WAIT
            await _watch(cluster, what, version)
        except ClusterError as exc:
            what.fine(isinstance(exc, Gone))
            log.warning("Not followed kind=%s namespace=%s error=%s", what.kind, what.namespace, exc)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def _watch(cluster: Cluster, what: Followed, version: str) -> None:
    """Until the API server no longer knows what comes after a version."""
    while True:
        before = version
        async for event in cluster.watched(what.kind, what.namespace, version, **what.params):
            if event.get("type") == "ERROR":
                await asyncio.sleep(SHORTEST_WAIT)
                return
            version = _told(what, event) or version
        if version == before:
            await asyncio.sleep(SHORTEST_WAIT)  # one that ends each watch at once must not be asked without end


def _told(what: Followed, event: Document) -> str:
    """Pass one event on, and say up to which version all is known."""
    item: Document = event.get("object") or {}
    match event.get("type"):
        case "ADDED" | "MODIFIED":
            what.changed(item)
        case "DELETED":
            what.gone(item)
    return str((item.get("metadata") or {}).get("resourceVersion") or "")

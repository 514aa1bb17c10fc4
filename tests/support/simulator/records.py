"""What the operator wrote down of versions that failed, as it stands in its objects."""

from __future__ import annotations

from despina.api.status import Memory
from despina.desired.labels import MEMORY
from tests.support.simulator.api import Document


def quarantined(document: Document) -> list[Document]:
    """The entries of a status that somebody may have damaged."""
    try:
        return [e for e in document["status"]["model"]["quarantined"] if isinstance(e["version"], str)]
    except (KeyError, TypeError):
        return []


def remembered(service: Document) -> list[Document]:
    """The entries of the other record."""
    memory = memory_on(service)
    return [entry.dump() for entry in memory.quarantined] if memory else []


def memory_on(service: Document) -> Memory | None:
    """The other record, as far as it can be read."""
    return Memory.parse(notes(service).get(MEMORY))


def notes(document: Document) -> dict[str, str]:
    return document["metadata"].get("annotations") or {}


def fact(entry: Document) -> tuple[str, ...]:
    return tuple(str(entry.get(part)) for part in ("version", "revision", "reason", "at"))

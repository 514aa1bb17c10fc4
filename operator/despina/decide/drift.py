"""Whether a live object still says what Despina wants it to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, DecimalException
from typing import Any

from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Apply

SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def quantity(text: Any) -> Decimal | None:
    """A Kubernetes quantity as a number: the API server writes 0.1 back as 100m. None for anything else."""
    text = str(text)
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if s and text.endswith(s)), "")
    try:
        found = Decimal(text.removesuffix(suffix)) * SUFFIXES[suffix]
    except DecimalException:
        return None
    return found if found.is_finite() else None


def covers(live: Any, wanted: Any) -> bool:
    """Whether everything in `wanted` stands in `live`, which may hold more: defaults, and others' fields."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(k in live and covers(live[k], v) for k, v in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return bool(live == wanted) or (quantity(wanted) is not None and quantity(live) == quantity(wanted))


def has_drifted(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether an object must be applied again. A selector is compared whole: one more label would empty it.

    Lists of the API server leave out each item's apiVersion and kind; who asks has looked up the right one.
    """
    if live is None:
        return True
    if not all(covers(live.get(part), wanted[part]) for part in wanted if part not in ("apiVersion", "kind")):
        return True
    if "data" in wanted and (live.get("data") or {}) != wanted["data"]:
        return True  # what stands in a Secret or a ConfigMap beside what should is too much
    return bool(_selector(live) != _selector(wanted))


def _selector(document: Mapping[str, Any]) -> Any:
    return document.get("spec", {}).get("selector")


def applied(objects: Mapping[ObjectKey, Any], document: dict[str, Any]) -> Iterator[Action]:
    """Apply an object unless it already says what it should: at rest, nothing is written."""
    if has_drifted(objects.get((document["kind"], document["metadata"]["name"])), document):
        yield Apply(document)

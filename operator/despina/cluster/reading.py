"""Reading what others may have written: a later operator, a person, a restored backup. Nothing of it may end a pass.

What cannot be read is left out, and as little as possible with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from despina.api.base import Owner
from despina.cluster.client import Document
from despina.decide.quarantine import LAST_MOMENT

Model = TypeVar("Model", bound=BaseModel)
Parsed = TypeVar("Parsed")
Place = tuple[int | str, ...]


def mapping(value: Any) -> Document:
    """An object of a document, or an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Document]:
    """The objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """A text, or an empty one."""
    return value if isinstance(value, str) else ""


def labels_of(item: Document) -> dict[str, str]:
    """An object's labels."""
    return _texts(item["metadata"].get("labels"))


def labels_of_pods(item: Document) -> dict[str, str]:
    """Those that a Deployment gives its pods."""
    template = mapping(mapping(item.get("spec")).get("template"))
    return _texts(mapping(template.get("metadata")).get("labels"))


def notes_of(item: Document) -> dict[str, str]:
    """An object's annotations."""
    return _texts(item["metadata"].get("annotations"))


def is_owned(item: Document, owner: Owner) -> bool:
    """Whether an object is its owner's, by reference: a label can be anybody's."""
    return names_owner(item, owner.uid)


def names_owner(item: Document, uid: str) -> bool:
    """Whether an object's references name this owner."""
    return any(one.get("uid") == uid for one in entries(item["metadata"].get("ownerReferences")))


def condition(item: Document, kind: str, status: str = "True") -> Document | None:
    """A condition of an object, if it stands at this."""
    found = entries(mapping(item.get("status")).get("conditions"))
    return next((c for c in found if c.get("type") == kind and c.get("status") == status), None)


def data_of(item: Document | None) -> dict[str, str]:
    """What stands in a ConfigMap."""
    return _texts((item or {}).get("data"))


def _texts(value: Any) -> dict[str, str]:
    return {k: v for k, v in mapping(value).items() if isinstance(v, str)}


def parsed(kind: TypeAdapter[Parsed], value: str | None) -> Parsed | None:
    """A JSON text as what it should be, or None. Pydantic's parser, unlike Python's, knows an end of nesting."""
    try:
        return kind.validate_json(value or "")
    except ValueError:
        return None


def moment(value: str | None) -> float | None:
    """Seconds since the epoch, if it is a time that there can be."""
    try:
        found = float(value) if value else -1.0
    except ValueError:
        return None
    return found if 0 <= found <= LAST_MOMENT else None


def as_far_as_readable(model: type[Model], document: Any) -> Model | None:
    """A document without the fields that are unknown or damaged, and without the entries that are nothing without them.

    Of a list that is too long, the last entries are kept.
    """
    while True:
        try:
            return model.model_validate(document, by_alias=True, by_name=False)
        except ValidationError as exc:
            less = _without_errors(document, exc)
        if less == document:
            return None
        document = less


def _without_errors(document: Any, exc: ValidationError) -> Any:
    errors = exc.errors(include_url=False, include_input=False)
    most = {e["loc"]: e["ctx"]["max_length"] for e in errors if e["type"] == "too_long"}
    damaged = {e["loc"][:-1] if e["type"] == "missing" else e["loc"] for e in errors}
    # From the last place to the first, so that what is left out of a list moves nothing that is still to be found.
    for place in sorted(damaged, key=lambda loc: [(isinstance(p, str), p) for p in loc], reverse=True):
        if place in most:
            document = _changed(document, place, partial(_last, most[place]))
        else:
            document = _without(document, place)
    return document


def _last(length: int, found: Any) -> Any:
    return found[-length:]


def _without(document: Any, place: Place) -> Any:
    """A document without what stands in one place; None without all of it."""
    if not place:
        return None
    *above, last = place

    def left_out(found: Any) -> Any:
        if isinstance(found, dict):
            return {k: v for k, v in found.items() if k != last}
        return [one for n, one in enumerate(found) if n != last]

    return _changed(document, tuple(above), left_out)


def _changed(document: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A document with one place changed; the one that is given stays as it is."""
    if not place:
        return change(document)
    copy = document.copy()
    copy[place[0]] = _changed(document[place[0]], place[1:], change)
    return copy

"""A snapshot as a file: what a decision was made from, so that it can be looked at, and made again, anywhere.

A file holds no secret. Tools' tokens and the data of Secrets become markers, equal where the values were equal, which
is all that decisions ask of them. The manifest stays as it is: whoever may read the program may read the file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from despina import __version__
from despina.api import GROUP
from despina.api.tool import Tool
from despina.decide.observed import ObjectKey, Observed
from despina.desired.toolbox import ToolView

Document = Mapping[str, Any]
Mark = Callable[[str], str]
"""What stands in the file for a secret value."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
SHOWN_PROBLEMS = 3


class SnapshotError(ValueError):
    """A file that is no snapshot, or one that this Despina cannot read."""


class Snapshot(BaseModel):
    """What was seen of a program at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    despina: str
    """The version that wrote it."""
    now: float
    """When, in seconds since the epoch."""
    unseen: tuple[str, ...] = ()
    """What could not be seen, or was assumed, in sentences."""
    observed: Observed


def snapshot_of(o: Observed, now: float, unseen: tuple[str, ...] = ()) -> Snapshot:
    """A snapshot by this Despina."""
    return Snapshot(despina=__version__, now=now, unseen=unseen, observed=o)


def dump(snapshot: Snapshot) -> str:
    """As JSON, without secrets and without what is as by default."""
    bare = snapshot.model_copy(update={"observed": withheld(snapshot.observed)})
    text = bare.model_dump_json(indent=1, by_alias=True, exclude_defaults=True, warnings="none") + "\n"
    for number, key in enumerate(_read_keys(snapshot.observed)):  # they stand in configurations, and in texts of them
        text = text.replace(key, f"withheld-read-key-{number + 1}")
    return text


def _read_keys(o: Observed) -> Iterable[str]:
    configs = [*(config for view in o.deployments for config in view.configs), *o.configs.values()]
    return dict.fromkeys(key for key in (o.read_key, *(config.read_key for config in configs)) if key)


def load(text: str | bytes) -> Snapshot:
    """The inverse; raises SnapshotError."""
    try:
        writer = from_json(text)["despina"]
    except (ValueError, TypeError, KeyError) as exc:
        raise SnapshotError("this is not a snapshot: `despina why NAME --save FILE` writes one") from exc
    try:
        return Snapshot.model_validate_json(text)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)[:SHOWN_PROBLEMS]
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors)
        text = f"Despina {writer} wrote this snapshot, and this one ({__version__}) cannot read it: {found}"
        raise SnapshotError(text) from exc


def withheld(o: Observed) -> Observed:
    """The snapshot without secrets, and without what decisions never look at and other tools may have put there."""
    markers: dict[str, str] = {}

    def mark(secret: str) -> str:
        return markers.setdefault(secret, f"withheld-{len(markers) + 1}")

    return replace(
        o,
        program=o.program.model_copy(update={"annotations": _own(o.program.annotations)}),
        tools=tuple(_tool(view, mark) for view in o.tools),
        redis_seal=o.redis_seal and mark(o.redis_seal),
        objects={key: _object(key, document, mark) for key, document in o.objects.items()},
    )


def _tool(view: ToolView, mark: Mark) -> ToolView:
    tool: Tool | None = view.tool and view.tool.model_copy(update={"annotations": _own(view.tool.annotations)})
    return replace(view, tool=tool, tokens={file: mark(token) for file, token in view.tokens.items()})


def _own(annotations: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in annotations.items() if name.startswith(f"{GROUP}/")}


def _object(key: ObjectKey, document: Document, mark: Mark) -> Document:
    meta = {name: value for name, value in (document.get("metadata") or {}).items() if name != "managedFields"}
    if LAST_APPLIED in (meta.get("annotations") or {}):
        meta["annotations"] = {n: v for n, v in meta["annotations"].items() if n != LAST_APPLIED}
    bare = {**document, "metadata": meta}
    if key[0] != "Secret":
        return bare
    data = {name: _encoded(mark(_decoded(value))) for name, value in (document.get("data") or {}).items()}
    return {name: value for name, value in bare.items() if name != "stringData"} | {"data": data}


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, ValueError):
        return value


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()

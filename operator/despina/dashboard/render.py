"""Templates, which escape whatever they are given, and the files that pages load."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from despina.dashboard import words
from despina.dashboard.rows import ICONS

STATIC = files("despina.dashboard") / "static"


class Asset(NamedTuple):
    """A file that pages load."""

    body: bytes
    kind: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """All of them, by name."""
    found = {}
    for path in STATIC.iterdir():
        body, kind = path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        found[path.name] = Asset(body, kind, hashlib.sha256(body).hexdigest()[:16])
    return found


def asset(name: str) -> str:
    """Where a page finds a file: another file has another address, and so it may be kept for ever."""
    return f"/static/{assets()[name].tag}/{name}"


@cache
def style() -> Markup:
    """What every page looks like. It stands in the page itself: a browser draws nothing before it has it, and would ask
    for it over another connection, behind the rows of the page."""
    return Markup(assets()["style.css"].body.decode())  # noqa: S704 - our own file


def style_source() -> str:
    """What a policy lets it stand there by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("despina.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    used: dict[str, Callable[..., Any]] = {"asset": asset, "clock": words.clock}
    made.globals.update(used, ICONS=ICONS, style=style())
    return made


def template(name: str) -> Template:
    """One of the templates."""
    return _environment().get_template(name)


def rendered(name: str, **values: Any) -> str:
    """A whole page."""
    return template(name).render(values)

"""What became of a question by hand, as people read it (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from despina.cluster.reading import mapping, text
from despina.dashboard import words
from despina.dashboard.quoted import quoted
from despina.dashboard.rows import BAD, OK, WARN
from despina.wire import Answered
from despina.wire.predictions import unsigned

MOST_OUTPUTS = 100
CUT = "It was too long to be told whole: this is how it begins."


class Shown(NamedTuple):
    """An answer."""

    level: str
    word: str
    text: str
    outputs: list[tuple[str, str]]
    """Each with its name."""
    figures: list[tuple[str, str]]
    id: str
    """Its trace's, without what proves it; empty where there is none."""


def read(said: str) -> Any:
    """What somebody wrote as JSON; the text itself where it is none."""
    try:
        return from_json(said)
    except ValueError:
        return said


def said_of(answered: Answered) -> Mapping[str, Any]:
    """What it says, if that is an object."""
    return mapping(read(answered.said))


def as_text(value: Any) -> str:
    """A value as people read it: a text as it is, others as JSON over several lines."""
    if isinstance(value, str):
        return quoted(value)
    try:
        return quoted(json.dumps(value, indent=1, ensure_ascii=False))
    except (ValueError, RecursionError):
        return "(a value that cannot be shown)"


def outputs_of(value: Any) -> dict[str, str]:
    """Outputs by their names; what is no object is one without a name."""
    if not isinstance(value, dict):
        return {"": as_text(value)}
    return {words.shown(name, 100): as_text(one) for name, one in list(value.items())[:MOST_OUTPUTS]}


def shown_answer(answered: Answered) -> Shown:
    """All of it."""
    said, is_good = said_of(answered), answered.status == 200
    level = OK if is_good else WARN if 400 <= answered.status < 500 else BAD
    outputs = outputs_of(read(answered.said)) if is_good else {}
    title, detail = (words.shown(text(said.get(name)), 600) for name in ("title", "detail"))
    told = (CUT if answered.is_cut else "") if is_good else ": ".join(part for part in (title, detail) if part)
    name = unsigned(answered.id)  # whoever asks may not say by that what was right
    return Shown(level, f"{answered.status}", told, list(outputs.items()), figures_of(answered), name)


def figures_of(answered: Answered) -> list[tuple[str, str]]:
    """What it took."""
    version = words.shown(answered.version, 20)
    return [
        ("Version", f"v{version}" if version else words.NOTHING),
        ("Took", words.seconds(answered.seconds)),
        ("LM calls", words.number(answered.lm_attempts)),
        ("Tokens in", words.number(answered.input_tokens)),
        ("Tokens out", words.number(answered.output_tokens)),
        ("Cost", cost(answered.cost_usd)),
    ]


def cost(said: str) -> str:
    """An amount that stands in decimal digits; nothing where no price is known."""
    try:
        return words.dollars(float(said)) if said else words.NOTHING
    except ValueError:
        return words.NOTHING

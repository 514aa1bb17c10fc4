"""What somebody says of an answer, from the form under its trace to a label (pure)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from despina.cluster.reading import text
from despina.dashboard import words
from despina.wire.labels import DEEPEST, LONGEST_LABEL, LONGEST_REASON, LONGEST_SOURCE, Label, Word, is_deep
from despina.wire.predictions import Prediction

WORDS: tuple[Word, ...] = ("failure", "success")


class Unfit(Exception):
    """What was sent is no label; says which field is wrong, and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Sent(NamedTuple):
    """A form as it was filled in."""

    label: str = ""
    reason: str = ""
    expected: str = ""

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> Sent:
        """What was sent; browsers end lines in their own way."""
        return cls(*(text(form.get(name)).replace("\r\n", "\n").strip() for name in cls._fields))


def label_of(sent: Sent, prediction: Prediction, outputs: Collection[str], who: str, at: float) -> Label:
    """The label of whoever has the right to give one, which is why it is trusted; `outputs` are those that are known of
    the revision. Raises Unfit."""
    word = next((one for one in WORDS if one == sent.label), None)
    if word is None:
        raise Unfit("label", "say whether it was a failure or a success")
    if len(sent.reason) > LONGEST_REASON:
        raise Unfit("reason", f"the reason has at most {LONGEST_REASON} characters")
    expected = _expected(sent.expected, outputs)
    source = words.shown(who, LONGEST_SOURCE)
    said = {"reason": _clean(sent.reason), "expected": expected, "source": source, "is_trusted": True}
    label = Label.on(prediction, word, at, **said)
    if len(label.model_dump_json()) > LONGEST_LABEL:
        raise Unfit("expected", f"a label has at most {LONGEST_LABEL} bytes")
    return label


def _expected(written: str, outputs: Collection[str]) -> dict[str, Any] | None:
    if not written:
        return None
    found = _read(written)
    if not isinstance(found, dict) or not found:
        raise Unfit("expected", 'write a JSON object of outputs, such as {"answer": "…"}, or nothing')
    if is_deep(found):
        raise Unfit("expected", f"at most {DEEPEST} levels of lists and objects")
    unknown = sorted(found.keys() - outputs) if outputs else []
    if unknown:
        named = ", ".join(words.shown(name, 40) for name in sorted(outputs))
        raise Unfit("expected", f"{words.shown(unknown[0], 40)} is no output; outputs are {named}")
    return found


def _read(written: str) -> Any:
    try:
        found = json.loads(written, parse_constant=_refused)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _clean(reason: str) -> str:
    """Half a letter can stand in a form, and in no file."""
    return reason.encode(errors="replace").decode()

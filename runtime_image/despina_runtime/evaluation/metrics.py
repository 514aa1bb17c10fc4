"""The metrics that have a name of their own. Whoever is scored cannot reach them: they run where its code does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from despina_runtime.cache.keys import canonical

WORD = re.compile(r"\w+")
Fields = Mapping[str, Any]


def _pairs(expected: Fields, outputs: Fields) -> list[tuple[str, str]]:
    return [(_text(value), _text(outputs.get(name))) for name, value in expected.items()]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else canonical(value).decode()


def exact_match(expected: Fields, outputs: Fields) -> float:
    """1.0 when every expected field is equal."""
    return float(all(wanted == found for wanted, found in _pairs(expected, outputs)))


def contains(expected: Fields, outputs: Fields) -> float:
    """1.0 when every expected text stands somewhere in its field."""
    return float(all(wanted.lower() in found.lower() for wanted, found in _pairs(expected, outputs)))


def f1(expected: Fields, outputs: Fields) -> float:
    """The mean over the expected fields of the F1 of words, as in SQuAD."""
    scores = [_f1(wanted, found) for wanted, found in _pairs(expected, outputs)]
    return sum(scores) / len(scores)


def _f1(expected: str, found: str) -> float:
    wanted, given = Counter(WORD.findall(expected.lower())), Counter(WORD.findall(found.lower()))
    common = (wanted & given).total()
    return 2 * common / (wanted.total() + given.total()) if common else 0.0


BUILT_IN: dict[str, Callable[[Fields, Fields], float]] = {"ExactMatch": exact_match, "Contains": contains, "F1": f1}

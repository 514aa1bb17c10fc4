"""What of callers' words is kept: nothing, what no rule hides, or all of it (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

HIDDEN = "[redacted]"
PATTERNS = (
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",  # addresses of e-mail
    r"\b(?:\d[ -]?){13,19}\b",  # numbers of cards and accounts
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",  # IBAN
    r"(?i:\bbearer\s+[\w.~+/=-]{8,})",
    r"\b(?:sk|pk|ghp|gho|xox[abpr]|AKIA|eyJ)[\w-]{12,}(?:\.[\w-]+)*",  # keys and tokens of well-known services
    r"(?i:\b(?:password|passwd|secret|api[_-]?key|token)\b\s*[:=]\s*\S+)",
)
"""What Redacted hides beside the manifest's own: what is never needed to judge an answer."""
Hide = Callable[[Any], Any]


def redactor(fields: Iterable[str], patterns: Iterable[str]) -> Hide:
    """A function that gives a JSON value without what is hidden: values of these fields at any depth, and what the
    patterns find in texts. Equal values are given back as they are."""
    hidden = frozenset(fields)
    found = re.compile("|".join(f"(?:{p})" for p in (*PATTERNS, *patterns)))

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return found.sub(HIDDEN, value)
        if isinstance(value, dict):
            return {hide(k): HIDDEN if k in hidden else hide(v) for k, v in value.items()}
        if isinstance(value, list):
            return [hide(one) for one in value]
        return value

    return hide

"""Reading what LMs write for JSON, in bounded time: on the event loop everybody else waits meanwhile.

`json_repair` and the pattern by which DSPy looks for an object take time with the square of a text's length, or more,
if somebody wants them to; and a prompt can tell an LM what to write. Python's own parser, which reads what is no JSON
but may be a value of Python's, takes seconds and hundreds of megabytes for the longest answers. JSON that is valid is
read whatever its length.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import json_repair
import regex  # type: ignore[import-untyped]

from despina_runtime import compat

LONGEST_REPAIRED = 2048
"""Characters of a text that is no JSON and is mended."""
LONGEST_LITERAL = 2**15
"""Characters of a value of Python's."""
SEARCH_SECONDS = 0.2
LONE_SURROGATES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_repair, _search = json_repair.loads, regex.search


def loads(text: str, *args: Any, **options: Any) -> Any:
    """As `json_repair.loads`; empty, which is its word for failure, for what is long and no JSON."""
    if len(text) <= LONGEST_REPAIRED:
        return _repair(text, *args, **options)
    for candidate in dict.fromkeys((text, _outermost(text))):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return ""


def _outermost(text: str) -> str:
    """From the first bracket to the last of its kind, as in a fence of Markdown."""
    first = re.search(r"[{\[]", text)
    return text[first.start() : text.rfind("}" if first[0] == "{" else "]") + 1] if first else ""


def search(pattern: str, text: str, *args: Any) -> Any:
    """As `regex.search`; None for what takes too long."""
    try:
        return _search(pattern, text, *args, timeout=SEARCH_SECONDS)
    except TimeoutError:
        return None


def literal_eval(text: str) -> Any:
    """As `ast.literal_eval`; raises ValueError for what is long."""
    if len(text) > LONGEST_LITERAL:
        raise ValueError("it is too long")
    return ast.literal_eval(text)


def whole_characters(text: str) -> str:
    """Without escapes of halves of characters, which JSON allows and nobody can write as UTF-8."""
    return LONE_SURROGATES.sub(r"\\ufffd", text) if "\\u" in text else text


compat.read_loosely_by(loads, search, literal_eval)

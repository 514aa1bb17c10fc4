"""What of callers' words is kept: nothing, what no rule hides, or all of it (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, NamedTuple

import orjson

HIDDEN = "[redacted]"
PLAIN = re.compile(r"[\w -]+", re.ASCII)
MOST_SEEN, LONGEST_SEEN = 256, 1024
"""Texts of which it is remembered what is hidden of them, and their characters: a record says most of them twice."""
LONGEST_START = 14
"""Characters by which one of OpenAI's or Stripe's keys is known."""


def _classes(**members: str) -> bytes:
    """For `bytes.translate`: the characters of each class as its name, all others as a space."""
    found = bytearray(b" " * 256)
    for name, chars in members.items():
        for char in chars:
            found[ord(char)] = ord(name)
    return bytes(found)


DIGITS, CAPITALS, SMALL = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
AS_DIGITS = _classes(n=DIGITS)
AS_CAPITALS = _classes(n=DIGITS, A=CAPITALS)
AS_STARTS = _classes(w=DIGITS + CAPITALS + SMALL + "_", m="-", S="spo", **{one: one for one in "AIJKeghkxy"})
STARTS = b"ghS", b"xSx", b"AKIA", b"eyJ"
"""How the other known keys begin: `ghp`, `gho`, `xox`."""


def _is_odd(text: bytes) -> bool:
    """Whether the rules' quick looks say nothing of a JSON text."""
    return not text.isascii() or (b"\\" in text and b"\\u" in text)


def _may_be_mail(text: bytes) -> bool:
    return b"@" in text


def _may_be_iban(text: bytes) -> bool:
    return b"AAnn" in text.translate(AS_CAPITALS)


def _may_be_bearer(text: bytes) -> bool:
    return b"bearer" in text.lower()


def _may_be_key(text: bytes) -> bool:
    if b"\\" in text:  # what JSON writes as a letter is none
        text = re.sub(rb"\\[nrtbf]", b"  ", text)
    starts = b" " + text.translate(AS_STARTS)
    for start in STARTS:
        if start in starts:
            return True
    return _is_long(starts, b" Sk") or _is_long(starts, b"mSk")


def _is_long(starts: bytes, before: bytes) -> bool:
    """Whether a word that begins so is long enough to be a key."""
    at = starts.find(before)
    while at >= 0:
        word = starts[at + 1 : at + 1 + LONGEST_START]
        if len(word) == LONGEST_START and b" " not in word:
            return True
        at = starts.find(before, at + 1)
    return False


def _may_be_password(text: bytes) -> bool:
    small = text.lower()
    if b"passw" in small or b"secret" in small or b"token" in small:
        return True
    return b"key" in small and any(name in small for name in (b"apikey", b"api_key", b"api-key"))


def _may_be_number(text: bytes) -> bool:
    return b"n" * 13 in text.translate(AS_DIGITS, b" -")


class Rule(NamedTuple):
    """A pattern, and whether it may be found in an ASCII text, which is known in a fiftieth of the time. The text may
    be JSON without `\\u`: quotes and escapes break up nothing that the pattern needs."""

    pattern: str
    may_be_in: Callable[[bytes], bool]


RULES = (
    Rule(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", _may_be_mail),  # addresses of e-mail, as long as they may be
    Rule(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _may_be_iban),
    Rule(r"(?i:\bbearer\s+[\w.~+/=-]{8,})", _may_be_bearer),
    # keys and tokens of well-known services
    Rule(r"\b(?:sk|pk|ghp|gho|xox[abpr]|AKIA|eyJ)[\w-]{12,}(?:\.[\w-]+)*", _may_be_key),
    Rule(r"(?i:\b(?:password|passwd|secret|api[_-]?key|token)\b\s*[:=]\s*\S+)", _may_be_password),
    Rule(r"\b(?:\d[ -]?){13,19}\b", _may_be_number),  # numbers of cards and accounts
)
"""What Redacted hides beside the manifest's own: what is never needed to judge an answer."""


class Redactor:
    """Hides values of some fields at any depth, and what the rules and the manifest's patterns find in texts."""

    def __init__(self, fields: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        self._fields = frozenset(fields)
        self._names = [orjson.dumps(name) for name in self._fields]
        self._rules = [(re.compile(rule.pattern), rule.may_be_in) for rule in RULES]
        self._own = [re.compile(pattern) for pattern in patterns]
        self._can_tell = not self._own and all(map(PLAIN.fullmatch, self._fields))
        self._seen: dict[str, str] = {}
        self._is_of_plain = False
        """Whether it is for parts of a text that is not odd."""

    def __call__(self, value: Any) -> Any:
        """A JSON value without what is hidden. Equal values are given back as they are."""
        if isinstance(value, str):
            return found if (found := self._seen.get(value)) is not None else self._looked_through(value)
        if isinstance(value, dict):
            return {self(k): HIDDEN if k in self._fields else self(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self(one) for one in value]
        return value

    def may_find(self, json: bytes) -> bool:
        """Whether something may be hidden in this JSON text."""
        if not self._can_tell or (not self._is_of_plain and _is_odd(json)):
            return True
        for _, may_be_in in self._rules:
            if may_be_in(json):
                return True
        return any(name in json for name in self._names)

    def narrowed(self, json: bytes) -> Redactor | None:
        """The same for parts of this JSON text, by the rules alone that may find something in it; None if none may. Of
        most texts there is nothing to hide, and they need not be read."""
        if not self._can_tell or (not self._is_of_plain and _is_odd(json)):
            return self
        rules = [rule for rule in self._rules if rule[1](json)]
        names = [name for name in self._names if name in json]
        return self._only(rules, names) if rules or names else None

    def _only(self, rules: list[tuple[re.Pattern[str], Callable[[bytes], bool]]], names: list[bytes]) -> Redactor:
        found = copy(self)
        found._rules, found._names, found._seen, found._is_of_plain = rules, names, {}, True
        return found

    def _looked_through(self, text: str) -> str:
        found = self._hidden(text)
        if len(text) <= LONGEST_SEEN:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen[text] = found
        return found

    def _hidden(self, text: str) -> str:
        plain = text.encode() if text.isascii() else None
        for pattern, may_be_in in self._rules:
            if plain is None or may_be_in(plain):
                text = pattern.sub(HIDDEN, text)
        for pattern in self._own:
            text = pattern.sub(HIDDEN, text)
        return text

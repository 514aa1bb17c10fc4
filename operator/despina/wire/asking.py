"""Asking one version by hand: `POST /ask` on a pod's admin port; `GET /prompts/REVISION`: what its prompts are made of.

A question is signed for its very words with a key that is made of the read key for nothing else, and it says for which
pod it is, for which life of it, and which number it has. So neither what was captured of somebody who reads, nor the
same question once more, asks anything. No clock is needed: what number comes next, the pod says (by a 409).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from despina.wire.base import Amount, Count, Document, Report
from despina.wire.traces import Id, Name

ASK_PATH = "/ask"
PROMPTS_PATH = "/prompts"
LONGEST_QUESTION = 2**20
"""Bytes of its body."""
LONGEST_ANSWER = 2**18
"""Characters of what was answered that are told; the rest is left out."""
LONGEST_INSTRUCTIONS, LONGEST_DEMO, LONGEST_PROMPTS = 16_384, 4096, 2**19
"""Characters of one predictor's instructions, of one demonstration, and of all demonstrations of a program."""
MOST_PROMPTS, MOST_DEMOS = 64, 64
"""Predictors of a program, and demonstrations of each, that are told."""
MOST_SIGNATURES = 4


class Question(Document):
    """Inputs for one held revision, from somebody who asks by hand."""

    namespace: str
    pod: str
    boot: str
    number: int
    revision: str = Field(max_length=253)
    inputs: str
    """As JSON: what nests without an end breaks no reader of the rest."""


def _answer(text: str) -> str:
    return text[:LONGEST_ANSWER]


class Answered(Report):
    """What became of a question. It is made as a caller's answer is, and is nobody else's."""

    status: Count = 0
    """As `POST /execute` would have it."""
    said: Annotated[str, AfterValidator(_answer)] = ""
    """As JSON: the outputs, or else the problem document."""
    is_cut: bool = False
    """Whether it was too long to be told whole."""
    seconds: Amount = 0.0
    lm_attempts: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Name = ""
    """In decimal digits; empty where no price is known."""
    id: Id = ""
    """Its trace's name; empty where there is none, as of inputs that do not fit."""
    version: Name = ""


class Prompt(Report):
    """What one predictor's prompt is made of."""

    path: Name = ""
    lm: Name = ""
    instructions: Annotated[str, AfterValidator(lambda text: text[:LONGEST_INSTRUCTIONS])] = ""
    demos: Annotated[
        tuple[str, ...], AfterValidator(lambda demos: tuple(demo[:LONGEST_DEMO] for demo in demos[:MOST_DEMOS]))
    ] = ()
    """Each as JSON; as many as there is room for."""
    demo_count: Count = 0


class Prompts(Report):
    """A revision's, as it was compiled. Demonstrations may hold people's words."""

    modules: Annotated[tuple[Prompt, ...], AfterValidator(lambda found: found[:MOST_PROMPTS])] = ()


def asking(keys: Iterable[str], body: bytes) -> str:
    """What goes into the header of the signature: one for each read key, separated by commas."""
    return ", ".join(_signature(key, body) for key in keys)


def may_ask(key: str, body: bytes, signatures: str) -> bool:
    """Whether one of the signatures is of this body, by this read key; a pod without a key answers no question."""
    expected, given = _signature(key, body).encode(), signatures.split(",")[:MOST_SIGNATURES]
    return bool(key) and any(hmac.compare_digest(expected, one.strip().encode()) for one in given)


def _signature(key: str, body: bytes) -> str:
    own = hmac.new(key.encode(), b"asks by hand", hashlib.sha256).digest()
    return hmac.new(own, body, hashlib.sha256).hexdigest()

"""Asking one version by hand: `POST /ask` on a pod's admin port; `GET /prompts/REVISION`: what its prompts are made of.

A question is signed for its very words with a private key that is made of the root of read keys, and it says for which
pod it is, for which life of it, and which number it has. Pods have the public half only: so neither whoever may read
a program's configuration, nor what was captured of somebody who reads, nor the same question once more asks anything.
No clock is needed: what number comes next, the pod says (by a 409).
"""

from __future__ import annotations

import hashlib
import hmac
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


def ask_seed(root: str, uid: str, namespace: str) -> bytes:
    """32 bytes: the private key that signs questions to one program. Whoever has the root can make them all."""
    return hmac.new(root.encode(), f"asks by hand {uid}/{namespace}".encode(), hashlib.sha256).digest()

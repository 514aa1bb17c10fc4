"""Prompts are DSPy's own, word for word, though what stands in all of a signature's is written once."""

from __future__ import annotations

from typing import Literal

import dspy
import pytest

from despina_runtime.lm.adapters import ADAPTERS, EachItsOwn

PLAIN = {"Chat": dspy.ChatAdapter, "JSON": dspy.JSONAdapter}


def made() -> type[dspy.Signature]:
    """A signature of its own; all have the same name."""

    class Judged(dspy.Signature):
        """Judge it."""

        question: str = dspy.InputField()
        verdict: Literal["yes", "no"] = dspy.OutputField(desc="in one word")
        score: float = dspy.OutputField(ge=0, le=1)

    return Judged


def told_anew(signature: type[dspy.Signature]) -> None:
    signature.instructions = "Judge it by today's mood."


def described_anew(signature: type[dspy.Signature]) -> None:
    signature.output_fields["verdict"].json_schema_extra["desc"] = "in today's words"


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("change", [told_anew, described_anew])
def test_a_signature_is_written_as_it_is_now(name, change):
    adapter, signature = ADAPTERS[name](), made()
    before = adapter.format(signature, [], {"question": "?"})
    assert (
        before
        == adapter.format(signature, [], {"question": "?"})
        == PLAIN[name]().format(signature, [], {"question": "?"})
    )
    change(signature)
    after = adapter.format(signature, [], {"question": "?"})
    assert after != before
    assert after == PLAIN[name]().format(signature, [], {"question": "?"})


def test_signatures_of_one_name_and_adapters_are_told_apart():
    one, other = made(), made().append("reason", dspy.OutputField())
    for name, adapter in [*ADAPTERS.items(), ("Chat", EachItsOwn)]:
        for signature in (one, other):
            assert adapter().format(signature, [], {}) == PLAIN[name]().format(signature, [], {})


def test_fields_that_pydantic_makes_anew_are_found_and_what_is_given_out_is_ones_own():
    signature = made()
    signature.output_fields.clear()
    assert [*signature.output_fields] == ["verdict", "score"]
    signature.__pydantic_fields__ = {n: f for n, f in signature.__pydantic_fields__.items() if n != "score"}
    assert [*signature.output_fields] == ["verdict"]

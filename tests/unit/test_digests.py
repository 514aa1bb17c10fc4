"""What a revision was when it was first loaded, noted for the pods that load it later."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from despina.decide.keep import digests_of
from despina.decide.observed import Observed
from despina.decide.plan import Apply, Delete
from despina.decide.rollout import decide
from despina.wire import HeldRevision, PodState
from tests.support.gen import a_program, hash_of, observed, serving

P = a_program()
ONE = hash_of(P, "1")
KEY = ("ConfigMap", "qa-tools")


def saying(*digests: str) -> Observed:
    """A version whose pods say what they loaded."""
    o = observed(P, **serving(P, "1", len(digests)))
    reports = (PodState(revision=ONE, held={ONE: HeldRevision(phase="Ready", digest=d)}) for d in digests)
    return replace(o, pods=tuple(replace(p, report=said) for p, said in zip(o.pods, reports, strict=True)))


def noted(o: Observed, text: str) -> Observed:
    return replace(o, objects={**o.objects, KEY: {"data": {"digests.json": text}}})


CASES = {
    "nobody has said anything": (observed(P, **serving(P, "1")), {}),
    "one says what it loaded": (saying("", "first"), {ONE: "first"}),
    "a runtime that says nothing of it": (saying(""), {}),
    "what is noted stays, whatever pods say, while its revision is around": (
        noted(saying("other"), json.dumps({ONE: "first", "gone": "x"})),
        {ONE: "first"},
    ),
    "a note that cannot be read": (noted(saying("now"), "[[1]]"), {ONE: "now"}),
}


@pytest.mark.parametrize("sentence", CASES)
def test_what_a_revision_was_first_is_noted_beside_the_tools(sentence):
    o, digests = CASES[sentence]
    assert digests_of(o) == digests
    steps = [a for a in decide(o, 0.0).steps if isinstance(a, Apply | Delete)]
    written = {
        d["kind"]: d["data"] for a in steps if isinstance(a, Apply) and (d := a.document)["metadata"]["name"] == KEY[1]
    }
    assert written == ({"ConfigMap": {"digests.json": json.dumps(digests)}} if digests else {}), "and no Secret"


def test_a_note_that_says_so_already_is_left():
    o = saying("first")
    (document,) = [
        a.document for a in decide(o, 0.0).steps if isinstance(a, Apply) and a.document["metadata"]["name"] == KEY[1]
    ]
    again = decide(replace(o, objects={**o.objects, KEY: document}), 0.0)
    assert KEY not in {a.key for a in again.steps if isinstance(a, Delete)}
    assert KEY[1] not in {a.document["metadata"]["name"] for a in again.steps if isinstance(a, Apply)}

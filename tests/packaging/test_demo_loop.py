"""What `make demo-loop` claims, and what it is made from."""

from __future__ import annotations

import copy
import json
import re

import pytest
import yaml

import demo_loop
from release import EXAMPLE
from tests.support.tickets import OPENED, tickets

GOOD = {
    "sent": 5000,
    "failed": 0,
    "labels": 600,
    "failure_rate": 0.8,
    "heldout": {"base": 0.2, "candidate": 0.6, "interval": [0.3, 0.5], "p": 1e-6},
    "golden": {"base": 0.2, "candidate": 0.2},
    "budget": {"max_lm_calls": 1000, "spent": 1000},
    "poison": {
        "heldout": {"base": 0.1, "candidate": 0.5, "p": 1e-6},
        "golden": {"base": 0.5, "candidate": 0.1},
        "reason": "GoldenWorse",
    },
}
WORSE = {
    "failed": (1, "no request failed"),
    "sent": (2999, "at least 3000 requests were sent"),
    "labels": (599, "at least 600 labels were given"),
    "failure_rate": (0.1, "more than 10 % of them were failures"),
    "heldout.candidate": (0.2, "the candidate is better on held-out rows"),
    "heldout.p": (0.06, "so much better is no chance (p at most 0.05)"),
    "heldout.interval": ([0.0, 0.1], "the interval of the gain begins above 0"),
    "golden.candidate": (0.19, "the candidate is not worse on the golden set"),
    "budget.spent": (1001, "the budget was kept"),
    "poison.heldout.candidate": (0.1, "wrong labels lead to what is better on their own held-out rows"),
    "poison.heldout.p": (0.06, "wrong labels lead to what is better on their own held-out rows"),
    "poison.golden.candidate": (0.5, "and worse on the golden set"),
    "poison.reason": ("NotBetter", "which is why it is refused"),
}


def test_a_good_run_breaks_no_claim():
    assert demo_loop.broken(GOOD) == []
    assert tuple(GOOD) == demo_loop.ORDER


@pytest.mark.parametrize("path", WORSE)
def test_a_figure_that_is_worse_breaks_its_claim(path):
    document, (value, claim) = copy.deepcopy(GOOD), WORSE[path]
    *parents, last = path.split(".")
    node = document
    for part in parents:
        node = node[part]
    node[last] = value
    assert demo_loop.broken(document) == [claim]


def test_every_claim_can_be_broken():
    assert {claim for _, claim in WORSE.values()} == set(demo_loop.CLAIMS)


def test_tickets_differ_by_more_than_their_numbers():
    rows = tickets(demo_loop.DISTINCT, demo_loop.SEED)
    assert len({text for text, _ in rows}) == demo_loop.DISTINCT
    assert len({re.sub(r" \(case \d+\)$", "", text) for text, _ in rows}) > 0.9 * demo_loop.DISTINCT
    labelled = rows[: demo_loop.LABELS]
    assert {text for text, _ in labelled}.isdisjoint(text for text, _ in rows[demo_loop.LABELS :])
    assert any(text.startswith(opened) for text, _ in labelled for opened in OPENED if opened)


def test_what_is_golden_nobody_labels_and_no_gate_asks():
    golden, heldout = (
        [
            json.loads(line)
            for line in yaml.safe_load((EXAMPLE / name).read_text())["data"]["tickets.jsonl"].splitlines()
        ]
        for name in ("loop/golden.yaml", "heldout.yaml")
    )
    rows = map(json.loads, (EXAMPLE / "tickets.jsonl").read_text().splitlines())
    assert golden == [{"ticket": r["ticket"], "category": r["category"]} for r in rows if r["split"] == "train"]
    labelled = {text for text, _ in tickets(demo_loop.DISTINCT, demo_loop.SEED)}
    sides = [labelled, {r["ticket"] for r in golden}, {r["ticket"] for r in heldout}]
    assert len(set.union(*sides)) == sum(map(len, sides))


def test_the_trigger_waits_for_all_labels_of_the_demo():
    """So that one run is about all of them, and each run of the demo about the same rows."""
    spec = yaml.safe_load((EXAMPLE / "loop" / "program.yaml").read_text())["spec"]
    (trigger,) = spec["optimization"]["triggers"]
    assert trigger["failureRate"] == {"threshold": "0.10", "minLabels": demo_loop.LABELS}
    assert spec["optimization"]["promotion"]["mode"] == "Auto"

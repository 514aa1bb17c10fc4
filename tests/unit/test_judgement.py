"""Whether a candidate is better than its base on the same rows: known figures, what must always hold, and how often the
judgement is wrong."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from despina_runtime.evaluation import judgement
from despina_runtime.evaluation.examples import CallersRow, Row, Shape, Unusable
from despina_runtime.evaluation.judgement import Judgement, is_better, is_worse, judge, mcnemar, sign_flip
from despina_runtime.evaluation.score import Scorer
from despina_runtime.evaluation.subject import Said
from despina_runtime.optimization.scoring import Scores, score_rows
from tests.support.world import REPORTS
from tests.unit.test_optimization_end import BASE

SEED = 7
P_VALUES: dict[str, tuple[int, int, float]] = {
    "Fagerland 2013, airway hyper-responsiveness: two-sided 0.039": (7, 1, (1 + 8 / 2) / 256),
    "Fagerland 2013, complete response: two-sided 0.035": (16, 6, 0.034689664840698 / 2),
    "nothing differs": (0, 0, 0.5),
    "one is mended": (1, 0, 0.25),
    "one is broken": (0, 1, 0.75),
    "as many are mended as are broken": (9, 9, 0.5),
    "five are mended": (5, 0, 1 / 64),
    "five are broken": (0, 5, 1 - 1 / 64),
    "so many that floats could not count the ways": (2000, 2000, 0.5),
}


@pytest.mark.parametrize("sentence", P_VALUES)
def test_mcnemars_mid_p(sentence):
    mended, broken, p = P_VALUES[sentence]
    assert mcnemar(mended, broken) == pytest.approx(p, rel=1e-9)


def test_mcnemars_mid_p_is_the_binomials():
    for mended, broken in ((24, 4), (11, 7), (3, 12)):
        rows = mended + broken
        tail = sum(math.comb(rows, more) for more in range(mended + 1, rows + 1)) + math.comb(rows, mended) / 2
        assert mcnemar(mended, broken) == pytest.approx(tail / 2**rows, rel=1e-12)


def rows(mended: int, broken: int, same: int) -> tuple[list[float], list[float]]:
    """Base and candidate, of which half the others are right."""
    both = [float(n % 2) for n in range(same)]
    return [0.0] * mended + [1.0] * broken + both, [1.0] * mended + [0.0] * broken + both


FLIPPED: dict[str, tuple[list[float], list[float], float]] = {
    "all the same": ([0.5] * 4, [0.5] * 4, 1.0),
    "all three grow: one way of eight": ([0.1, 0.2, 0.3], [0.4, 0.6, 0.5], 1 / 8),
    "the least one shrinks: two ways of eight": ([0.1, 0.2, 0.5], [0.4, 0.6, 0.4], 2 / 8),
    "gain and loss of one size: three ways of four": ([0.25, 0.75], [0.75, 0.25], 3 / 4),
    "all shrink: any way": ([0.4, 0.6], [0.3, 0.2], 1.0),
}


@pytest.mark.parametrize("sentence", FLIPPED)
def test_graded_scores_are_judged_by_flips(sentence):
    base, candidate, p = FLIPPED[sentence]
    assert judge(base, candidate, SEED).p == pytest.approx(p)


def test_drawn_flips_come_close_to_all_of_them(monkeypatch):
    differences = np.round(np.random.default_rng(1).normal(0.05, 0.3, 14), 2)
    exact = sign_flip(differences, SEED)
    monkeypatch.setattr(judgement, "EXACT_ROWS", 0)
    drawn = [sign_flip(differences, seed) for seed in range(5)]
    assert 0.01 < exact < 0.5
    assert drawn == pytest.approx([exact] * 5, abs=0.02)
    assert len(set(drawn)) > 1, "otherwise nothing was drawn"


def test_all_that_a_judgement_says():
    found = judge(*rows(24, 4, 172), SEED)
    assert (found.base, found.candidate, found.gain, found.rows) == (0.45, 0.55, 0.1, 200)
    assert found.p == mcnemar(24, 4) < 0.001
    normal = 1.96 * math.sqrt((28 - 20**2 / 200) / 200 / 200)
    assert found.interval == pytest.approx((0.1 - normal, 0.1 + normal), abs=0.01)
    assert judge(*rows(24, 4, 172), SEED) == found, "nothing but the seed decides what is drawn"


WRONG: dict[str, tuple[list[float], list[float], str]] = {
    "no rows": ([], [], "the base has no scores"),
    "no rows of one": ([1.0], [], "the candidate has no scores"),
    "fewer rows of one": ([1.0, 0.0], [1.0], "the base has 2 scores and the candidate 1"),
    "more than 1": ([0.5], [1.5], "a score of the candidate is 1.5, and not a number from 0 to 1"),
    "less than 0": ([0.5, -0.1], [1, 1], "a score of the base is -0.1,"),
    "not a number": ([math.nan], [1.0], "a score of the base is nan,"),
    "without end": ([1.0], [math.inf], "a score of the candidate is inf,"),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_are_no_scores_is_said(sentence):
    base, candidate, words = WRONG[sentence]
    with pytest.raises(ValueError, match=words):
        judge(base, candidate, SEED)


def said(gain: float = 0.1, p: float = 0.01, rows: int = 200) -> Judgement:
    return Judgement(base=0.5, candidate=0.5 + gain, gain=gain, interval=(gain, gain), p=p, rows=rows)


BETTER = {
    "clearly": (is_better(said(), 0.05), True),
    "at the limit": (is_better(said(p=0.05), 0.05), True),
    "by chance, perhaps": (is_better(said(p=0.051), 0.05), False),
    "without a gain, whatever p says": (is_better(said(gain=0, p=0), 0.05), False),
    "the fifth time, at a fifth": (is_better(said(), 0.05, uses=5), True),
    "the sixth time, at a sixth": (is_better(said(), 0.05, uses=6), False),
    "on as many rows as must be": (is_better(said(), 0.05, min_rows=200), True),
    "on too few rows": (is_better(said(), 0.05, min_rows=201), False),
}


@pytest.mark.parametrize("sentence", BETTER)
def test_what_is_better(sentence):
    found, wanted = BETTER[sentence]
    assert found == wanted


@pytest.mark.parametrize(("significance", "uses"), [(0.0, 1), (0.51, 1), (math.nan, 1), (0.05, 0)])
def test_what_is_no_significance_is_said(significance, uses):
    with pytest.raises(ValueError, match=r"significance of|uses is"):
        is_better(said(), significance, uses)


def test_one_row_less_is_worse_where_no_test_would_notice_and_another_order_is_not():
    less = judge(*rows(3, 4, 43), SEED)
    assert is_worse(less)
    assert judge(*reversed(rows(3, 4, 43)), SEED).p > 0.3
    assert not is_worse(judge(*rows(4, 4, 42), SEED))
    assert not is_worse(judge([0.1, 0.2, 0.3], [0.2, 0.3, 0.1], SEED)), "sums of floats depend on their order"


BINARY = st.sampled_from([0.0, 1.0])
GRADED = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
PAIRS = st.one_of(*(st.lists(st.tuples(s, s), min_size=1, max_size=40) for s in (BINARY, GRADED)))
MANY = settings(max_examples=60, deadline=None)


def of(pairs: list[tuple[float, float]], seed: int = SEED) -> Judgement:
    return judge([b for b, _ in pairs], [c for _, c in pairs], seed)


@MANY
@given(PAIRS)
def test_every_figure_is_within_its_bounds(pairs):
    found, (low, high) = of(pairs), of(pairs).interval
    assert 0 <= found.p <= 1
    assert -1 <= low <= found.gain <= high <= 1
    assert 0 <= found.base <= 1 >= found.candidate >= 0
    assert found.gain == pytest.approx(found.candidate - found.base)
    assert found.rows == len(pairs)
    assert not (is_better(found, 0.5) and is_worse(found))


@MANY
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs, random):
    other = random.sample(pairs, len(pairs))
    assert of(other) == of(pairs)


def test_the_order_of_many_rows_does_not_matter_where_signs_are_drawn():
    pairs = np.random.default_rng(3).random((200, 2)).tolist()
    assert of(pairs[::-1]) == of(pairs) != of(pairs, seed=8)


@MANY
@given(PAIRS)
def test_what_is_better_one_way_is_not_the_other_way(pairs):
    found, other = of(pairs), of([(c, b) for b, c in pairs])
    assert other.gain == -found.gain
    assert not (is_better(found, 0.05) and is_better(other, 0.05))
    assert found.p + other.p > 0.99


@given(st.integers(0, 200), st.integers(0, 200))
def test_of_two_ways_one_is_as_improbable_as_the_other_is_probable(mended, broken):
    assert mcnemar(mended, broken) + mcnemar(broken, mended) == pytest.approx(1)
    assert mcnemar(mended + 1, broken) <= mcnemar(mended, broken) <= mcnemar(mended, broken + 1)


@MANY
@given(st.lists(st.tuples(GRADED, GRADED), min_size=1, max_size=judgement.EXACT_ROWS), st.data())
def test_a_row_that_is_mended_never_raises_p(pairs, data):
    number = data.draw(st.integers(0, len(pairs) - 1))
    base, candidate = pairs[number]
    mended = [*pairs[:number], (base, data.draw(st.floats(candidate, 1))), *pairs[number + 1 :]]
    differences, others = (np.array([c - b for b, c in rows]) for rows in (pairs, mended))
    assert sign_flip(others, SEED) <= sign_flip(differences, SEED)


def better_of(times: int, base: np.ndarray, candidate: np.ndarray) -> float:
    """How many of them are found to be better, as a fraction; one row each is one judgement."""
    found = (is_better(judge(b, c, SEED), 0.05) for b, c in zip(base, candidate, strict=True))
    return sum(found) / times


@pytest.mark.parametrize("right", [0.5, 0.8, 0.95])
def test_equal_versions_are_seldom_taken_for_better_ones(right):
    draws = np.random.default_rng(11).random((2, 2000, 200)) < right
    share = better_of(2000, *draws.astype(float))
    REPORTS.append(f"equal versions, right in {right:.0%}, judged 2000 times on 200 rows: {share:.2%} taken for better")
    print(REPORTS[-1])
    assert share <= 0.06


def test_equal_versions_with_graded_scores_are_seldom_taken_for_better_ones():
    draws = np.random.default_rng(12).beta(2, 1, (2, 300, 30)).round(2)
    share = better_of(300, *draws)
    REPORTS.append(f"equal versions, graded, judged 300 times on 30 rows: {share:.2%} taken for better")
    print(REPORTS[-1])
    assert share <= 0.08


def test_a_version_that_mends_much_and_breaks_little_is_found():
    fate = np.random.default_rng(13).random((500, 200))
    was_right = np.random.default_rng(14).random((500, 200)) < 0.7
    mended, broken = fate < 0.12, fate > 0.98
    base = np.where(mended, 0.0, np.where(broken, 1.0, was_right))
    candidate = np.where(mended, 1.0, np.where(broken, 0.0, was_right))
    share = better_of(500, base, candidate)
    REPORTS.append(f"12 % of 200 rows mended and 2 % broken, judged 500 times: found in {share:.1%}")
    print(REPORTS[-1])
    assert share >= 0.9


class Picky:
    """A model's process that takes no ticket but texts, and has no answer to some."""

    async def ask(self, what, seconds):
        ticket = what["inputs"]["ticket"]
        if not isinstance(ticket, str):
            return Said(id=1, status=422, detail="ticket: a string")
        return Said(id=1, status=502) if ticket == "unanswered" else Said(id=1, outputs={"category": "bug"})


@pytest.fixture
def scorer() -> Scorer:
    async def metric(row, outputs):
        return 1.0, Decimal(0)

    side = {"properties": {"ticket": {}}, "required": ["ticket"]}
    shape = Shape.model_validate({"inputs": side, "outputs": {"properties": {"category": {}}}})
    return Scorer(Picky(), shape, metric, BASE, lambda _: None)


def asked(kind: type[Row], *tickets: object) -> list[Row]:
    return [kind({"ticket": ticket}, {"category": "bug"}) for ticket in tickets]


SCORED = {
    "one of another interface is not answered": (("crash", 7), ("crash",), Scores((1.0, 0.0), (1.0,))),
    "a golden set that breaks as a whole": (("crash", "slow"), ("unanswered",), Scores((1.0, 1.0), (0.0,))),
    "callers' rows that break as a whole": (("unanswered", 7), ("crash",), Scores((0.0, 0.0), (1.0,))),
    "no golden set": (("crash",), (), Scores((1.0,), ())),
    "nothing is answered": (("unanswered", 7), ("unanswered",), "none of 3 examples was answered"),
    "nothing is answered, and no golden set": ((7,), (), "none of 1 examples was answered"),
    "a golden row of another interface": (("crash",), (7,), "an example does not fit the program's inputs: ticket"),
}


@pytest.mark.parametrize("sentence", SCORED)
async def test_what_callers_asked_and_the_golden_set_are_scored_in_one_run(sentence, scorer):
    heldout, golden, expected = SCORED[sentence]
    work = score_rows(scorer, asked(CallersRow, *heldout), asked(Row, *golden))
    if isinstance(expected, Scores):
        assert await work == expected
    else:
        with pytest.raises(Unusable, match=expected):
            await work

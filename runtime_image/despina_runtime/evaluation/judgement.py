"""Whether one version is better than another, by their scores on the same rows: a test, and an interval of the gain.

Scores of 0 and 1 are tested by McNemar's test with the mid-p value (Fagerland, Lydersen and Laake 2013,
doi 10.1186/1471-2288-13-91), graded ones by a permutation test that flips the signs of the differences. Both are
one-sided: a version that does worse is as little better as one that does the same. The interval is a percentile
bootstrap. Whatever is drawn comes from a seed, and never depends on the order of the rows.

A test holds for one look. Who chooses the best of several candidates chooses on other rows, and who looks at the same
rows again says so (`uses`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_ROWS = 16
"""Up to so many differing rows every way to flip their signs is looked at, 65,536 at most; beyond, some are drawn."""
FLIPS, RESAMPLES = 9_999, 5_000
"""How many flips and resamples are drawn. With the signs as they are, it is 10,000: no p is less than 0.0001 then."""
AT_ONCE = 2**21
"""How many numbers are drawn at a time, which bounds the memory."""
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""What two sums of the same differences may differ by, relative to the sum of their sizes."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """A candidate beside its base on the same rows. All but `rows` are fractions."""

    base: float
    """The mean score."""
    candidate: float
    gain: float
    """What the mean grew by; less than 0 where it shrank."""
    interval: tuple[float, float]
    """Where the gain lies, with a confidence of 95 %; the gain that was seen is within."""
    p: float
    """How probable so much gain is, or more, if neither version is better than the other."""
    rows: int


def judge(base: Sequence[float], candidate: Sequence[float], seed: int) -> Judgement:
    """Compare scores from 0 to 1, row by row; raises ValueError for what are none."""
    before, after = _scores("base", base), _scores("candidate", candidate)
    if len(before) != len(after):
        raise ValueError(
            f"the base has {len(before)} scores and the candidate {len(after)}: they must be of one row each"
        )
    rows = len(before)
    gain = (math.fsum(after) - math.fsum(before)) / rows  # exact sums: equal scores in another order gain exactly 0
    differences = after - before
    p = mcnemar(*_changed(differences)) if _is_binary(before, after) else sign_flip(differences, seed)
    means = math.fsum(before) / rows, math.fsum(after) / rows
    return Judgement(*means, gain=gain, interval=_interval(differences, gain, seed), p=p, rows=rows)


def is_better(found: Judgement, significance: float, uses: int = 1, min_rows: int = 1) -> bool:
    """Whether the candidate is better by more than chance explains, on enough rows.

    `significance` is how often equal versions may pass, above 0 and at most 0.5. `uses` counts how often candidates
    were judged on these rows, this time included: the k-th gets a k-th of it.
    """
    if not 0 < significance <= 0.5:
        raise ValueError(f"a significance of {significance} is not above 0 and at most 0.5")
    if uses < 1:
        raise ValueError(f"uses is {uses}: rows that are looked at are used once at least")
    return found.rows >= min_rows and found.gain > 0 and found.p <= significance / uses


def is_worse(found: Judgement) -> bool:
    """Whether the candidate's mean is lower, by however little.

    This protects rows that must not get worse, such as a golden set. No test is asked: of few rows it could not tell a
    loss from chance, so it would let through what it is to keep out.
    """
    return found.gain < 0


def mcnemar(mended: int, broken: int) -> float:
    """The one-sided mid-p value of so many rows that only the candidate gets right, and only the base.

    If neither version is better, each of them is as likely to be the one as the other.
    """
    rows = mended + broken
    ways, more = 1, 0  # of choosing as many rows as are looked at, beginning with all; and of more than `mended`
    for chosen in range(rows, mended, -1):
        more += ways
        ways = ways * chosen // (rows - chosen + 1)
    return float((2 * more + ways) / (1 << rows + 1))


def sign_flip(differences: Numbers, seed: int) -> float:
    """The one-sided p of a sum of paired differences, among the sums with signs flipped at random."""
    sizes = np.sort(np.abs(differences[differences != 0]))
    limit = math.fsum(differences) - ROUNDING * math.fsum(sizes)
    if len(sizes) <= EXACT_ROWS:
        return float(np.mean(_all_sums(sizes) >= limit))
    reached = sum(int(np.sum(sums >= limit)) for sums in _drawn_sums(sizes, seed))
    return (reached + 1) / (FLIPS + 1)  # as it was seen, it is one of them


def _scores(whose: str, given: Sequence[float]) -> Numbers:
    scores = np.asarray(given, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"the {whose} has no scores")
    if not np.all((scores >= 0) & (scores <= 1)):  # NaN is neither
        wrong = next(float(score) for score in scores if not 0 <= score <= 1)
        raise ValueError(f"a score of the {whose} is {wrong}, and not a number from 0 to 1")
    return scores


def _is_binary(*scores: Numbers) -> bool:
    return all(bool(np.all((s == 0) | (s == 1))) for s in scores)


def _changed(differences: Numbers) -> tuple[int, int]:
    return int(np.sum(differences > 0)), int(np.sum(differences < 0))


def _all_sums(sizes: Numbers) -> Numbers:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _drawn_sums(sizes: Numbers, seed: int) -> Iterator[Numbers]:
    generator = np.random.default_rng(seed)
    for count in _portions(FLIPS, len(sizes)):
        signs = generator.integers(0, 2, (count, len(sizes)), dtype=np.int8)
        yield (2.0 * signs - 1.0) @ sizes


def _interval(differences: Numbers, gain: float, seed: int) -> tuple[float, float]:
    """Resampling rows is drawing how often each difference comes, of which there are only three where scores are 0 and
    1."""
    values, counts = np.unique(differences, return_counts=True)
    generator, rows = np.random.default_rng(seed), len(differences)
    drawn = (generator.multinomial(rows, counts / rows, count) for count in _portions(RESAMPLES, len(values)))
    means = np.concatenate([times @ values / rows for times in drawn])
    low, high = (float(x) for x in np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return min(low, gain), max(high, gain)


def _portions(total: int, width: int) -> Iterator[int]:
    """So many rows of a width, in portions of bounded size."""
    most = max(1, AT_ONCE // width)
    for done in range(0, total, most):
        yield min(most, total - done)

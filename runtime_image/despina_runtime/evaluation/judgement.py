"""Whether one of two versions that answered the same rows is better: pure functions of both versions' scores.

Scores of 0 and 1 go by McNemar's test, mid-p and one-sided (Fagerland 2013, doi 10.1186/1471-2288-13-91); graded ones
by permutation of the pairs' signs. The interval of the gain is a bootstrap's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLIPS, DRAWS = 9999, 2000
COVERAGE = (2.5, 97.5)


@dataclass(frozen=True)
class Judgement:
    """Means from 0 to 1, the candidate's gain with its 95 % interval, and how likely such a gain is by chance."""

    base: float
    candidate: float
    gain: float
    interval: tuple[float, float]
    p: float
    rows: int


def judge(base: Sequence[float], candidate: Sequence[float], seed: int) -> Judgement:
    """Compare scores of the same rows, of which there is one at least."""
    gains = np.asarray(candidate, dtype=float) - np.asarray(base, dtype=float)
    random = np.random.default_rng(seed)
    draws = random.choice(gains, (DRAWS, len(gains))).mean(axis=1)
    low, high = np.percentile(draws, COVERAGE)
    is_binary = set(base) | set(candidate) <= {0.0, 1.0}
    p = _mcnemar(gains) if is_binary else _permuted(gains, random)
    means = float(np.mean(base)), float(np.mean(candidate))
    return Judgement(*means, float(gains.mean()), (float(low), float(high)), p, len(gains))


def is_better(judgement: Judgement, significance: float) -> bool:
    """Whether the candidate's gain is hardly chance."""
    return judgement.gain > 0 and judgement.p <= significance


def is_worse(judgement: Judgement) -> bool:
    """Whether it loses anything. No test is asked: few rows, or a base that is seldom right, would hide a real loss."""
    return judgement.gain < 0


def _mcnemar(gains: np.ndarray) -> float:
    mended, differing = int((gains > 0).sum()), int((gains != 0).sum())
    as_many = [math.comb(differing, k) / 2**differing for k in range(mended, differing + 1)]
    return float(sum(as_many) - as_many[0] / 2)


def _permuted(gains: np.ndarray, random: np.random.Generator) -> float:
    signs = random.choice((-1.0, 1.0), (FLIPS, len(gains)))
    return float((1 + ((signs @ gains) >= gains.sum() - 1e-12).sum()) / (1 + FLIPS))

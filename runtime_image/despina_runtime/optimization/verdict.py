"""What becomes of a candidate, by its scores: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from despina.wire import Comparison, OptimizationReason, PromotionConfig
from despina_runtime.evaluation.judgement import Judgement, is_better, is_worse, judge
from despina_runtime.optimization.scoring import Scores

WORDS = "{:.1f} → {:.1f} % of {} {} rows (gain {:+.1f} points, 95 % interval {:+.1f} to {:+.1f}, p {:.2g})"


def verdict(
    base: Scores, candidate: Scores, promotion: PromotionConfig, times: int, seed: int
) -> tuple[OptimizationReason, str, Judgement, Judgement | None]:
    """Whether it is better, in a word and in words, and both comparisons.

    `times` is how often these held-out rows have been used for that, this time included: the best of many equals would
    pass, so the significance is divided by it.
    """
    heldout = judge(base.heldout, candidate.heldout, seed)
    golden = judge(base.golden, candidate.golden, seed) if base.golden else None
    said = "; ".join([words(heldout, "held-out"), *([words(golden, "golden")] if golden else [])])
    if golden and is_worse(golden):
        return "GoldenWorse", said, heldout, golden
    is_enough = 100 * heldout.gain >= promotion.min_gain_percent
    if is_enough and is_better(heldout, promotion.significance_percent / 100, times):
        return "Better", said, heldout, golden
    return "NotBetter", said, heldout, golden


def words(found: Judgement, which: str) -> str:
    """A comparison as people read it."""
    points: Sequence[float] = [100 * value for value in (found.gain, *found.interval)]
    return WORDS.format(100 * found.base, 100 * found.candidate, found.rows, which, *points, found.p)


def comparison(found: Judgement | None) -> Comparison | None:
    """The same for the wire."""
    if found is None:
        return None
    return Comparison(base=found.base, candidate=found.candidate, interval=found.interval, p=found.p, rows=found.rows)

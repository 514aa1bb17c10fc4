"""When labels, or the clock, ask for an optimisation."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from decimal import Decimal

from cronsim import CronSim

from despina.api.optimization import FailureRate, Trigger
from despina.decide.observed import Vote

Z = 1.6448536269514722
"""The standard normal distribution's 95 % quantile."""


def wilson_low(failures: int, labels: int) -> float:
    """The lower end of a one-sided 95 % interval of a rate, as a fraction; 0 without labels.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if labels < 1:
        return 0.0
    rate, z2 = failures / labels, Z * Z
    margin = Z * math.sqrt(rate * (1 - rate) / labels + z2 / (4 * labels * labels))
    return max(0.0, (rate + z2 / (2 * labels) - margin) / (1 + z2 / labels))


def asks(trigger: Trigger, votes: Sequence[Vote], since: float, now: float) -> str:
    """Why a trigger asks for a run; empty where it does not. `votes` are those since the last run; `since` is when that
    was begun, or when callers came to what serves, whichever is later."""
    if trigger.type == "FailureRate":
        found = _too_many_failures(trigger.failure_rate or FailureRate(), votes, now)
    elif trigger.labels:
        found = f"{len(votes)} new labels" if len(votes) >= trigger.labels.count else ""
    else:
        is_due = trigger.schedule is not None and next_moment(trigger.schedule, since) <= now
        found = f"the schedule {trigger.schedule}" if is_due else ""
    return f"{trigger.name}: {found}" if found else ""


def _too_many_failures(policy: FailureRate, votes: Sequence[Vote], now: float) -> str:
    recent = [vote for vote in votes if vote.at > now - policy.window_seconds]
    failures, labels = sum(vote.is_failure for vote in recent), len(recent)
    if labels < policy.min_labels or wilson_low(failures, labels) <= Decimal(policy.threshold):
        return ""
    return f"{failures} of {labels} labels are failures, which is surely more than {policy.threshold} of all answers"


def next_moment(schedule: str, after: float) -> float:
    """The first moment of a cron expression after another, in seconds since the epoch; never, if there is none."""
    try:
        start = datetime.datetime.fromtimestamp(max(0.0, after), tz=datetime.UTC)
        found = next(CronSim(schedule, start), None)
    except (ValueError, OverflowError):  # calendars end
        return math.inf
    return found.timestamp() if found else math.inf

"""Which traces are kept, decided when a request has ended and all is known of it (pure).

Everything is recorded, since that is cheap; what is kept is written down, held in the pod and exported, which is not.
"""

from __future__ import annotations

from typing import Literal

from despina_runtime.telemetry.context import Context

Why = Literal["", "error", "asked", "slow", "sampled", "marked"]
"""Why a trace is kept: the first of these that is so; `marked` is one that somebody spoke of afterwards. Empty for one
that is not kept."""
RATE = 0.99
STEP = 0.05
LEAST_SEEN = 100
FIRST_ERROR = 400


class Slowest:
    """How long requests take that all but one in a hundred are faster than, as it was lately.

    One number is moved a little by each request: by so much more where one was slower that both directions weigh the
    same once one in a hundred is. So it needs neither memory nor sorting.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seen = 0

    def __call__(self, seconds: float) -> bool:
        """Whether this one is among the slowest; until a hundred have been seen, none is."""
        self._seen += 1
        if self._seen <= LEAST_SEEN:
            self.seconds = max(self.seconds, seconds)
            return False
        if seconds > self.seconds:
            self.seconds *= 1 + STEP * RATE
            return True
        self.seconds *= 1 - STEP * (1 - RATE)
        return False


def why_kept(status: int, is_slow: bool, context: Context) -> Why:
    """Why one that has ended is kept. Whatever comes of it, pods that saw the same trace agree on `sampled`."""
    if status >= FIRST_ERROR:
        return "error"
    if context.is_asked:
        return "asked"
    if is_slow:
        return "slow"
    return "sampled" if context.is_chosen else ""

"""When a failed LM call is worth another try, and how long to wait: pure functions.

Back-off is exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/);
a provider's Retry-After is the least that is waited.
"""

from __future__ import annotations

from dspy.utils.exceptions import (
    LMError,
    LMInvalidRequestError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnsupportedModelError,
)

BASE_SECONDS = 0.2
MAX_SECONDS = 10.0
RETRYABLE = (LMRateLimitError, LMServerError, LMTransportError, LMTimeoutError)


def is_retryable(exc: Exception) -> bool:
    """True for what may pass: a provider's bad moment, not a request that will never be right."""
    return isinstance(exc, RETRYABLE)


def is_outage(exc: Exception) -> bool:
    """True for what a breaker counts. A provider that limits us is up, so 429 does not count."""
    return isinstance(exc, LMError) and is_retryable(exc) and not isinstance(exc, LMRateLimitError)


def is_refusal(exc: Exception) -> bool:
    """True where an LM is well and does not take this request: it is too long for it, or not allowed. Callers can bring
    that about, and another LM may take it."""
    return isinstance(exc, LMInvalidRequestError) and not isinstance(exc, LMUnsupportedModelError)


def delay(attempt: int, exc: Exception, jitter: float) -> float:
    """Seconds to wait before the next attempt.

    Args:
        attempt: how many attempts have failed, at least 1.
        exc: the last failure.
        jitter: a number of [0, 1).
    """
    backoff = jitter * min(MAX_SECONDS, BASE_SECONDS * 2.0 ** (attempt - 1))
    return max(backoff, getattr(exc, "retry_after", None) or 0.0)


def next_delay(attempt: int, retries: int, exc: Exception, jitter: float, remaining: float) -> float | None:
    """The wait before another attempt, or None: it is not worth one, or the deadline would pass first."""
    if attempt > retries or not is_retryable(exc):
        return None
    wait = delay(attempt, exc, jitter)
    return wait if wait < remaining else None

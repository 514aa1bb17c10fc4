"""Which versions are not tried, and when they may be tried again."""

from __future__ import annotations

import datetime

from despina.api.conditions import Reason
from despina.api.revision import Revision
from despina.api.status import Quarantined
from despina.decide.observed import Observed
from despina.desired.labels import RETRY
from despina.wire import FailureReason

# These are cured in the manifest, not in the registry: an edit of the spec lifts them.
SPEC_REASONS = {FailureReason.PICKLE_DENIED, FailureReason.UNKNOWN_MODULE, FailureReason.FALLBACK_INVALID}
TAKEN_BACK = {Reason.WATCH_FAILED, Reason.BREAKER_OPEN}
LIMIT = 20


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes time."""
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """The inverse of `timestamp`."""
    return datetime.datetime.fromisoformat(text).timestamp()


def still_quarantined(o: Observed) -> tuple[Quarantined, ...]:
    """The listed versions, without those that were lifted.

    A version is lifted when the registry answers with another one (and the spec is not pinned to it), so that an alias
    which returns to it means it, or by `despina.dev/retry: <version>`. The annotation counts once: what fails again
    after it was set stays listed until the annotation changes.
    """
    retry, pinned = o.program.annotations.get(RETRY), o.program.spec.rollout.rollback_to
    kept = []
    for entry in o.status.model.quarantined:
        moved_on = o.model.version is not None and entry.version not in (o.model.version, str(pinned))
        retried = retry == entry.version and entry.retried != retry
        if not moved_on and not retried:
            kept.append(entry if entry.retried == retry else entry.model_copy(update={"retried": None}))
    return tuple(kept)


def entry_against(revision: Revision, entries: tuple[Quarantined, ...]) -> Quarantined | None:
    """The entry that keeps a revision from being tried."""
    return next((e for e in entries if e.version == revision.version and e.revision in (None, revision.hash)), None)


def quarantine(o: Observed, revision: Revision, reason: str, message: str, now: float) -> Quarantined:
    """A new entry. Where the version is also the one that serves, the spec is at fault, not the version."""
    active = o.deployment(o.active)
    spec_is_at_fault = reason in SPEC_REASONS or (active is not None and active.version == revision.version)
    retry = o.program.annotations.get(RETRY)
    return Quarantined(
        version=revision.version,
        revision=revision.hash if spec_is_at_fault else None,
        reason=reason,
        message=message[:1024],
        at=timestamp(now),
        retried=retry if retry == revision.version else None,
    )

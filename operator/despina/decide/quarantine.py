"""Which versions are not tried, and when they may be tried again."""

from __future__ import annotations

import datetime
from collections.abc import Collection

from despina.api.conditions import Reason
from despina.api.revision import Revision, source_digest
from despina.api.status import Quarantined
from despina.decide.observed import Observed
from despina.wire import FailureReason

# These are cured in the manifest, not in the registry: an edit of the spec lifts them.
SPEC_REASONS = {FailureReason.PICKLE_DENIED, FailureReason.UNKNOWN_MODULE, FailureReason.FALLBACK_INVALID}
TAKEN_BACK = {Reason.WATCH_FAILED, Reason.BREAKER_OPEN}
LIMIT = 20
LAST_MOMENT = 253402300799.0
"""The end of the year 9999: calendars end there."""


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes time."""
    moment = datetime.datetime.fromtimestamp(min(max(seconds, 0.0), LAST_MOMENT), tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None, default: float = 0.0) -> float:
    """The inverse of `timestamp`; the default for what is none."""
    try:
        return datetime.datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return default


def still_quarantined(
    o: Observed, entries: Collection[Quarantined], matter: Collection[Revision]
) -> tuple[Quarantined, ...]:
    """The listed versions, without those that were lifted.

    An entry holds as long as it is about what is asked for or what serves: so an alias that moves elsewhere and returns
    means it, an edit of the spec lifts what the spec was at fault for, and a model made anew is tried. While the
    registry is silent nothing is lifted so.
    """
    if o.model.version is None:
        return tuple(entries)
    return tuple(e for e in entries if any(is_against(e, revision) for revision in matter))


def is_against(entry: Quarantined, revision: Revision) -> bool:
    """Whether an entry keeps a revision from being tried."""
    if entry.version != revision.version or entry.revision not in (None, revision.hash):
        return False
    return entry.source is None or revision.model.created_at is None or entry.source == source_digest(revision.model)


def entry_against(revision: Revision, entries: Collection[Quarantined]) -> Quarantined | None:
    """The entry that keeps a revision from being tried."""
    return next((e for e in entries if is_against(e, revision)), None)


def added(entries: Collection[Quarantined], entry: Quarantined) -> tuple[Quarantined, ...]:
    """The list with a new entry, in the place of an older one about the same; one without a source is about any."""
    rest = [e for e in entries if not _are_about_the_same(e, entry)]
    return (*rest, entry)[-LIMIT:]


def _are_about_the_same(one: Quarantined, other: Quarantined) -> bool:
    is_same = (one.version, one.revision) == (other.version, other.revision)
    return is_same and (one.source == other.source or None in (one.source, other.source))


def quarantine(revision: Revision, reason: str, message: str, now: float, is_the_specs_fault: bool) -> Quarantined:
    """A new entry: about the version, or about this revision of it alone."""
    return Quarantined(
        version=revision.version,
        revision=revision.hash if is_the_specs_fault or reason in SPEC_REASONS else None,
        reason=reason,
        message=message,
        at=timestamp(now),
        source=source_digest(revision.model),
    )

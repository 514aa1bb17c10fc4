"""What a pod counts: the sums of what its workers tell, those that have ended among them, so that no counter goes back
when one is replaced."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from despina.wire import Figures, VersionFigures
from despina_runtime.telemetry.dropped import dropped
from despina_runtime.telemetry.figures import added_figures, added_version, tokens_by_lm

log = logging.getLogger(__name__)
MOST_VERSIONS = 3
"""And more only while the pod holds them, or has lately: they are as many as its orders say."""
FORGET_SECONDS = 150.0
"""A version that the pod no longer has is told of for so long after the last that was counted of it: by then, whoever
looks now and then has seen all of it."""
NOW = "in_flight", "queued", "breaker_open", "rss_bytes"
"""What is not counted but is so."""
Versions = Callable[[], Mapping[str, str]]
"""The versions in the registry of the revisions that the pod holds, by these."""


class Ledger:
    """One pod's."""

    def __init__(self, held: Versions, clock: Callable[[], float] = time.monotonic) -> None:
        self._held, self._clock = held, clock
        self._sums = Figures(boot=secrets.token_hex(8))
        self._versions: dict[str, VersionFigures] = {}
        self._counted_at: dict[str, float] = {}
        self._held_at: dict[str, float] = {}
        """When each version was last seen to be held: the last requests of one that is released are yet to be told."""
        self._now: dict[int, Figures] = {}
        """What each living worker said last, by its process id."""

    @property
    def boot(self) -> str:
        """This life's word."""
        return self._sums.boot

    def begin(self, worker: int) -> None:
        """A worker is there."""
        self._now[worker] = Figures()

    def end(self, worker: int) -> None:
        """It has ended. What it counted stays; what it has said may still come."""
        self._now.pop(worker, None)

    def take(self, worker: int, said: object) -> None:
        """What a worker says that it has counted since it said so last."""
        try:
            new = Figures.model_validate(said)
        except ValidationError:
            self._sums = added_figures(self._sums, Figures(dropped={"figures": {"unreadable": 1}}))
            return
        if worker in self._now:
            self._now[worker] = Figures(**{name: getattr(new, name) for name in NOW})
        self.look()
        for version, counted in new.versions.items():
            if version in self._held_at or version in self._versions:
                self._add(version, counted)
        tokens = tokens_by_lm(new.versions.values())
        self._sums = added_figures(self._sums, new.model_copy(update={"lm_tokens": tokens}))

    def look(self) -> None:
        """See what the pod holds; before it holds something else, too."""
        now = self._clock()
        recent = {version: at for version, at in self._held_at.items() if now - at <= FORGET_SECONDS}
        self._held_at = recent | dict.fromkeys(self._held().values(), now)

    def label(self, revision: str, value: str) -> None:
        """What a caller said of one of a revision's predictions is on the disk."""
        version = self._held().get(revision)
        if version is None:
            self._sums = added_figures(self._sums, Figures(other_feedback={value: 1}))
        else:
            self._add(version, VersionFigures(feedback={value: 1}))

    def _add(self, version: str, new: VersionFigures) -> None:
        self._versions[version] = added_version(self._versions.get(version, VersionFigures()), new)
        self._counted_at[version] = self._clock()
        gone = self._versions.keys() - self._held_at.keys() - set(self._held().values())
        if gone and len(self._versions) > MOST_VERSIONS:
            self._forget(min(gone, key=lambda v: self._counted_at[v]))

    def _forget(self, version: str) -> None:
        del self._versions[version], self._counted_at[version]

    def figures(self) -> Figures:
        """All so far, and what is now."""
        held, now = {*self._held().values()}, self._clock()
        for version, at in tuple(self._counted_at.items()):
            if version not in held and now - at > FORGET_SECONDS:
                self._forget(version)
        living = self._now.values()
        return self._sums.model_copy(
            update={
                "versions": dict(self._versions),
                "dropped": self._sums.dropped | dropped(),
                "in_flight": sum(f.in_flight for f in living),
                "queued": sum(f.queued for f in living),
                "breaker_open": any(f.breaker_open for f in living),
                "rss_bytes": sum(f.rss_bytes for f in living),
                "worker_rss_bytes": {str(worker): f.rss_bytes for worker, f in self._now.items()},
            }
        )

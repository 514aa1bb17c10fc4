"""Which versions a program's pods hold ready, and what these take, give and are prompted with.

What a revision is never changes, so it is asked for once. It is kept as pods sent it, packed, with an end to all of it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from despina.api.base import is_object_name
from despina.api.status import ProgramStatus
from despina.dashboard.diffs import Diff, prompt_diff, schema_diff
from despina.dashboard.facts import status_of
from despina.dashboard.schemas import Schema, read_interface
from despina.dashboard.words import shown
from despina.dashboard.world import Known
from despina.sources.asking import Place
from despina.wire import Answered, PodState, Prompts

MOST_KEPT_BYTES, MOST_DIFFS = 2**24, 64
AGAIN_SECONDS = 10.0
"""Between two looks for what no pod has told yet."""
LOOK_SECONDS = 4.0
"""For all pods of a program together to say what they hold."""
ACTIVE, CANDIDATE, PREVIOUS = "Active", "Candidate", "Previous"


class Pods(Protocol):
    """What pods are asked; see `despina.sources.asking.ByHand`."""

    async def state(self, place: Place) -> PodState | None:
        """What one holds."""

    async def interface(self, place: Place, revision: str) -> bytes:
        """What a revision takes and gives."""

    async def prompts(self, place: Place, revision: str) -> bytes:
        """What its prompts are made of."""

    async def ask(self, place: Place, revision: str, inputs: str, seconds: float) -> Answered:
        """What becomes of a question."""


class Version(NamedTuple):
    """One that the status names."""

    role: str
    revision: str
    version: str
    places: tuple[Place, ...] = ()
    """The pods that hold it ready."""

    @property
    def label(self) -> str:
        """As people call it."""
        return f"{self.role} v{shown(self.version, 20)}"


class Told(NamedTuple):
    """What pods said of a revision, as they sent it."""

    interface: bytes
    prompts: bytes

    def schema(self) -> Schema:
        """What it takes and gives."""
        return read_interface(zlib.decompress(self.interface))

    def prompted(self) -> Prompts | None:
        """What it is prompted with; None where that was not told."""
        try:
            return Prompts.model_validate_json(zlib.decompress(self.prompts))
        except (ValidationError, ValueError):
            return None

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self.interface) + len(self.prompts)


def named(status: ProgramStatus) -> list[Version]:
    """The versions that the status names: what serves, what comes, what was before."""
    both = ((ACTIVE, status.active), (CANDIDATE, status.candidate), (PREVIOUS, status.previous))
    found: dict[str, Version] = {}
    for role, one in both:
        if one and is_object_name(one.revision):
            found.setdefault(one.revision, Version(role, one.revision, one.version))
    return list(found.values())


class Held:
    """Of all programs."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._told: OrderedDict[tuple[str, str], Told] = OrderedDict()
        self._diffs: OrderedDict[tuple[str, str, str, bool], Diff] = OrderedDict()
        self._learning: dict[str, asyncio.Task[None]] = {}
        self._looking: dict[str, asyncio.Task[list[tuple[Place, PodState]]]] = {}
        self._looked: dict[str, float] = {}

    def places(self, known: Known) -> list[Place]:
        """A program's pods."""
        return [Place(known.facts.uid, known.facts.key[0], pod.name, pod.ip) for pod in list(known.pods.values())]

    async def versions(self, known: Known) -> list[Version]:
        """Those that pods hold ready now. Pods are asked once for all who want to know it at the same time."""
        uid = known.facts.uid
        if uid not in self._looking:
            self._looking[uid] = asyncio.create_task(self._states(self.places(known)), name=f"look {uid}")
            self._looking[uid].add_done_callback(lambda _: self._looking.pop(uid, None))
        said = await asyncio.shield(self._looking[uid])
        found = named(status_of(known.facts.document))
        ready = (one._replace(places=tuple(p for p, state in said if _holds(state, one.revision))) for one in found)
        return [one for one in ready if one.places]

    async def _states(self, places: list[Place]) -> list[tuple[Place, PodState]]:
        """Of those pods that say it soon."""
        asked = {asyncio.create_task(self._pods.state(place)): place for place in places}
        done = (await asyncio.wait(asked, timeout=LOOK_SECONDS))[0] if asked else set()
        for task in asked.keys() - done:
            task.cancel()
        return [(place, state) for task, place in asked.items() if task in done and (state := task.result())]

    async def told(self, version: Version) -> Told | None:
        """What its pods say of it; None where none does."""
        for place in version.places[:3]:
            key = place.uid, version.revision
            if key in self._told:
                self._told.move_to_end(key)
                return self._told[key]
            interface = await self._pods.interface(place, version.revision)
            if read_interface(interface):
                return self._keep(key, interface, await self._pods.prompts(place, version.revision))
        return None

    def _keep(self, key: tuple[str, str], interface: bytes, prompts: bytes) -> Told:
        found = self._told[key] = Told(zlib.compress(interface, 1), zlib.compress(prompts, 1))
        while len(self._told) > 1 and sum(told.size for told in self._told.values()) > MOST_KEPT_BYTES:
            self._told.popitem(last=False)
        return found

    # What differs

    async def diffs(self, known: Known, has_words: bool) -> list[Diff]:
        """What differs between neighbouring versions, as far as pods have told it; the rest is asked for meanwhile, and
        the page is made anew then."""
        uid, found = known.facts.uid, {one.role: one for one in named(status_of(known.facts.document))}
        pairs = [pair for pair in ((PREVIOUS, ACTIVE), (ACTIVE, CANDIDATE)) if set(pair) <= found.keys()]
        if any((uid, found[role].revision) not in self._told for pair in pairs for role in pair):
            self._learn(known)
        return [await self._diff(uid, found[a], found[b], has_words) for a, b in reversed(pairs)]

    async def _diff(self, uid: str, before: Version, after: Version, has_words: bool) -> Diff:
        before_told, after_told = (self._told.get((uid, one.revision)) for one in (before, after))
        key = uid, before.revision, after.revision, has_words
        if key not in self._diffs and before_told and after_told:  # in a thread, for it may take a while
            self._diffs[key] = await asyncio.to_thread(_compared, before_told, after_told, has_words)
        while len(self._diffs) > MOST_DIFFS:
            self._diffs.popitem(last=False)
        made = self._diffs.get(key) or Diff("", "", None, None, has_words)
        return made._replace(before=before.label, after=after.label)

    def _learn(self, known: Known) -> None:
        uid, now = known.facts.uid, asyncio.get_running_loop().time()
        if uid in self._learning or now - self._looked.get(uid, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._looked = {key: at for key, at in self._looked.items() if now - at < AGAIN_SECONDS} | {uid: now}
        task = self._learning[uid] = asyncio.create_task(self._learned(known), name=f"learn {uid}")
        task.add_done_callback(lambda _: self._learning.pop(uid, None))

    async def _learned(self, known: Known) -> None:
        before = set(self._told)
        for version in await self.versions(known):
            await self.told(version)
        known.changes += before != set(self._told)

    async def close(self) -> None:
        """Ask nobody any more."""
        for task in (*self._learning.values(), *self._looking.values()):
            task.cancel()


def _holds(state: PodState, revision: str) -> bool:
    held = state.held.get(revision)
    return held is not None and held.phase == "Ready"


def _compared(before: Told, after: Told, has_words: bool) -> Diff:
    old, new = before.prompted(), after.prompted()
    prompts = prompt_diff(old, new, has_words) if old and new else None
    return Diff("", "", schema_diff(before.schema(), after.schema()), prompts, has_words)


def shuffled(places: tuple[Place, ...], start: int) -> Iterator[Place]:
    """Beginning with another one each time."""
    for n in range(len(places)):
        yield places[(start + n) % len(places)]

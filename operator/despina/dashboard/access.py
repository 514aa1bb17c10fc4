"""Who looks, and what they may see and do: the API server says so, for 30 seconds at a time.

A person brings a Kubernetes bearer token, in a header or pasted into the form once; or a proxy in front vouches for
them, and shows a secret. What they may see and change are their own rights on DSPyPrograms, namespace by namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from despina.cluster.errors import ClusterError, Unavailable
from despina.cluster.reviews import Person

COOKIE = "__Host-despina"
USER_HEADER, GROUPS_HEADER, SECRET_HEADER = "X-Forwarded-User", "X-Forwarded-Groups", "X-Despina-Proxy-Secret"
KNOWN_SECONDS = 30.0
MOST_KNOWN, MOST_RIGHTS, MOST_SESSIONS, SESSIONS_OF_ONE = 4096, 65_536, 2000, 10
"""People, and tokens that are nobody's; what they may do, by namespace; open sessions, and those of one person."""
IDLE_SECONDS, SESSION_SECONDS = 3600.0, 43200.0
LONGEST_TOKEN = 16_384
MOST_REVIEWS, MOST_WAITING = 8, 100
"""Asked about at the same time, of each kind; and tokens of strangers that wait for that."""
REVIEW_SECONDS = 10.0
"""For an answer about somebody. While it is waited for, an open page is told nothing and still says that it is live."""
LOOK, CHANGE = "get", "patch"
Found = TypeVar("Found")


class Busy(ClusterError):
    """Too many tokens that nobody has seen before wait for the API server's word."""


class Reviews(Protocol):
    """What the API server is asked."""

    async def person_of(self, token: str) -> Person | None:
        """Whose token it is."""

    async def may(self, person: Person, verb: str, namespace: str) -> bool:
        """Whether somebody may do this with DSPyPrograms."""


@dataclass(frozen=True)
class Viewer:
    """Somebody who looks."""

    person: Person
    token: str = ""
    """With which they act; without one they only look."""
    is_local: bool = False
    """On this machine, where the page is open to everybody: they act as the page's own process."""

    @property
    def can_act(self) -> bool:
        """Whether there is anything to act with."""
        return self.is_local or bool(self.token)


class Known(Generic[Found]):
    """Answers for a while, and no more of them than there is room for."""

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most
        self._found: OrderedDict[Hashable, tuple[float, Found]] = OrderedDict()

    def get(self, key: Hashable) -> Found | None:
        """What is known still."""
        at, found = self._found.get(key, (-KNOWN_SECONDS, None))
        return found if self._clock() - at < KNOWN_SECONDS else None

    def put(self, key: Hashable, found: Found) -> None:
        """What was answered now."""
        self._found[key] = (self._clock(), found)
        self._found.move_to_end(key)
        while len(self._found) > self._most:
            self._found.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """It is not so any more."""
        self._found.pop(key, None)

    def __contains__(self, key: Hashable) -> bool:
        """Whether it was known lately."""
        return key in self._found


class Door:
    """Lets people in, as far as they may."""

    def __init__(
        self, reviews: Reviews, clock: Callable[[], float], proxy_secret: str = "", is_open: bool = False
    ) -> None:
        """`clock` is one that never goes back. `is_open`: whoever reaches the page may do everything."""
        self._reviews = reviews
        self._proxy_secret = proxy_secret
        self._is_open = is_open
        self._persons: Known[Person] = Known(clock, MOST_KNOWN)
        self._refused: Known[bool] = Known(clock, MOST_KNOWN)
        self._rights: Known[bool] = Known(clock, MOST_RIGHTS)
        # Anybody can send any number of tokens that are nobody's: those who are known do not wait behind them.
        self._for_strangers, self._for_known, self._for_rights = (asyncio.Semaphore(MOST_REVIEWS) for _ in range(3))
        self._waiting = 0
        self.sessions = Sessions(clock)

    async def viewer(self, headers: Mapping[str, str], cookie: str) -> Viewer | None:
        """Who sends a request; None for nobody. Raises ClusterError."""
        if self._is_open:
            return Viewer(Person("you, on this machine"), is_local=True)
        if self._proxy_secret and (said := headers.get(SECRET_HEADER)):
            return self._vouched_for(headers) if _same(said, self._proxy_secret) else None
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        token = shown.strip() if kind.lower() == "bearer" else self.sessions.token(cookie)
        return await self.holder(token) if token else None

    async def holder(self, token: str) -> Viewer | None:
        """Whose token it is; None for nobody's. Raises ClusterError."""
        if not is_token(token):
            return None
        key = _digest(token)
        person = self._persons.get(key)
        if person is None and not self._refused.get(key):
            person = await self._person(key, token)
        return Viewer(person, token) if person else None

    async def _person(self, key: str, token: str) -> Person | None:
        async with self._for_known if key in self._persons else self._as_stranger():
            person = await _soon(self._reviews.person_of(token))
        if person:
            self._persons.put(key, person)
        else:
            self._persons.drop(key)
            self._refused.put(key, True)
        return person

    @contextlib.asynccontextmanager
    async def _as_stranger(self) -> AsyncIterator[None]:
        if self._waiting >= MOST_WAITING:
            raise Busy("too many tokens wait")
        self._waiting += 1
        try:
            async with self._for_strangers:
                yield
        finally:
            self._waiting -= 1

    def _vouched_for(self, headers: Mapping[str, str]) -> Viewer | None:
        name, groups = headers.get(USER_HEADER, "").strip(), headers.get(GROUPS_HEADER, "").split(",")
        if not name or name.startswith("system:"):  # a proxy knows people, and no part of the cluster
            return None
        whole = tuple(g.strip() for g in groups if g.strip() and not g.strip().startswith("system:"))
        return Viewer(Person(name, (*whole, "system:authenticated")))

    async def may(self, viewer: Viewer, verb: str, namespace: str) -> bool:
        """Whether they may do this with a namespace's programs. Raises ClusterError."""
        if viewer.is_local:
            return True
        key = viewer.person, verb, namespace
        known = self._rights.get(key)
        if known is not None:
            return known
        async with self._for_rights:
            answer = await _soon(self._reviews.may(*key))
        self._rights.put(key, answer)
        return answer

    async def seen(self, viewer: Viewer, namespaces: Iterable[str]) -> list[str]:
        """Of these namespaces, those whose programs they may see. Raises ClusterError."""
        asked = sorted(set(namespaces))
        answers = await asyncio.gather(*(self.may(viewer, LOOK, namespace) for namespace in asked))
        return [namespace for namespace, is_seen in zip(asked, answers, strict=True) if is_seen]

    async def acts(self, viewer: Viewer, namespace: str) -> bool:
        """Whether they get buttons there. Raises ClusterError."""
        return viewer.can_act and await self.may(viewer, CHANGE, namespace)


class Sessions:
    """Tokens of those who pasted one, in this process' memory alone: the browser gets a word that stands for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: OrderedDict[str, tuple[str, float, float, str]] = OrderedDict()

    def begin(self, token: str, whose: str) -> str:
        """A new word for a token; the one that was used longest ago makes room, of theirs if they have many."""
        word, now = secrets.token_urlsafe(32), self._clock()
        own = [key for key, (_, _, _, holder) in self._open.items() if holder == whose]
        for key in own[: max(0, len(own) + 1 - SESSIONS_OF_ONE)]:
            del self._open[key]
        self._open[_digest(word)] = (token, now, now, whose)
        while len(self._open) > MOST_SESSIONS:
            self._open.popitem(last=False)
        return word

    def token(self, word: str) -> str:
        """What it stands for; empty for what nobody was given, or too long ago."""
        key, now = _digest(word), self._clock()
        token, began, used, whose = self._open.get(key, ("", 0.0, 0.0, ""))
        if not token:
            return ""
        if now - began > SESSION_SECONDS or now - used > IDLE_SECONDS:
            self.end(word)
            return ""
        self._open[key] = (token, began, now, whose)
        self._open.move_to_end(key)
        return token

    def end(self, word: str) -> None:
        """It stands for nothing any more."""
        self._open.pop(_digest(word), None)


async def _soon(review: Awaitable[Found]) -> Found:
    """What the API server says of somebody; raises ClusterError where that takes too long."""
    try:
        async with asyncio.timeout(REVIEW_SECONDS):
            return await review
    except TimeoutError:
        raise Unavailable("the API server takes too long to say who somebody is and what they may") from None


def is_token(text: str) -> bool:
    """Whether it can be one: nothing else is sent anywhere."""
    return 0 < len(text) <= LONGEST_TOKEN and text.isascii() and text.isprintable() and " " not in text


def is_same_origin(headers: Mapping[str, Any], host: str, has_cookie: bool) -> bool:
    """Whether a page of ours sends this. A browser names where a POST comes from; what shows its own token and no
    cookie needs no such word, for no other page can make a browser send that."""
    origin = headers.get("Origin")
    if origin is None:
        return not has_cookie
    return str(origin).partition("://")[2] == host and host != ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _same(said: str, secret: str) -> bool:
    return hmac.compare_digest(said.encode(errors="replace"), secret.encode())

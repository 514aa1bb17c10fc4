"""Who looks, and what they may see and do: the API server says so, for 30 seconds at a time.

A person brings a Kubernetes bearer token, in a header or pasted into the form once; or a proxy in front vouches for
them, and shows a secret. What they may see and change are their own rights on DSPyPrograms, namespace by namespace.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from despina.cluster.reviews import Person

COOKIE = "__Host-despina"
USER_HEADER, GROUPS_HEADER, SECRET_HEADER = "X-Forwarded-User", "X-Forwarded-Groups", "X-Despina-Proxy-Secret"
KNOWN_SECONDS = 30.0
MOST_KNOWN, MOST_SESSIONS = 4096, 2000
IDLE_SECONDS, SESSION_SECONDS = 3600.0, 43200.0
LONGEST_TOKEN = 16_384
MOST_REVIEWS = 8
"""At the same time: strangers' tokens are asked about, too."""
LOOK, CHANGE = "get", "patch"
Found = TypeVar("Found")


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

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: OrderedDict[Hashable, tuple[float, Found]] = OrderedDict()

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[Found]]) -> Found:
        """What is known, or else asked now."""
        at, found = self._found.get(key, (-KNOWN_SECONDS, None))
        if self._clock() - at < KNOWN_SECONDS:
            return found  # type: ignore[return-value]
        answer = await ask()
        self._found[key] = (self._clock(), answer)
        self._found.move_to_end(key)
        while len(self._found) > MOST_KNOWN:
            self._found.popitem(last=False)
        return answer


class Door:
    """Lets people in, as far as they may."""

    def __init__(
        self, reviews: Reviews, clock: Callable[[], float], proxy_secret: str = "", is_open: bool = False
    ) -> None:
        """`clock` is one that never goes back. `is_open`: whoever reaches the page may do everything."""
        self._reviews = reviews
        self._proxy_secret = proxy_secret
        self._is_open = is_open
        self._persons: Known[Person | None] = Known(clock)
        self._rights: Known[bool] = Known(clock)
        self._seats = asyncio.Semaphore(MOST_REVIEWS)
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
        person = await self._persons.get(_digest(token), lambda: self._person(token))
        return Viewer(person, token) if person else None

    async def _person(self, token: str) -> Person | None:
        async with self._seats:
            return await self._reviews.person_of(token)

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
        person = viewer.person
        return await self._rights.get((person, verb, namespace), lambda: self._may(person, verb, namespace))

    async def _may(self, person: Person, verb: str, namespace: str) -> bool:
        async with self._seats:
            return await self._reviews.may(person, verb, namespace)

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
        self._open: OrderedDict[str, tuple[str, float, float]] = OrderedDict()

    def begin(self, token: str) -> str:
        """A new word for a token; the one that was used longest ago makes room."""
        word, now = secrets.token_urlsafe(32), self._clock()
        self._open[_digest(word)] = (token, now, now)
        while len(self._open) > MOST_SESSIONS:
            self._open.popitem(last=False)
        return word

    def token(self, word: str) -> str:
        """What it stands for; empty for what nobody was given, or too long ago."""
        key, now = _digest(word), self._clock()
        token, began, used = self._open.get(key, ("", 0.0, 0.0))
        if not token:
            return ""
        if now - began > SESSION_SECONDS or now - used > IDLE_SECONDS:
            self.end(word)
            return ""
        self._open[key] = (token, began, now)
        self._open.move_to_end(key)
        return token

    def end(self, word: str) -> None:
        """It stands for nothing any more."""
        self._open.pop(_digest(word), None)


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

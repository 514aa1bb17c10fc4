"""Makes the names of predictions, in the form of `despina/wire/predictions.py`, and keeps what they are made with."""

from __future__ import annotations

import ipaddress
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from despina.wire import RuntimeConfig
from despina.wire.predictions import ORIGIN, Prediction, Signer, key_of, trace_id_named

MOST_HIT = 256
"""Predictions of which the MACs of some names of cached answers are kept."""
POD_ENV, KEY_ENV = "DESPINA_POD", "DESPINA_PREDICTION_KEY"
"""What the supervisor leaves for its workers."""
KEY_FILE = "prediction-key"


def prepare(cache: Path, pod: str) -> None:
    """Leave for the workers who this pod is, and a key for where no operator gave one."""
    os.environ[POD_ENV] = pod
    file = cache / KEY_FILE
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32))
    os.environ[KEY_ENV] = file.read_text()


def address_of(pod: str) -> str:
    """Where a name's pod is, as it stands in a URL; empty if it has no address."""
    if len(pod) not in (12, 36):
        return ""
    found = ipaddress.ip_address(bytes.fromhex(pod[4:]))
    return f"{f'[{found}]' if found.version == 6 else found}:{int(pod[:4], 16)}"


def place_of(origin: str) -> tuple[str, int]:
    """A prediction's worker, in this life of it, and its number among that one's; they grow as predictions end. Raises
    ValueError for what is no prediction's name."""
    if not ORIGIN.fullmatch(origin):
        raise ValueError("no prediction is called so")
    begins, _, number = origin.rpartition("-")
    return begins.rpartition("-")[0], int(number, 16)


def revision_in(origin: str) -> str:
    """The revision that made a prediction, in the name of one."""
    return origin.partition("-")[0]


def made_at(origin: str) -> int:
    """When a prediction was made, in seconds since the epoch, in the name of one."""
    return int(origin.split("-")[3].partition("x")[0], 16)


class Names:
    """Makes names in one worker, and reads those of all."""

    def __init__(self, key: bytes, revision: str, pod: str, clock: Callable[[], float] = time.time) -> None:
        self._signer = Signer(key)
        self._hit: dict[str, Iterator[str]] = {}
        self.revision = revision
        self._worker = secrets.token_hex(4)
        self._begins = f"{revision}-{pod}-{self._worker}"
        self._clock = clock
        self._numbers, self._begun = itertools.count(1), itertools.count(1)
        self._now, self._this_second = 0, ""

    def begin(self) -> tuple[str, str]:
        """For a request that begins: what its name will hold of that, and the id of its trace."""
        begun = f"x{next(self._begun):x}"
        return begun, trace_id_named(self._begins + begun)

    def origin(self, begun: str = "") -> str:
        """A new prediction's name, without its MAC; of a request that is recorded, with what it began as."""
        if (now := int(self._clock())) != self._now:
            self._now, self._this_second = now, f"{self._begins}-{now:08x}"
        return f"{self._this_second}{begun}-{next(self._numbers):x}"

    def hit(self, origin: str) -> str:
        """The name of an answer that was given again."""
        if (found := self._hit.get(origin)) is None:
            if len(self._hit) >= MOST_HIT:
                self._hit.clear()
            found = self._hit[origin] = self._hits(origin)
        return next(found)

    def _hits(self, origin: str) -> Iterator[str]:
        while True:
            yield from self._signer.hits(f"{origin}~{self._worker}{next(self._numbers):x}")

    def signed(self, name: str) -> str:
        """With its MAC."""
        return self._signer.signed(name)

    def read(self, name: str) -> Prediction | None:
        """What a name says; None for what is none at all. Raises Foreign if the program has not made it."""
        return self._signer.read(name)


def names_of(config: RuntimeConfig) -> Names:
    """Those of one revision in this pod, as the supervisor has prepared it."""
    return Names(shared_key(config), config.revision, os.environ.get(POD_ENV, ""))


def shared_key(config: RuntimeConfig) -> bytes:
    """The key that all of the program's pods have; without a cluster, that of this machine."""
    return key_of(config.read_key or os.environ.get(KEY_ENV, ""))

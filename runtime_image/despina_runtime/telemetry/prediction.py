"""What a prediction is called. The name says where it was made, and only the program's pods can make one up.

`REVISION-POD-WORKER-TIMExBEGUN-NUMBER-MAC`. POD is the pod's address and admin port in hexadecimal digits, so that any
replica finds the one that answered; TIME are seconds since the epoch. BEGUN and NUMBER count the worker's requests, as
they begin and as they end. BEGUN makes the trace's id, which tools hear of before a request ends; what was named before
there was one has none. A cached answer is called by its origin's name, with `~` and a number of its own before the MAC.
The key is the program's: all of its pods and revisions have the same.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from despina.wire import RuntimeConfig

MAC_BYTES = 8
POD_ENV, KEY_ENV = "DESPINA_POD", "DESPINA_PREDICTION_KEY"
"""What the supervisor leaves for its workers."""
KEY_FILE = "prediction-key"
ORIGIN = re.compile(
    r"(?P<begins>(?P<revision>[0-9a-z]{1,16})-(?P<pod>[0-9a-f]{0,36})-[0-9a-f]{8})-"
    r"(?P<time>[0-9a-f]{8})(?P<begun>x[0-9a-f]{1,15})?-[0-9a-f]{1,15}"
)
FORM = re.compile(rf"(?P<origin>{ORIGIN.pattern})(?P<hit>~[0-9a-f]{{9,24}})?-(?P<mac>[0-9a-f]{{16}})")


def key_of(secret: str) -> bytes:
    """The key of names, from one that the program's pods share for something else."""
    return hashlib.blake2b(b"despina predictions", key=secret.encode()[:64], digest_size=32).digest()


def prepare(cache: Path, pod: str) -> None:
    """Leave for the workers who this pod is, and a key for where no operator gave one."""
    os.environ[POD_ENV] = pod
    file = cache / KEY_FILE
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32))
    os.environ[KEY_ENV] = file.read_text()


def pod_of(address: str, port: int) -> str:
    """A pod's part of the name, from its IP address and its admin port; empty without an address."""
    return f"{port:04x}{ipaddress.ip_address(address).packed.hex()}" if address else ""


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


def pod_in(origin: str) -> str:
    """The pod that made a prediction, in the name of one."""
    return origin.split("-")[1]


def revision_in(origin: str) -> str:
    """The revision that made a prediction, in the name of one."""
    return origin.partition("-")[0]


def made_at(origin: str) -> int:
    """When a prediction was made, in seconds since the epoch, in the name of one."""
    return int(origin.split("-")[3].partition("x")[0], 16)


def trace_id_of(origin: str) -> str:
    """32 hexadecimal digits: a prediction's trace, wherever it is delivered. It is the request's own, unless that was a
    part of its caller's trace: of such there may be many, and a prediction is one."""
    found = ORIGIN.fullmatch(origin)
    return _trace_id(found["begins"] + found["begun"] if found and found["begun"] else origin)


def _trace_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def unsigned(name: str) -> str:
    """A name without its MAC: by it those are told apart that were read before, or that need none."""
    return name.rpartition("-")[0] if FORM.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a name says."""

    name: str
    origin: str
    """The name, without its MAC, of the prediction whose answer it is: of a cached answer, the one that was cached."""
    revision: str
    pod: str
    at: int
    """When the origin was made, in seconds since the epoch."""


class Names:
    """Makes names in one worker, and reads those of all."""

    def __init__(self, key: bytes, revision: str, pod: str, clock: Callable[[], float] = time.time) -> None:
        self._hash = hashlib.blake2b(key=key, digest_size=MAC_BYTES)
        self.revision = revision
        self._worker = secrets.token_hex(4)
        self._begins = f"{revision}-{pod}-{self._worker}"
        self._clock = clock
        self._numbers, self._begun = itertools.count(1), itertools.count(1)
        self._now, self._this_second = 0, ""

    def begin(self) -> tuple[str, str]:
        """For a request that begins: what its name will hold of that, and the id of its trace."""
        begun = f"x{next(self._begun):x}"
        return begun, _trace_id(self._begins + begun)

    def origin(self, begun: str = "") -> str:
        """A new prediction's name, without its MAC; of a request that is recorded, with what it began as."""
        if (now := int(self._clock())) != self._now:
            self._now, self._this_second = now, f"{self._begins}-{now:08x}"
        return f"{self._this_second}{begun}-{next(self._numbers):x}"

    def hit(self, origin: str) -> str:
        """The name of an answer that was given again."""
        return self.signed(f"{origin}~{self._worker}{next(self._numbers):x}")

    def signed(self, name: str) -> str:
        """With its MAC."""
        hashed = self._hash.copy()
        hashed.update(name.encode())
        return f"{name}-{hashed.hexdigest()}"

    def read(self, name: str) -> Prediction | None:
        """What a name says; None for what is none at all. Raises Foreign if the program has not made it."""
        found = FORM.fullmatch(name)
        if found is None:
            return None
        if not hmac.compare_digest(self.signed(name.rpartition("-")[0]), name):
            raise Foreign
        return Prediction(name, found["origin"], found["revision"], found["pod"], int(found["time"], 16))


def names_of(config: RuntimeConfig) -> Names:
    """Those of one revision in this pod, as the supervisor has prepared it."""
    return Names(shared_key(config), config.revision, os.environ.get(POD_ENV, ""))


def shared_key(config: RuntimeConfig) -> bytes:
    """The key that all of the program's pods have; without a cluster, that of this machine."""
    return key_of(config.read_key or os.environ.get(KEY_ENV, ""))


class Foreign(Exception):
    """A prediction's name that another program made, or nobody."""

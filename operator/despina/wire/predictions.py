"""What a prediction is called. The name says where it was made, and only those can make one up who have the program's
read key: its pods, and who made it.

`REVISION-POD-WORKER-TIMExBEGUN-NUMBER-MAC`. POD is the pod's address and admin port in hexadecimal digits, so that any
replica finds the one that answered; TIME are seconds since the epoch. BEGUN and NUMBER count the worker's requests, as
they begin and as they end. BEGUN makes the trace's id, which tools hear of before a request ends; what was named before
there was one has none. A cached answer is called by its origin's name, with `~` and a number of its own before the MAC.
The key is the program's: all of its pods and revisions have the same.

A cached answer costs 40 microseconds, so that a MAC of its own for each would show: one hash gives eight of them, and
the last digit of such a name says which it is.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAC_BYTES = 8
DIGITS = 2 * MAC_BYTES
TOGETHER = 8
"""Names of cached answers that one hash is for, which is as long as BLAKE2b makes it."""
ORIGIN = re.compile(
    r"(?P<begins>(?P<revision>[0-9a-z]{1,16})-(?P<pod>[0-9a-f]{0,36})-[0-9a-f]{8})-"
    r"(?P<time>[0-9a-f]{8})(?P<begun>x[0-9a-f]{1,15})?-[0-9a-f]{1,15}"
)
FORM = re.compile(rf"(?P<origin>{ORIGIN.pattern})(?P<hit>~[0-9a-f]{{9,24}})?-(?P<mac>[0-9a-f]{{16}})")


class Foreign(Exception):
    """A prediction's name that another program made, or nobody."""


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


def key_of(secret: str) -> bytes:
    """The key of names, from one that the program's pods share for something else."""
    return hashlib.blake2b(b"despina predictions", key=secret.encode()[:64], digest_size=32).digest()


class Signer:
    """Signs names, and reads those that are signed."""

    def __init__(self, key: bytes) -> None:
        self._hash = hashlib.blake2b(key=key, digest_size=MAC_BYTES)
        self._hash_of_hits = hashlib.blake2b(key=key, digest_size=TOGETHER * MAC_BYTES)

    def signed(self, name: str) -> str:
        """A name with its MAC."""
        if "~" not in name:
            return f"{name}-{_hashed(self._hash, name)}"
        place = int(name[-1], 16) * DIGITS
        return f"{name}-{_hashed(self._hash_of_hits, name[:-1])[place : place + DIGITS]}"

    def hits(self, begins: str) -> Iterator[str]:
        """Names that begin so of cached answers, with their MACs."""
        macs = _hashed(self._hash_of_hits, begins)
        for number in range(TOGETHER):
            yield f"{begins}{number}-{macs[number * DIGITS : number * DIGITS + DIGITS]}"

    def read(self, name: str) -> Prediction | None:
        """What a name says; None for what is none at all. Raises Foreign if the program has not made it."""
        found = FORM.fullmatch(name)
        if found is None:
            return None
        if not hmac.compare_digest(self.signed(name.rpartition("-")[0]), name):
            raise Foreign
        return Prediction(name, found["origin"], found["revision"], found["pod"], int(found["time"], 16))


def _hashed(keyed: hashlib.blake2b, text: str) -> str:
    mac = keyed.copy()
    mac.update(text.encode())
    return mac.hexdigest()


def pod_of(address: str, port: int) -> str:
    """A pod's part of the name, from its IP address and its admin port; empty without an address."""
    return f"{port:04x}{ipaddress.ip_address(address).packed.hex()}" if address else ""


def pod_in(origin: str) -> str:
    """The pod that made a prediction, in the name of one."""
    return origin.split("-")[1]


def trace_id_of(origin: str) -> str:
    """32 hexadecimal digits: a prediction's trace, wherever it is delivered. It is the request's own, unless that was a
    part of its caller's trace: of such there may be many, and a prediction is one."""
    found = ORIGIN.fullmatch(origin)
    return trace_id_named(found["begins"] + found["begun"] if found and found["begun"] else origin)


def trace_id_named(name: str) -> str:
    """A trace's id, made of a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def unsigned(name: str) -> str:
    """A name without its MAC: by it those are told apart that were read before, or that need none."""
    return name.rpartition("-")[0] if FORM.fullmatch(name) else name

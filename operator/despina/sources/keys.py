"""The operator's own keys, and the tokens that callers present to tools, which are derived from them, so that none has
to be kept or read back.

There are two keys while one is replaced: pods and tools that know only the one before are still spoken to. One tool's
token differs from namespace to namespace: a namespace that may no longer call loses its own, and nobody else's changes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.wire import ask_seed, program_key

log = logging.getLogger(__name__)
CURRENT, PREVIOUS = "ed25519", "previous"
"""Fields of the Secret, each with the 32 bytes of a private key."""
READ_ROOT, READ_ROOT_BEFORE = "root", "previous"
"""Fields of the Secret that lets the page read programs' pods, and ask them by hand. It gives no orders; whoever has it
could make up names of predictions, which pods sign with their read key (`despina/wire/predictions.py`)."""
_READING = ("what lets read", "all programs")
"""No tool has such a uid and no namespace such a name, so that this is no tool's token."""


def read_keys(data: Mapping[str, bytes]) -> tuple[Ed25519PrivateKey, ...]:
    """The current key and, while it is replaced, the one before; nothing where there is no current one."""
    current, previous = (_read(data, field) for field in (CURRENT, PREVIOUS))
    if current is None:
        return ()
    return (current, previous) if previous and data[PREVIOUS] != data[CURRENT] else (current,)


def _read(data: Mapping[str, bytes], field: str) -> Ed25519PrivateKey | None:
    if field not in data:
        return None
    try:
        return Ed25519PrivateKey.from_private_bytes(data[field])
    except ValueError:
        log.error("The order key's Secret has no key of 32 bytes field=%s", field)
        return None


def minter(keys: Sequence[Ed25519PrivateKey]) -> Callable[[str, str], tuple[str, ...]]:
    """Makes the tokens for a tool's uid and a namespace of callers, one from each key, the current one's first."""
    secrets = [hmac.digest(key.private_bytes_raw(), b"despina tool tokens", hashlib.sha256) for key in keys]

    def mint(uid: str, namespace: str) -> tuple[str, ...]:
        text = f"{uid}/{namespace}".encode()
        return tuple(hmac.new(secret, text, hashlib.sha256).hexdigest() for secret in secrets)

    return mint


def read_roots(mint: Callable[[str, str], tuple[str, ...]]) -> dict[str, bytes]:
    """What programs' read keys are made of (`wire.program_key`), as it stands in the Secret."""
    return {name: root.encode() for name, root in zip((READ_ROOT, READ_ROOT_BEFORE), mint(*_READING), strict=False)}


def read_key(mint: Callable[[str, str], tuple[str, ...]], uid: str, namespace: str) -> str:
    """The read key of one program, by the present key."""
    return program_key(mint(*_READING)[0], uid, namespace)


def asking_key(root: str, uid: str, namespace: str) -> Ed25519PrivateKey:
    """With which questions by hand to one program are signed."""
    return Ed25519PrivateKey.from_private_bytes(ask_seed(root, uid, namespace))


def ask_key(mint: Callable[[str, str], tuple[str, ...]], uid: str, namespace: str) -> str:
    """Base64 of its public half, by the present key."""
    public = asking_key(mint(*_READING)[0], uid, namespace).public_key()
    return base64.b64encode(public.public_bytes_raw()).decode()

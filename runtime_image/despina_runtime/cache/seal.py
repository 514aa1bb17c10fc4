"""Entries as they leave the process: what comes back must be what one of the program's pods kept under that name.

On a pod's disk a seal tells damage. A Redis may be shared with others: there it is made with a key that only the
program's pods have.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

BYTES = 16
PLAIN = b"-"
"""The key where there is no secret: for a disk that only the pod writes to, and for a program that no operator runs."""
Keys = Callable[[], Sequence[bytes]]
"""The key that seals, and after it those that still open: while one is replaced, some pods have the other. None are
left where the file with them is not there yet."""


def seal(key: bytes, name: str, value: bytes) -> bytes:
    """An entry for this value, to be kept under this name."""
    return hmac.digest(key, name.encode() + b"\n" + value, "sha256")[:BYTES] + value


def unseal(keys: Sequence[bytes], name: str, entry: bytes) -> bytes | None:
    """The value; None for an entry that is damaged, forged, or another name's."""
    value = entry[BYTES:]
    return value if any(hmac.compare_digest(seal(key, name, value), entry) for key in keys) else None

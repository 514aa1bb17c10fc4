"""Reading what a pod says of itself: a request is signed with the read key that stands in the pod's configuration.

So whoever may read a program's Deployments may read its pods, and another tenant's pod, which reaches the port, may
not. The key lets nobody order anything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


def program_key(root: str, uid: str, namespace: str) -> str:
    """The read key of one program. Whoever has the root can make them all, and ask by hand
    (`wire/asking.py`), but neither give orders nor call tools."""
    return hmac.new(root.encode(), f"{uid}/{namespace}".encode(), hashlib.sha256).hexdigest()


def reading(keys: Iterable[str], namespace: str, pod: str) -> str:
    """What goes into the header of the signature: one for each key, separated by commas."""
    return ", ".join(hmac.new(key.encode(), f"{namespace}/{pod}".encode(), hashlib.sha256).hexdigest() for key in keys)


def may_read(key: str, namespace: str, pod: str, signatures: str) -> bool:
    """Whether one of the signatures is by this key; a pod without a key, as on a laptop, shows itself to everybody."""
    expected = reading([key], namespace, pod).encode()
    return not key or any(hmac.compare_digest(expected, given.strip().encode()) for given in signatures.split(","))

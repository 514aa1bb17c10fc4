"""The tokens that callers present to tools: derived, so that none has to be kept or read back.

One tool's token differs from namespace to namespace: a namespace that may no longer call loses its own, and nobody
else's changes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def minter(key: Ed25519PrivateKey) -> Callable[[str, str], str]:
    """Makes the token for a tool's uid and a namespace of callers, from the operator's own key."""
    secret = hmac.digest(key.private_bytes_raw(), b"despina tool tokens", hashlib.sha256)

    def mint(uid: str, namespace: str) -> str:
        return hmac.new(secret, f"{uid}/{namespace}".encode(), hashlib.sha256).hexdigest()

    return mint

"""What is read of whoever takes spans: as little as it takes, for their answers have no end if they like."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests

MOST_BYTES = 2**16
"""Of an answer, as it comes over the wire; nothing in it is looked at."""


class Brief(requests.Session):
    """Takes no cookies, asks for nothing packed, and reads no more than MOST_BYTES of an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.headers["Accept-Encoding"] = "identity"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def request(self, *args: Any, **given: Any) -> requests.Response:
        """An answer without its body. One that is longer costs the connection."""
        response = super().request(*args, **given | {"stream": True, "allow_redirects": False})
        try:
            response.raw.read(MOST_BYTES, decode_content=False)
        finally:
            response.close()
        response._content = b""
        return response

"""What a request brings: who asks, and the form that was sent; and the page that it is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from despina.dashboard.access import Viewer

VIEWER = web.RequestKey("viewer", Viewer)
MOST_SENT = 65_536
"""Of what a browser sends."""


async def form_of(request: web.Request, most: int = MOST_SENT) -> Mapping[str, Any]:
    """What a form sends, in so many bytes. Ours send no parts, which are hard to read and could hold files."""
    if request.content_type.startswith("multipart/"):
        raise web.HTTPUnsupportedMediaType(text="a form is sent as application/x-www-form-urlencoded here")
    try:
        return await request.clone(client_max_size=most).post()
    except (ValueError, LookupError):
        raise web.HTTPBadRequest(text="this is no form") from None


def answer_of(page: str, status: int = 200) -> web.Response:
    """A whole page; what can be no text, such as half a letter, is replaced."""
    answer = web.Response(body=page.encode(errors="replace"), content_type="text/html", charset="utf-8", status=status)
    answer.enable_compression()
    return answer

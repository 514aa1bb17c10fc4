"""What a request brings: who asks, and the form that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from despina.dashboard.access import Viewer

VIEWER = web.RequestKey("viewer", Viewer)


async def form_of(request: web.Request) -> Mapping[str, Any]:
    """What a form sends. Ours send no parts, which are hard to read and could hold files."""
    if request.content_type.startswith("multipart/"):
        raise web.HTTPUnsupportedMediaType(text="a form is sent as application/x-www-form-urlencoded here")
    try:
        return await request.post()
    except (ValueError, LookupError):
        raise web.HTTPBadRequest(text="this is no form") from None

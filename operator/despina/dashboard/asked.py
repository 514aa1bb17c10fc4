"""What a request brings: who asks, and the form that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from despina.dashboard.access import Viewer

VIEWER = web.RequestKey("viewer", Viewer)
MOST_FIELDS = 128
"""Of a form; ours have fewer. A mebibyte of names without values takes seconds to read."""
FORM = "application/x-www-form-urlencoded"


async def form_of(request: web.Request, most: int = 0) -> Mapping[str, str]:
    """What a form sends, of `most` bytes if not of as many as any request. Ours send no parts, which are hard to read
    and could hold files."""
    if request.content_type.startswith("multipart/"):
        raise web.HTTPUnsupportedMediaType(text=f"a form is sent as {FORM} here")
    if request.content_type != FORM:
        return {}
    body = await (request.clone(client_max_size=most) if most else request).read()
    try:
        if (request.charset or "utf-8").lower() != "utf-8":
            raise ValueError("browsers send forms as pages of ours are written")
        sent = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise web.HTTPBadRequest(text="this is no form") from None
    return dict(reversed(sent))  # of a name that comes twice, the first

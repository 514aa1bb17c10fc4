"""What a request brings: who asks, and the form that was sent; and the page that it is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from despina.dashboard.access import Viewer

VIEWER = web.RequestKey("viewer", Viewer)
MOST_SENT = 65_536
"""Of what a browser sends."""
MOST_FIELDS = 128
"""Of a form; ours have fewer. A mebibyte of names without values takes seconds to read."""
FORM = "application/x-www-form-urlencoded"


async def form_of(request: web.Request, most: int = MOST_SENT) -> Mapping[str, str]:
    """What a form sends, in so many bytes. Ours send no parts, which are hard to read and could hold files."""
    if request.content_type.startswith("multipart/"):
        raise web.HTTPUnsupportedMediaType(text=f"a form is sent as {FORM} here")
    if request.content_type != FORM:
        return {}
    body = await request.clone(client_max_size=most).read()
    try:
        if (request.charset or "utf-8").lower() != "utf-8":
            raise ValueError("browsers send forms as pages of ours are written")
        sent = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise web.HTTPBadRequest(text="this is no form") from None
    return dict(reversed(sent))  # of a name that comes twice, the first


def answer_of(page: str, status: int = 200) -> web.Response:
    """A whole page; what can be no text, such as half a letter, is replaced."""
    answer = web.Response(body=page.encode(errors="replace"), content_type="text/html", charset="utf-8", status=status)
    answer.enable_compression()
    return answer

"""`GET /traces` of a pod's admin port: what it has kept, and one of them, which is all that a tool host shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from despina.wire import SIGNATURE_HEADER, TRACES_PATH, Trace, TraceList

ONE_PATH = f"{TRACES_PATH}/{{name}}"
UNREADABLE = "the request is not signed with this pod's read key\n"


class Held(Protocol):
    """What holds traces."""

    def told(self, after: int = 0) -> TraceList:
        """Those that came after a number."""
        ...

    def find(self, name: str) -> Trace | None:
        """One of them."""
        ...


class After(BaseModel):
    """From where a list goes on."""

    after: int = Field(default=0, ge=0)


def trace_routes(traces: Held, is_reader: Callable[[str], bool]) -> list[Route]:
    """The list of what is held, and one of them."""

    def may_read(request: Request) -> bool:
        return is_reader(request.headers.get(SIGNATURE_HEADER, ""))

    async def listed(request: Request) -> Response:
        if not may_read(request):
            return PlainTextResponse(UNREADABLE, 403)
        try:
            asked = After.model_validate(dict(request.query_params))
        except ValidationError:
            return PlainTextResponse("after is a number from 0 on\n", 400)
        return Response(traces.told(asked.after).model_dump_json(exclude_defaults=True), media_type="application/json")

    async def one(request: Request) -> Response:
        if not may_read(request):
            return PlainTextResponse(UNREADABLE, 403)
        return _told(traces.find(request.path_params["name"]))

    return [Route(TRACES_PATH, listed), Route(ONE_PATH, one)]


def hosted_route(find: Callable[[str], Trace | None]) -> Route:
    """One of them, for whoever knows what it is called."""

    async def one(request: Request) -> Response:
        return _told(find(request.path_params["name"]))

    return Route(ONE_PATH, one)


def _told(found: Trace | None) -> Response:
    if found is None:
        return PlainTextResponse("no trace of that name is held\n", 404)
    return Response(found.model_dump_json(exclude_defaults=True), media_type="application/json")

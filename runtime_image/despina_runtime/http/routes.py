"""Everything a caller may ask for beside one prediction: batches, sessions, schemas, the page of documents, health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from despina.wire import RuntimeConfig
from despina_runtime.http.asgi import read_body
from despina_runtime.http.feedback import Feedback
from despina_runtime.http.modules import Modules
from despina_runtime.http.openapi import openapi
from despina_runtime.http.sessions import Sessions
from despina_runtime.http.wishes import Wishing
from despina_runtime.pipeline.attended import WhileThere
from despina_runtime.pipeline.call import Answer
from despina_runtime.problem import MEDIA_TYPE, Disconnected, Problem, as_problem, unexpected
from despina_runtime.program.interface import Interface

LARGEST_BATCH = 256
Run = Callable[[bytes, Mapping[bytes, bytes]], Awaitable[tuple[Answer, str]]]
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css"></head>
<body><div id="ui"></div><script src="docs/assets/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#ui"}})</script></body></html>
"""


def build_routes(
    interface: Interface,
    config: RuntimeConfig,
    modules: Modules,
    sessions: Sessions,
    run: Run,
    wishing: Wishing,
    feedback: Feedback | None = None,
) -> Starlette:
    """The application behind `POST /execute`."""
    schema = interface.schema() | {"program": config.program, "version": config.model.version}
    schemas = modules.schemas()
    return Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse("docs")),
            Route("/execute/batch", Batch(run, config).answer, methods=["POST"]),
            Route("/sessions/{session}/variables", SessionRoute(sessions).answer, methods=["GET", "PUT", "DELETE"]),
            Route("/schema", _answer(schema)),
            Route("/modules", _answer({"modules": schemas})),
            Route("/modules/{path:path}/schema", lambda r: JSONResponse(_schema_of(modules, r))),
            Route("/openapi.json", _answer(openapi(interface, config, schemas, modules.predicting))),
            Route("/docs", lambda _: HTMLResponse(PAGE.format(title=config.program))),
            Mount("/docs/assets", StaticFiles(directory=_assets())),
            Route("/optimize", wishing.answer, methods=["POST"]),
            Route("/modules/{path:path}/optimize", wishing.answer, methods=["POST"]),
            Route("/feedback", feedback.answer if feedback else _no_feedback, methods=["POST"]),
            Route("/healthz", lambda _: PlainTextResponse("ok")),
            Route("/readyz", lambda _: PlainTextResponse("ok")),
        ],
        exception_handlers={
            404: _not_found,
            405: _not_allowed,
            Problem: _problem,
            Disconnected: _gone,
            Exception: _unexpected,
        },
    )


async def _no_feedback(_: Request) -> Response:
    detail = "spec.feedback: {} in the manifest offers this"
    raise Problem(404, "feedback-disabled", "No predictions are recorded that a label could be about", detail)


def _answer(document: Any) -> Callable[[Request], Response]:
    """A document that does not change."""
    body = orjson.dumps(document)
    return lambda _: Response(body, media_type="application/json")


def _schema_of(modules: Modules, request: Request) -> dict[str, Any]:
    return modules.interface(request.path_params["path"]).schema()


class Batch:
    """`POST /execute/batch`: many inputs at once, each with a result of its own, in the same order."""

    def __init__(self, run: Run, config: RuntimeConfig) -> None:
        self._run = run
        self._limit = config.limits.max_request_bytes
        self._at_once = -(-config.max_concurrency // config.workers)

    async def answer(self, request: Request) -> Response:
        """Always 200; how each input fared stands beside it."""
        items = _items(await read_body(request.receive, self._limit))
        headers, turns = dict(request.scope["headers"]), asyncio.Semaphore(self._at_once)

        async def one(item: Any) -> bytes:
            async with turns:
                return await self._one(to_json(item, inf_nan_mode="constants"), headers)

        with WhileThere(request.receive):
            results = await asyncio.gather(*map(one, items))
        return Response(b'{"results":[%s]}' % b",".join(results), media_type="application/json")

    async def _one(self, body: bytes, headers: Mapping[bytes, bytes]) -> bytes:
        try:
            answer, name = await self._run(body, headers)
        except Exception as exc:
            return b'{"problem":%s}' % as_problem(exc).body()
        degraded = b',"degraded":%s' % orjson.dumps(answer.degraded) if answer.degraded else b""
        return b'{"outputs":%s,"prediction_id":"%s"%s}' % (answer.body, name.encode(), degraded)


def _items(body: bytes) -> list[Any]:
    try:
        document = from_json(body)
        items = document["inputs"]
    except (ValueError, KeyError, TypeError):
        items = None
    if not isinstance(items, list) or not 1 <= len(items) <= LARGEST_BATCH or set(document) != {"inputs"}:
        wanted = f'an object {{"inputs": [...]}} with 1 to {LARGEST_BATCH} items'
        raise Problem(
            422, "invalid-input", "The batch cannot be read", f"inputs: {wanted}",
            ({"field": "inputs", "message": wanted},),
        )  # fmt: skip
    return items


class SessionRoute:
    """`/sessions/{session}/variables`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def answer(self, request: Request) -> Response:
        """The variables as they are then."""
        session = request.path_params["session"]
        if request.method == "DELETE":
            await self._sessions.delete(session)
            return Response(status_code=204)
        if request.method == "PUT":
            variables = await self._sessions.put(session, await read_body(request.receive, 4096))
        else:
            variables = await self._sessions.get(session)
        return JSONResponse(variables.model_dump(exclude_none=True))


def _assets() -> Path:
    """Swagger UI's files from the installed package: the page works without the internet."""
    spec = find_spec("swagger_ui")  # only its files are needed, and its code would bring a template engine
    return Path(*((spec and spec.submodule_search_locations) or ())) / "static"


async def _problem(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, Problem)  # noqa: S101 - the handler is registered for this type
    headers = {k.decode(): v.decode() for k, v in exc.headers()}
    return Response(exc.body(), exc.status, headers, media_type=MEDIA_TYPE.decode())


async def _not_found(request: Request, _: Exception) -> Response:
    return await _problem(request, Problem(404, "not-found", "There is nothing here", request.url.path))


async def _not_allowed(request: Request, exc: Exception) -> Response:
    problem = Problem(405, "method-not-allowed", "This method is not offered here", request.method)
    response = await _problem(request, problem)
    response.headers.update(getattr(exc, "headers", None) or {})
    return response


async def _unexpected(request: Request, exc: Exception) -> Response:
    return await _problem(request, unexpected(exc))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)

"""Everything a caller may ask for beside a prediction: the schema, OpenAPI, the page of documents, health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import swagger_ui
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from despina.wire import RuntimeConfig
from despina_runtime.admin import metrics
from despina_runtime.problem import MEDIA_TYPE, Problem
from despina_runtime.program.interface import REFS, Interface

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css"></head>
<body><div id="ui"></div><script src="docs/assets/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#ui"}})</script></body></html>
"""


def build_routes(interface: Interface, config: RuntimeConfig) -> Starlette:
    """The application behind `POST /execute`."""
    schema = interface.schema() | {"program": config.program, "version": config.model.version}
    document = openapi(interface, config)
    page = PAGE.format(title=config.program)

    def answer_schema(_: Request) -> Response:
        return JSONResponse(schema)

    def answer_openapi(_: Request) -> Response:
        return JSONResponse(document)

    def answer_docs(_: Request) -> Response:
        return HTMLResponse(page)

    def answer_health(_: Request) -> Response:
        return PlainTextResponse("ok")

    def answer_root(_: Request) -> Response:
        return RedirectResponse("docs")

    return Starlette(
        routes=[
            Route("/", answer_root),
            Route("/schema", answer_schema),
            Route("/openapi.json", answer_openapi),
            Route("/docs", answer_docs),
            Mount("/docs/assets", StaticFiles(directory=_assets())),
            Route("/healthz", answer_health),
            Route("/readyz", answer_health),
            Route("/metrics", metrics),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed},
    )


def _assets() -> Path:
    """Swagger UI's files from the installed package: the page works without the internet."""
    return Path(swagger_ui.__file__).parent / "static"


def _problem(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, media_type=MEDIA_TYPE.decode())


async def _not_found(request: Request, _: Exception) -> Response:
    return _problem(Problem(404, "not-found", "There is nothing here", request.url.path))


async def _not_allowed(request: Request, _: Exception) -> Response:
    return _problem(Problem(405, "method-not-allowed", "This method is not offered here", request.method))


def openapi(interface: Interface, config: RuntimeConfig) -> dict[str, Any]:
    """OpenAPI 3.1 of the serving port, from the program's interface."""
    schemas: dict[str, Any] = {"Problem": PROBLEM}
    for model, mode in ((interface.inputs, "validation"), (interface.outputs, "serialization")):
        schema = model.model_json_schema(ref_template=REFS, mode=mode)  # type: ignore[arg-type]
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    problem = {"content": {MEDIA_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    errors = {"422": "The input does not fit the signature", "500": "The program raised an error"}
    errors |= {"502": "The language model failed", "504": "The deadline passed"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": config.program,
            "version": config.model.version,
            "description": interface.instructions,
        },
        "paths": {
            "/execute": {
                "post": {
                    "summary": f"Run {config.program}",
                    "operationId": "execute",
                    "requestBody": {"required": True, "content": _json("Inputs")},
                    "responses": {
                        "200": {"description": "The program's outputs", "content": _json("Outputs")},
                        **{status: {"description": text, **problem} for status, text in errors.items()},
                    },
                }
            }
        },
        "components": {"schemas": schemas},
    }


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REFS.format(model=model)}}}


PROBLEM = {
    "type": "object",
    "description": "An RFC 9457 problem document.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "required": ["type", "title", "status"],
}

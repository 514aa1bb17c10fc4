"""OpenAPI 3.1 of the serving port, from the program's interface and its modules'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from despina.wire import RuntimeConfig
from despina.wire.labels import Reply
from despina_runtime.feedback.label import MOST_LABELS, Given
from despina_runtime.http.feedback import TRUST_HEADER
from despina_runtime.http.sessions import ID, Variables
from despina_runtime.problem import MEDIA_TYPE
from despina_runtime.program.interface import REFS, Interface
from despina_runtime.program.written import Published

JSON = "application/json"
PROBLEMS = {
    "400": "The session's id cannot be one",
    "401": "The bearer token is missing or wrong",
    "404": "There is no such module",
    "413": "The body is too large",
    "422": "The input does not fit the signature, the LM is not listed, or it does not take the request",
    "429": "Too many requests; Retry-After says when to come back",
    "500": "The program raised an error",
    "502": "The language model or a tool failed, or the answer does not fit the signature",
    "503": "Overloaded, or a breaker is open; Retry-After says when to come back",
    "504": "The deadline passed",
}
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
WISHES = {
    "404": PROBLEMS["404"],
    "413": PROBLEMS["413"],
    "422": "The body says something",
    "429": PROBLEMS["429"],
    "501": "There is no operator",
    "503": "The request could not be noted; Retry-After says when to come back",
}
LABELLED = {
    "401": "A token is wrong, of whoever may ask or of those whose labels are trusted",
    "404": "There is no such prediction",
    "410": "What this label is about is not kept any more",
    "413": PROBLEMS["413"],
    "422": "A field of the label does not fit",
    "503": "The label could not be stored; Retry-After says when to come back",
}
Schemas = dict[str, Any]


def openapi(
    interface: Interface, config: RuntimeConfig, modules: dict[str, Any], predicting: Sequence[str] = ()
) -> dict[str, Any]:
    """The document; `predicting` are the paths of modules that can be optimised."""
    schemas: Schemas = {"Problem": PROBLEM, "Variables": Variables.model_json_schema()}
    for model, mode in ((interface.inputs, "validation"), (interface.outputs, "serialization")):
        schema = model.model_json_schema(schema_generator=Published, ref_template=REFS, mode=mode)  # type: ignore[arg-type]
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    secured = config.auth_token_file is not None
    bearer = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}} if secured else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": config.program, "version": config.model.version, "description": interface.instructions},
        "paths": {
            "/execute": {"post": _execute(config, "Inputs", "Outputs")},
            "/execute/batch": {"post": _batch(config)},
            "/sessions/{session}/variables": _sessions(secured),
            **_modules(config, modules, schemas),
            **(_wishes(predicting, secured) if config.optimize_requests else {}),
            **(_feedback(secured) if config.feedback else {}),
        },
        "components": {"schemas": schemas, **bearer},
        **({"security": [{"bearer": []}]} if secured else {}),
    }


def _ref(name: str) -> Schemas:
    return {"$ref": REFS.format(model=name)}


def _json(schema: Schemas) -> Schemas:
    return {JSON: {"schema": schema}}


def _problems(*statuses: str, secured: bool) -> Schemas:
    return _described({status: PROBLEMS[status] for status in statuses}, secured)


def _described(problems: Mapping[str, str], secured: bool) -> Schemas:
    content = {MEDIA_TYPE.decode(): {"schema": _ref("Problem")}}
    wanted = {"401": PROBLEMS["401"], **problems} if secured else problems
    return {status: {"description": text, "content": content} for status, text in wanted.items()}


def _choices(config: RuntimeConfig) -> list[Schemas]:
    """The headers by which a caller chooses."""
    names = [lm.name for lm in config.lms]
    lm = {"name": "X-LM", "description": "Ask this LM.", "schema": {"type": "string", "enum": names}}
    session = {
        "name": "X-Session-Id",
        "description": "Use this session's variables.",
        "schema": {"type": "string", "pattern": f"^{ID.pattern}$"},
    }
    return [{"in": "header", "required": False, **h} for h in ([lm, session] if names else [session])]


def _execute(config: RuntimeConfig, inputs: str, outputs: str) -> Schemas:
    failures = ("400", "413", "422", "429", "500", "502", "503", "504")
    stream = {"description": "delta, status, result, problem and done events", "type": "string"}
    return {
        "summary": f"Run {config.program}",
        "operationId": "execute" if inputs == "Inputs" else f"execute_{inputs.removesuffix('_Inputs')}",
        "parameters": _choices(config),
        "requestBody": {"required": True, "content": _json(_ref(inputs))},
        "responses": {
            "200": {
                "description": "The outputs; whole, or as they grow with `Accept: text/event-stream`",
                "content": {**_json(_ref(outputs)), "text/event-stream": {"schema": stream}},
            },
            **_problems(*failures, secured=config.auth_token_file is not None),
        },
    }


def _batch(config: RuntimeConfig) -> Schemas:
    items = {"type": "array", "minItems": 1, "maxItems": 256, "items": {}}
    result = {
        "type": "object",
        "properties": {"outputs": _ref("Outputs"), "problem": _ref("Problem")}
        | {name: {"type": "string"} for name in ("prediction_id", "degraded")},
    }
    return {
        "summary": f"Run {config.program} on many inputs; each has a result of its own",
        "operationId": "execute_batch",
        "parameters": _choices(config),
        "requestBody": {
            "required": True,
            "content": _json(
                {
                    "type": "object",
                    "properties": {"inputs": items},
                    "required": ["inputs"],
                    "additionalProperties": False,
                }
            ),
        },
        "responses": {
            "200": {
                "description": "Outputs or a problem for each input, in their order",
                "content": _json({"type": "object", "properties": {"results": {"type": "array", "items": result}}}),
            },
            **_problems("413", "422", secured=config.auth_token_file is not None),
        },
    }


def _sessions(secured: bool) -> Schemas:
    session = {
        "name": "session",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{ID.pattern}$"},
    }
    known = {"200": {"description": "The session's variables", "content": _json(_ref("Variables"))}}
    body = {"required": True, "content": _json(_ref("Variables"))}
    return {
        "parameters": [session],
        "get": {
            "operationId": "get_variables",
            "responses": known | _problems("400", secured=secured),
        },
        "put": {
            "operationId": "put_variables",
            "requestBody": body,
            "responses": known | _problems("400", "413", "422", secured=secured),
        },
        "delete": {
            "operationId": "delete_variables",
            "responses": {"204": {"description": "Forgotten"}, **_problems("400", secured=secured)},
        },
    }


def _modules(config: RuntimeConfig, modules: dict[str, Any], schemas: Schemas) -> Schemas:
    """A path for each module; its models stand under the module's name."""
    paths: Schemas = {}
    for path, schema in modules.items():
        name = re.sub(r"\W", "_", path)
        for part in ("inputs", "outputs"):
            moved = _moved(schema[part], name)
            schemas |= {f"{name}_{k}": v for k, v in moved.pop("$defs", {}).items()}
            schemas[f"{name}_{part.title()}"] = moved
        paths[f"/modules/{path}/execute"] = {"post": _execute(config, f"{name}_Inputs", f"{name}_Outputs")}
    return paths


def _wishes(predicting: Sequence[str], secured: bool) -> Schemas:
    """Requests for optimisations."""
    noted = {"request": {"type": "integer"}, "module": {"type": "string"}, "watch": {"type": "string"}}
    told = {"type": "object", "properties": noted, "required": [*noted]}
    asked: Schemas = {
        "requestBody": {"required": False, "content": _json({"type": "object", "additionalProperties": False})},
        "responses": {
            "202": {"description": "Noted; `watch` shows what becomes of it", "content": _json(told)},
            **_described(WISHES, secured),
        },
    }
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string", "enum": [*predicting]}}
    whole = {"summary": "Ask for a better version", "operationId": "optimize", **asked}
    one = {"summary": "Ask for a better module", "operationId": "optimize_module", "parameters": [path], **asked}
    return {"/optimize": {"post": whole}} | ({"/modules/{path}/optimize": {"post": one}} if predicting else {})


def _feedback(secured: bool) -> Schemas:
    """Labels: one, or a list."""
    one = Given.model_json_schema()
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_LABELS}
    told = {"oneOf": [Reply.model_json_schema(), {"type": "object", "required": ["results"]}]}
    labelled = {
        "summary": "Say whether an answer was right",
        "operationId": "feedback",
        "parameters": [
            {
                "in": "header",
                "name": TRUST_HEADER.decode(),
                "description": "Labels with this token are trusted.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": _json({"oneOf": [one, many]})},
        "responses": {
            "202": {"description": "It is on the disk; of a list, what became of each", "content": _json(told)},
            **_described(LABELLED, secured),
        },
    }
    return {"/feedback": {"post": labelled}}


def _moved(node: Any, name: str) -> Any:
    """A schema whose own definitions are found under the document's components."""
    if isinstance(node, dict):
        return {
            k: REFS.format(model=f"{name}_{v.rpartition('/')[2]}") if k == "$ref" else _moved(v, name)
            for k, v in node.items()
        }
    return [_moved(v, name) for v in node] if isinstance(node, list) else node

"""The CRD, made from the pydantic models: one source for validation here, there and in the documents.

A structural schema allows no $ref, no null unions and no titles, so pydantic's JSON Schema is inlined
and trimmed. `crds/` holds the result; a test fails when it is stale.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from despina.api import GROUP, VERSION
from despina.api.base import rule, rules
from despina.api.program import NAME, NAME_LIMIT, NAME_WORDS, ProgramSpec
from despina.api.status import ProgramStatus
from despina.api.tool import ToolSpec, ToolStatus

DROPPED = {"title", "additionalProperties", "$defs"}
PROGRAM_COLUMNS = (
    ("Ready", '.status.conditions[?(@.type=="Ready")].status', "string", 0),
    ("Available", '.status.conditions[?(@.type=="Available")].status', "string", 0),
    ("Version", ".status.active.version", "string", 0),
    ("Candidate", ".status.candidate.version", "string", 0),
    ("Step", ".status.step", "string", 0),
    ("Breaker", ".status.breaker.state", "string", 0),
    ("Replicas", ".status.readyReplicas", "integer", 0),
    ("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", 0),
    ("Age", ".metadata.creationTimestamp", "date", 0),
    ("Strategy", ".status.rollout.strategy", "string", 1),
    ("Model", ".status.model.requested", "string", 1),
    ("URL", ".status.url", "string", 1),
)
TOOL_COLUMNS = (
    ("Ready", '.status.conditions[?(@.type=="Ready")].status', "string", 0),
    ("Backends", ".status.healthyBackends", "string", 0),
    ("Contract", ".status.contract", "string", 0),
    ("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", 0),
    ("Age", ".metadata.creationTimestamp", "date", 0),
    ("Policy", ".spec.routing.policy", "string", 1),
    ("URL", ".status.url", "string", 1),
)
NAME_RULE = rule(
    f"size(self.metadata.name) <= {NAME_LIMIT} && self.metadata.name.matches('{NAME}')",
    NAME_WORDS,
)
FALLBACK_RULE = rule(
    "!has(self.spec.fallback) || !has(self.spec.fallback.programRef)"
    " || self.spec.fallback.programRef.name != self.metadata.name",
    "spec.fallback.programRef must name another program",
)


def structural(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """One node of a JSON Schema as a structural schema."""
    if "$ref" in schema:
        target = defs[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    if "anyOf" in schema and not schema.get("x-kubernetes-int-or-string"):
        schema = _without_null(schema)
        if "$ref" in schema:
            return structural(schema, defs)
    if schema.get("x-kubernetes-int-or-string"):
        return {k: v for k, v in schema.items() if k not in ("anyOf", "title")}
    return {k: v for k, v in _children(schema, defs).items() if v is not None}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """`X | None` as X: in a manifest, a field is left out rather than null."""
    (option,) = [o for o in schema["anyOf"] if o.get("type") != "null"]
    rest = {k: v for k, v in schema.items() if k != "anyOf" and not (k == "default" and v is None)}
    return {**option, **rest}


def _children(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    out = {k: v for k, v in schema.items() if k not in DROPPED}
    if "const" in out:
        out["enum"] = [out.pop("const")]
    if "properties" in out:
        asked = schema.get("required", ())
        out["properties"] = {k: _property(v, defs, k in asked) for k, v in out["properties"].items()}
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and not out.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = structural(values, defs)
        out["maxProperties"] = out.pop("maxProperties", 64)
    if "items" in out:
        out["items"] = structural(out["items"], defs)
    return out


def _property(schema: dict[str, Any], defs: dict[str, Any], is_required: bool) -> dict[str, Any]:
    """A field; one that may be left out and whose parts have defaults gets those as its own, or they would never
    apply."""
    out = structural(schema, defs)
    is_optional = not is_required and not out.get("required")
    if out.get("type") == "object" and "properties" in out and is_optional and _filled(schema):
        out["default"] = {k: p["default"] for k, p in out["properties"].items() if "default" in p}
    return out


def _filled(schema: dict[str, Any]) -> bool:
    """Whether pydantic makes the object when it is left out (a bare $ref), rather than leaving it None."""
    return "$ref" in schema


def _version(
    models: tuple[type[BaseModel], type[BaseModel]],
    columns: tuple[tuple[str, str, str, int], ...],
    description: str,
    whole: dict[str, Any],
) -> dict[str, Any]:
    spec, status = (structural(s, s.get("$defs", {})) for s in (m.model_json_schema(by_alias=True) for m in models))
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": n, "jsonPath": p, "type": t, "priority": prio} for n, p, t, prio in columns
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": description,
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": spec,
                    "status": status,
                },
                **whole,
            }
        },
    }


def program_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of DSPyProgram."""
    text = "A DSPy program from an MLflow registry, run as a typed REST API."
    version = _version((ProgramSpec, ProgramStatus), PROGRAM_COLUMNS, text, rules(NAME_RULE, FALLBACK_RULE))
    return _crd("DSPyProgram", "dspy", version)


def tool_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of DSPyTool."""
    text = "A typed function that DSPy programs call by name, and the places where it is executed."
    return _crd("DSPyTool", "dspyt", _version((ToolSpec, ToolStatus), TOOL_COLUMNS, text, rules(NAME_RULE)))


def _crd(kind: str, short: str, version: dict[str, Any]) -> dict[str, Any]:
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
                "shortNames": [short],
                "categories": ["all", "despina"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }

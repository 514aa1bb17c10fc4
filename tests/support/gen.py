"""Objects for unit tests: whole ones from a few words."""

from __future__ import annotations

from typing import Any

from despina.api.conditions import Reason
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config, source_digest
from despina.api.status import ProgramStatus
from despina.api.tool import Tool
from despina.decide.observed import Defaults, DeploymentView, Observed, PodView, Resolution
from despina.desired.network import build_service
from despina.desired.toolbox import ToolView
from despina.wire import ModelRef, RuntimeConfig

DEFAULTS = Defaults(runtime_image="despina-runtime:1", tracking_uri="http://mlflow:5000", order_keys=("a2V5",))


def ref(version: str, created_at: int | None = None) -> ModelRef:
    """A version of the model that all of these programs are about."""
    return ModelRef(name="qa", version=version, tracking_uri="http://mlflow:5000", created_at=created_at)


def source(version: str, created_at: int | None = None) -> str:
    """What a record of that version tells it by."""
    return source_digest(ref(version, created_at))


def a_manifest(**spec: Any) -> dict[str, Any]:
    """A small valid manifest; keywords replace parts of its spec."""
    base = {
        "source": {"mlflow": {"model": "qa", "alias": "champion"}},
        "lms": [{"name": "main", "model": "openai/gpt-4o-mini"}],
    }
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": "qa", "namespace": "ns", "uid": "uid-1", "generation": 1},
        "spec": base | spec,
    }


def a_program(annotations: dict[str, str] | None = None, **spec: Any) -> Program:
    document = a_manifest(**spec)
    document["metadata"]["annotations"] = annotations or {}
    return Program.parse(document)


def a_deployment(program: Program, version: str, **fields: Any) -> DeploymentView:
    revision = revision_of(program, ref(version))
    return DeploymentView(
        name=revision.deployment, revision=revision.hash, version=version, **{"replicas": 1, **fields}
    )


def pods(program: Program, version: str, count: int = 1, **fields: Any) -> tuple[PodView, ...]:
    revision = revision_of(program, ref(version))
    return tuple(
        PodView(name=f"{revision.deployment}-{i}", revision=revision.hash, ip="10.0.0.1", **fields)
        for i in range(count)
    )


def hash_of(program: Program, version: str) -> str:
    return revision_of(program, ref(version)).hash


def found(version: str | None) -> Resolution:
    return Resolution(version, Reason.MODEL_FOUND) if version else Resolution(None, Reason.REGISTRY_UNREACHABLE)


def observed(program: Program | None = None, version: str | None = "1", **fields: Any) -> Observed:
    """A snapshot; `active` may be a version, which then also has its Service."""
    program = program or a_program()
    active = fields.pop("active", None)
    if active is not None:
        fields["active"] = hash_of(program, active)
        service = build_service(program, program.name, fields["active"])
        fields["objects"] = {("Service", program.name): service, **fields.get("objects", {})}
    configs = {d.name: d.config or config_of(program, d.version) for d in fields.get("deployments", ())}
    base = {"status": ProgramStatus(), "defaults": DEFAULTS, "model": found(version), "configs": configs}
    return Observed(program=program, **{**base, **fields})


def config_of(program: Program, version: str) -> RuntimeConfig:
    return runtime_config(program, revision_of(program, ref(version)), DEFAULTS.order_keys)


def serving(program: Program, version: str, count: int = 1, **fields: Any) -> dict[str, Any]:
    """The fields of a snapshot in which a version serves."""
    return {
        "active": version,
        "deployments": (a_deployment(program, version, replicas=count, activated_at=1.0, **fields),),
        "pods": pods(program, version, count, ready=True),
    }


def a_tool(name: str, trouble: tuple[str, str] | None = None, **contract: Any) -> ToolView:
    """One that a program may use, as its namespace sees it."""
    spec = {
        "contract": {"name": name, "parameters": {"type": "object"}, **contract},
        "backends": [{"name": "a", "url": "http://x"}],
    }
    meta = {"name": name, "namespace": "ns", "uid": "u"}
    made = Tool.parse({"apiVersion": "despina.dev/v1alpha1", "kind": "DSPyTool", "metadata": meta, "spec": spec})
    return ToolView(f"ns/{name}", made, trouble=trouble)

"""Names of OpenTelemetry's conventions for generative AI, as of one version of them, and no other file has any.

https://github.com/open-telemetry/semantic-conventions-genai v0.1.0, in which all of them may still change; those of
metrics are of `docs/gen-ai/client-inference.md` there, after v0.1.0, and written as Prometheus has them. What has no
name there is called `despina.…`; `mlflow.…` is what MLflow, and others that read the same, show in their own way.
"""

from __future__ import annotations

import math
from typing import Any

from despina_runtime.telemetry.executed import Executed, Span

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai/0.1.0"
Attributes = dict[str, Any]
SPAN_TYPE, INPUTS, OUTPUTS = "mlflow.spanType", "mlflow.spanInputs", "mlflow.spanOutputs"
PREDICTION = "despina.prediction"
COST = "mlflow.llm.cost"
TYPES = {"module": "CHAIN", "lm": "CHAT_MODEL", "tool": "TOOL"}
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
DURATION, USAGE = "gen_ai_client_inference_duration_seconds", "gen_ai_client_inference_usage_{}_tokens"
MODEL_LABELS = "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"
TOKEN_LABELS = *MODEL_LABELS, "gen_ai_token_modality"


def provider_and_model(name: str) -> tuple[str, str]:
    """Of a model as manifests name it, `PROVIDER/MODEL`; the provider is empty where it names none."""
    provider, slash, model = name.partition("/")
    return (provider, model) if slash else ("", name)


def of_request(program: str, one: Executed) -> Attributes:
    """Of the span that answers a caller."""
    return {
        SPAN_TYPE: TYPES["module"],
        "http.request.method": "POST",
        "http.route": route_of(one.path),
        "http.response.status_code": one.status or None,
        "despina.program": program,
        "despina.revision": one.revision,
        "despina.model_version": one.version,
        "despina.module": one.path,
        PREDICTION: one.origin,
        "despina.kept": one.why,
        "despina.cache.tier": one.tier,
        "error.type": one.problem,
    }


def of_program(program: str, one: Executed) -> Attributes:
    """Of the program's own work, with all that it cost."""
    return {
        SPAN_TYPE: TYPES["module"],
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.agent.name": program,
        "gen_ai.agent.version": one.version,
        INPUT_TOKENS: one.input_tokens or None,
        OUTPUT_TOKENS: one.output_tokens or None,
        "despina.module": one.path,
        "despina.lm": one.lm,
        "despina.cost_usd": one.cost_usd,
        "error.type": one.problem,
    }


def of_part(span: Span) -> Attributes:
    """Of what happened within."""
    return OF_KIND[span.kind](span)


def _of_module(span: Span) -> Attributes:
    return {SPAN_TYPE: TYPES["module"], "despina.module": span.name}


def _of_lm(span: Span) -> Attributes:
    facts, (provider, model) = span.facts, provider_and_model(str(span.facts["model"]))
    return {
        SPAN_TYPE: TYPES["lm"],
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        INPUT_TOKENS: facts["input_tokens"],
        OUTPUT_TOKENS: facts["output_tokens"],
        "despina.lm": span.name,
        "despina.module": facts["module"],
        "despina.cost_usd": facts["cost_usd"],
        COST: _cost(facts["cost_usd"]),
        "error.type": facts["error"],
    }


def _cost(usd: Any) -> dict[str, float] | None:
    """MLflow has prices of its own, which are not the manifest's, and adds up what spans say."""
    try:
        found = float(usd)
    except (TypeError, ValueError):
        return None
    return {"total_cost": found} if math.isfinite(found) else None


def _of_tool(span: Span) -> Attributes:
    fate = span.facts["fate"]
    return {
        SPAN_TYPE: TYPES["tool"],
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": span.name,
        "despina.tool.backend": span.facts["backend"],
        "despina.tool.fate": fate,
        "error.type": "" if fate == "ok" else fate,
    }


OF_KIND = {"module": _of_module, "lm": _of_lm, "tool": _of_tool}


def of_hosted(tool: str, status: int, error: str) -> Attributes:
    """Of a tool's execution where it is hosted."""
    return {
        SPAN_TYPE: TYPES["tool"],
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool,
        "http.response.status_code": status,
        "error.type": error,
    }


def route_of(path: str) -> str:
    """Where a module is asked for by itself, or the program."""
    return "/modules/{path}/execute" if path else "/execute"


def name_of(span: Span) -> str:
    """What a span is called."""
    if span.kind == "lm":
        return f"chat {span.facts['model']}"
    return f"execute_tool {span.name}" if span.kind == "tool" else span.name

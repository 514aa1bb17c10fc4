"""Pods that hold traces, as the page meets them."""

from __future__ import annotations

from typing import Any

from despina.sources.traces import NoAnswer
from despina.wire import Trace, TraceList, TraceSpan, TraceSummary
from despina.wire.labels import Label, Status
from despina.wire.predictions import Foreign, Prediction, Signer, key_of
from despina_runtime.telemetry.prediction import Names
from tests.support.page import NOW

KEY = key_of("read key of qa")
POD_WORD = "1f910a000001"
"""10.0.0.1, as `a_pod` has it, and its admin port."""
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HOSTS = {("team-a", "search"): [("search-1", "10.0.0.9")]}


def a_name(number: int = 1, key: bytes = KEY) -> str:
    """What a prediction of the pod 10.0.0.1 is called."""
    return Names(key, "rev7", POD_WORD).signed(f"rev7-{POD_WORD}-0a0b0c0d-6ab13b80-{number:x}")


def a_span(number: int, parent: int | None = 0, **more: Any) -> TraceSpan:
    """A span, 10 ms later than the one before it; the first is the request."""
    fields = {
        "id": f"{number + 1:016x}",
        "parent": "" if parent is None else f"{parent + 1:016x}",
        "name": f"step {number}",
        "at": NOW + number / 100,
        "seconds": 0.02,
    }
    return TraceSpan(**fields | more)


def chat(number: int, parent: int, **more: Any) -> TraceSpan:
    """An attempt at an LM."""
    facts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": "412",
        "gen_ai.usage.output_tokens": "31",
        "despina.cost_usd": "0.0021",
    }
    return a_span(number, parent, **{"kind": "client", "name": "chat openai/gpt-4o-mini", "attributes": facts} | more)


def some_spans() -> tuple[TraceSpan, ...]:
    """A request whose LM failed once, and that called a tool."""
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "team-a/search", "despina.tool.fate": "ok"}
    asked = '{"question": "Which team?"}'
    return (
        a_span(
            0, None, kind="server", name="POST /execute", seconds=0.42, inputs=asked, outputs='{"answer": "billing"}'
        ),
        a_span(1, 0, name="invoke_workflow qa", seconds=0.4, attributes={"gen_ai.operation.name": "invoke_workflow"}),
        a_span(
            2,
            1,
            name="classify",
            seconds=0.3,
            attributes={"despina.module": "classify"},
            inputs=asked,
            outputs='{"answer": "billing"}',
        ),
        chat(3, 2, seconds=0.1, error="timeout"),
        chat(4, 2, seconds=0.2),
        a_span(5, 1, name="execute_tool team-a/search", seconds=0.05, attributes=tool),
    )


def a_trace(number: int = 1, spans: tuple[TraceSpan, ...] | None = None, **more: Any) -> Trace:
    fields = {
        "number": number, "id": a_name(number), "trace_id": TRACE_ID, "at": NOW + number, "seconds": 0.42, "status": 200,
        "version": "7", "revision": "rev7", "input_tokens": 824, "output_tokens": 62, "cost_usd": "0.0042", "why": "sampled",
    }  # fmt: skip
    return Trace(**fields | more, spans=some_spans() if spans is None else spans)


def hosted_span() -> Trace:
    """The tool host's part of `some_spans`."""
    facts = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
    span = a_span(99, 5, kind="server", name="execute_tool search", at=NOW + 0.055, seconds=0.03, attributes=facts)
    return Trace(id=span.id, trace_id=TRACE_ID, spans=(span,))


class FakeHolders:
    """Pods that hold what a test says, by their names; a pod that is None does not answer."""

    def __init__(self) -> None:
        self.held: dict[str, list[Trace] | None] = {}
        self.parts: dict[str, Trace] = {}
        """Of tools' hosts, by their addresses."""
        self.fields: frozenset[str] = frozenset({"answer", "score"})
        self.labels: list[tuple[str, Label]] = []
        self.status: Status | None = "Stored"
        self.asked: list[str] = []

    def _of(self, pod: str) -> list[Trace]:
        self.asked.append(pod)
        if (held := self.held.get(pod, [])) is None:
            raise NoAnswer
        return held

    async def listed(self, uid: str, namespace: str, pod: str, ip: str) -> TraceList:
        told = (TraceSummary(**one.model_dump(exclude={"spans", "is_redacted"})) for one in self._of(pod))
        return TraceList(boot="b", number=9, traces=tuple(told))

    async def one(self, uid: str, namespace: str, pod: str, ip: str, name: str) -> Trace | None:
        held = (one for one in self._of(pod) if name in (one.id, one.id.rpartition("-")[0], one.trace_id))
        return next(held, None)

    async def hosted(self, ip: str, trace_id: str) -> Trace | None:
        return self.parts.get(ip)

    async def outputs(self, uid: str, namespace: str, pod: str, ip: str, revision: str) -> frozenset[str]:
        return self.fields

    def prediction(self, uid: str, namespace: str, name: str) -> Prediction | None:
        try:
            return Signer(KEY).read(name)
        except Foreign:
            return None

    async def hand_over(self, uid: str, namespace: str, ip: str, label: Label) -> Status:
        self.labels.append((ip, label))
        if self.status is None:
            raise NoAnswer
        return self.status

"""Callers who ask and then say whether the answer was right, and what an MLflow experiment holds of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx

from despina.wire.predictions import trace_id_of
from despina_runtime.telemetry.prediction import address_of
from tests.support.tickets import CATEGORIES, tickets

PORT = 8080
PATIENCE_SECONDS, PAUSE_SECONDS = 60, 0.2
ALIVE_SECONDS = 5
"""A pod that has answered within these is still there, as far as callers know."""
EXPERIMENTS = (f"feedback-{n}" for n in itertools.count())


class Seen:
    """What an MLflow experiment holds."""

    def __init__(self, uri: str, experiment: str = "") -> None:
        self.experiment = experiment or next(EXPERIMENTS)
        self._client = httpx.Client(base_url=uri, timeout=60)

    def traces(self) -> list[dict[str, Any]]:
        asked = {"experiment_name": self.experiment}
        found = self._client.get("/api/2.0/mlflow/experiments/get-by-name", params=asked).json().get("experiment")
        if found is None:
            return []
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": found["experiment_id"]}}
        body: dict[str, Any] = {"locations": [place], "max_results": 500}
        traces: list[dict[str, Any]] = []
        while True:
            page = self._client.post("/api/3.0/mlflow/traces/search", json=body).raise_for_status().json()
            traces += page.get("traces", [])
            if not page.get("next_page_token"):
                return traces
            body["page_token"] = page["next_page_token"]

    def labels(self) -> list[dict[str, Any]]:
        return [a for t in self.traces() for a in t.get("assessments", []) if a["assessment_name"] == "label"]

    def said(self) -> dict[str, str]:
        """Labels by the prediction's name; one that is there twice ends this."""
        labels = self.labels()
        found = {a["metadata"]["despina.prediction"]: a["feedback"]["value"] for a in labels}
        assert len(found) == len(labels), "a label is there twice"
        return found

    def has(self, *names: str) -> bool:
        return self.said().keys() == set(names)


@dataclass(frozen=True)
class Said:
    """One label that was acknowledged."""

    prediction: str
    ticket: str
    label: str
    expected: dict[str, str] | None

    @property
    def trace_id(self) -> str:
        """Where it belongs."""
        return f"tr-{trace_id_of(self.prediction.rpartition('-')[0].partition('~')[0])}"


@dataclass
class Callers:
    """They ask a Service at a steady rate, and label each answer: half of them at another pod than the one that gave
    it, some only after a while, every second one with what they expected. Where a connection breaks, as when a process
    is killed, they ask again, and so they do with a label until it is acknowledged. Every third question is one that was
    asked before, which a cache may answer."""

    url: str
    rate: float
    sent: int = 0
    asked_again: int = 0
    failed: list[str] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    elsewhere: int = 0
    """Labels that another pod acknowledged than the one that had answered."""
    gone: int = 0
    """Predictions that were lost with their worker before they were recorded, which a 410 says."""
    refused: list[str] = field(default_factory=list)
    _seen: dict[str, float] = field(default_factory=dict)
    """When each pod answered last, by its address."""
    _dice: random.Random = field(default_factory=lambda: random.Random(14))
    _asked: list[str] = field(default_factory=list)

    async def run_while(self, work: Callable[[], None]) -> None:
        """As long as it works, in a thread."""
        working = asyncio.create_task(asyncio.to_thread(work))
        await self.run(working.done)
        await working

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Until then; whatever was begun is ended."""
        tasks: set[asyncio.Task[None]] = set()
        texts = (text for seed in itertools.count() for text, _ in tickets(1000, seed))
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=20, connect=3)
        each_anew = aiohttp.TCPConnector(force_close=True)  # a Service gives connections to its pods, not requests
        async with aiohttp.ClientSession(timeout=timeout, connector=each_anew) as self._client:
            for number in itertools.count():
                if is_over():
                    break
                task = asyncio.create_task(self._call(number, self._next(texts, number)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(max(0.0, began + (number + 1) / self.rate - time.monotonic()))
            await asyncio.gather(*tasks)

    def _next(self, texts: Any, number: int) -> str:
        if number % 3 == 2:
            return self._dice.choice(self._asked[-100:])
        self._asked.append(next(texts))
        return self._asked[-1]

    async def _call(self, number: int, ticket: str) -> None:
        name = await self._ask(ticket)
        if not name:
            return
        host = address_of(name.split("-")[1]).rpartition(":")[0]
        self._seen[host] = time.monotonic()
        if number % 5 == 0:
            await asyncio.sleep(self._dice.uniform(1, 10))
        expected = {"category": self._dice.choice(CATEGORIES)} if number % 2 else None
        label = Said(name, ticket, "failure" if expected else "success", expected)
        await self._say(label, host, number % 4 >= 2)

    async def _ask(self, ticket: str) -> str:
        """The prediction's name; nothing if it failed."""
        self.sent += 1
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                async with self._client.post(f"{self.url}/execute", json={"ticket": ticket}) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        return answer.headers["despina-prediction-id"]
                    self.failed.append(f"{answer.status} {text[:200]}")
                    return ""
            except (aiohttp.ClientError, TimeoutError) as exc:
                self.asked_again += 1
                if time.monotonic() > until:
                    self.failed.append(repr(exc))
                    return ""
            await asyncio.sleep(PAUSE_SECONDS)

    async def _say(self, said: Said, host: str, to_another: bool) -> None:
        """Until somebody acknowledges it, or says that there is nothing to be acknowledged."""
        body: dict[str, Any] = {"prediction_id": said.prediction, "label": said.label, "reason": said.ticket}
        if said.expected:
            body["expected"] = said.expected
        target, until, why = self._other(host) if to_another else host, time.monotonic() + PATIENCE_SECONDS, ""
        while time.monotonic() < until:
            status, why = await self._give(target, body)
            if status in (202, 410):
                break
            target = self._other(host)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            self.refused.append(why)
            return
        if status == 410:
            self.gone += 1
            return
        self.said.append(said)
        self.elsewhere += target != host

    def _other(self, host: str) -> str:
        now = time.monotonic()
        others = [h for h, at in self._seen.items() if h != host and now - at < ALIVE_SECONDS]
        return self._dice.choice(others) if others else host

    async def _give(self, host: str, body: dict[str, Any]) -> tuple[int, str]:
        try:
            async with self._client.post(f"http://{host}:{PORT}/feedback", json=body) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            return 0, repr(exc)


@dataclass
class Held:
    """What became of labels that were acknowledged."""

    lost: list[Said]
    """Nowhere, or not as they were given where they belong."""
    duplicated: int
    unrecorded: int
    """Labels of predictions of which nothing is known but the name: their worker was killed before it told of them."""


def compare(said: Sequence[Said], traces: Sequence[dict[str, Any]]) -> Held:
    """Labels beside what MLflow holds."""
    previews = {trace["trace_id"]: trace.get("request_preview") or "" for trace in traces}
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for trace in traces:
        for one in trace.get("assessments", []):
            found[one["metadata"]["despina.prediction"], one["assessment_name"]].append(one | {"in": trace["trace_id"]})

    def is_there(one: Said) -> bool:
        label, expected = found[one.prediction, "label"], found[one.prediction, "expected"]
        preview = previews.get(one.trace_id, "")
        return (
            any(a["in"] == one.trace_id and a["feedback"]["value"] == one.label for a in label)
            and (not preview or json.loads(preview)["ticket"] == one.ticket)
            and (one.expected is None or any(_value(a) == one.expected and a["in"] == one.trace_id for a in expected))
        )

    lost = [one for one in said if not is_there(one)]
    duplicated = sum(len(same) - 1 for same in found.values() if same)
    return Held(lost, duplicated, sum(not previews.get(one.trace_id) for one in said))


def _value(assessment: dict[str, Any]) -> Any:
    return json.loads(assessment["expectation"]["serialized_value"]["value"])

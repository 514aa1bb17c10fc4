"""Where predictions and labels are delivered to: an MLflow server, or files of JSON Lines on a volume."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
from pydantic_core import to_json

from despina.wire import RuntimeConfig
from despina.wire.labels import Label
from despina.wire.predictions import trace_id_of
from despina_runtime.feedback import otlp
from despina_runtime.telemetry.executed import Executed
from despina_runtime.tracking import Lacking, credentials

TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
EXPERIMENT_HEADER = "x-mlflow-experiment-id"
PERMANENT = (400, 413, 415, 422)
LABEL, EXPECTED = "label", "expected"


class Away(Exception):
    """It cannot be delivered now. The text says why and shows no value."""


class Refused(Exception):
    """It will never be taken as it is."""


class NoTrace(Exception):
    """What the label is about has not been delivered."""


class Sink(Protocol):
    """Each of these may be called again with the same, which then changes nothing."""

    async def deliver(self, executed: Sequence[Executed]) -> None:
        """All of these, or none. Raises Away and Refused."""

    async def has(self, origin: str) -> bool:
        """Whether it was delivered. Raises Away."""

    async def label(self, label: Label) -> None:
        """Raises Away, Refused and NoTrace."""

    async def close(self) -> None:
        """Give everything back."""


class MLflowSink:
    """Traces by OTLP, labels as assessments with ids of ours: so neither is ever there twice."""

    def __init__(self, config: RuntimeConfig, experiment: str) -> None:
        self._config, self._experiment = config, experiment
        self._server = config.model.tracking_uri.rstrip("/")
        self._experiment_id = ""
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, executed: Sequence[Executed]) -> None:
        """As one request, which MLflow takes whole or not at all."""
        body = gzip.compress(orjson.dumps(otlp.traces(self._config.program, self._config.namespace, executed)), 1)
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        headers |= {EXPERIMENT_HEADER: await self._id_of_experiment()}
        status, _ = await self._ask("POST", "/v1/traces", data=body, headers=headers)
        if status == 404:  # the experiment was deleted meanwhile
            self._experiment_id = ""
            raise Away("MLflow does not know the experiment any more")
        self._check(status)

    async def has(self, origin: str) -> bool:
        """By the trace's id."""
        status, _ = await self._ask("GET", f"/api/3.0/mlflow/traces/tr-{trace_id_of(origin)}")
        if status != 404:
            self._check(status)
        return status != 404

    async def label(self, label: Label) -> None:
        """An assessment for the label, and one for what was expected."""
        await self._assess(label, LABEL, {"feedback": {"value": label.label}, "rationale": label.reason})
        if label.expected is not None:
            value = {"serialization_format": "JSON_FORMAT", "value": to_json(label.expected).decode()}
            await self._assess(label, EXPECTED, {"expectation": {"serialized_value": value}})

    async def _assess(self, label: Label, name: str, what: Mapping[str, Any]) -> None:
        path = f"/api/3.0/mlflow/traces/tr-{label.trace_id}/assessments"
        own = "a-" + hashlib.sha256(f"{label.prediction} {name}".encode()).hexdigest()[:32]
        assessment = {
            "assessment_id": own,
            "assessment_name": name,
            "trace_id": f"tr-{label.trace_id}",
            "source": {"source_type": "HUMAN", "source_id": label.source or "caller"},
            "metadata": _metadata(label),
            **what,
        }
        status, _ = await self._ask("POST", path, json={"assessment": assessment})
        if status == 404:
            raise NoTrace
        if status >= 400 and not await self._replace(f"{path}/{own}", assessment, what):
            self._check(status)

    async def _replace(self, path: str, assessment: Mapping[str, Any], what: Mapping[str, Any]) -> bool:
        """Whether it was there already; an earlier word is overwritten."""
        status, found = await self._ask("GET", path)
        if status != 200:
            return False
        known = found.get("assessment", {}).get("metadata", {}).get("despina.at", "0")
        if float(known) < float(assessment["metadata"]["despina.at"]):
            mask = ",".join([*what, "metadata"])
            status, _ = await self._ask("PATCH", path, json={"assessment": dict(assessment), "update_mask": mask})
            self._check(status)
        return True

    async def _id_of_experiment(self) -> str:
        if not self._experiment_id:
            asked = {"experiment_name": self._experiment}
            status, found = await self._ask("GET", "/api/2.0/mlflow/experiments/get-by-name", params=asked)
            if status == 404:
                created = {"name": self._experiment}
                status, found = await self._ask("POST", "/api/2.0/mlflow/experiments/create", json=created)
                found = {"experiment": found}
            self._check(status)
            self._experiment_id = str(found.get("experiment", {}).get("experiment_id", ""))
        return self._experiment_id

    async def _ask(self, method: str, path: str, **what: Any) -> tuple[int, Any]:
        """Status and document of an answer; raises Away where there is none."""
        try:
            shown = credentials(self._config.mlflow_credentials_dir).headers
        except Lacking as exc:
            raise Away(str(exc)) from None
        self._session = self._session or aiohttp.ClientSession(timeout=TIMEOUT, auto_decompress=True)
        headers = {**what.pop("headers", {}), **shown}
        try:
            async with self._session.request(
                method, f"{self._server}{path}", headers=headers, allow_redirects=False, **what
            ) as answer:
                body = await answer.read()
                return answer.status, orjson.loads(body) if answer.content_type == "application/json" else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise Away(f"MLflow does not answer: {type(exc).__name__}") from None

    def _check(self, status: int) -> None:
        if status in PERMANENT:
            raise Refused(f"MLflow answers {status}")
        if status >= 300:
            raise Away(f"MLflow answers {status}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()


def _metadata(label: Label) -> dict[str, str]:
    return {
        "despina.at": repr(label.at),
        "despina.prediction": label.prediction,
        "despina.trusted": "true" if label.is_trusted else "false",
    }


class FileSink:
    """One file for each pod; a line for each prediction and each label. What a reader knows already by its id, a later
    line replaces."""

    def __init__(self, folder: Path, pod: str) -> None:
        self._file = folder / f"{pod or 'predictions'}.jsonl"

    async def deliver(self, executed: Sequence[Executed]) -> None:
        """A line each."""
        self._append([{"type": "prediction", "id": trace_id_of(e.origin), **e._asdict()} for e in executed])

    async def has(self, origin: str) -> bool:
        """Nobody reads the files again here: what is labelled counts as delivered."""
        return True

    async def label(self, label: Label) -> None:
        """One line."""
        self._append([{"type": "label", "id": label.trace_id, **label.model_dump()}])

    def _append(self, documents: Sequence[Mapping[str, Any]]) -> None:
        text = b"".join(to_json(d, fallback=str, inf_nan_mode="null") + b"\n" for d in documents)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise Away(f"the volume cannot be written: {type(exc).__name__}") from None

    async def close(self) -> None:
        """Nothing is open."""

"""What `make demo-loop` does within the cluster's network: ask as callers do, say what was right, and read what MLflow
has of it. `python loop_callers.py PART` takes JSON from its input and prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from despina_runtime.telemetry.prediction import address_of
from tools import say

AT_ONCE = 8
PAGE = 500
TRUSTED = "despina-feedback-token"


async def each(rows: Sequence[Any], work: Callable[[httpx.AsyncClient, int, Any], Awaitable[Any]]) -> list[Any]:
    """Do it for every row, some at a time; the results in the rows' order."""
    places = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(timeout=60) as client:

        async def one(number: int, row: Any) -> Any:
            async with places:
                return await work(client, number, row)

        return await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))


async def asked(client: httpx.AsyncClient, url: str, ticket: str) -> tuple[str, str, str]:
    """The category that is answered, the version that did, and the prediction's name."""
    answer = (await client.post(f"{url}/execute", json={"ticket": ticket})).raise_for_status()
    names = ("despina-model-version", "despina-prediction-id")
    return answer.json()["category"], *(answer.headers[name] for name in names)


async def ask(url: str, tickets: list[str]) -> list[tuple[str, str, str]]:
    """All tickets, through the Service."""
    return await each(tickets, lambda client, _, ticket: asked(client, url, ticket))


async def label(url: str, pods: dict[str, str], token: str, rows: list[tuple[str, str]]) -> dict[str, int]:
    """Ask each ticket through the Service, and say of the answer what would have been right: to the replica that has
    answered and, every other time, to another one. `pods` are their URLs by their addresses."""

    async def one(client: httpx.AsyncClient, number: int, row: tuple[str, str]) -> tuple[bool, bool, int]:
        category, _, name = await asked(client, url, row[0])
        own = address_of(name.split("-")[1]).rpartition(":")[0]
        to = next(pod for pod in pods if (pod == own) == (number % 2 == 0))
        given = {"prediction_id": name, "label": "success" if category == row[1] else "failure"}
        body = {**given, "expected": {"category": row[1]}, "source": "desk"}
        said = await client.post(f"{pods[to]}/feedback", json=body, headers={TRUSTED: token})
        return category != row[1], to != own, said.status_code

    found = await each(rows, one)
    return {
        "labels": sum(status == 202 for _, _, status in found),
        "failures": sum(failed for failed, _, status in found if status == 202),
        "elsewhere": sum(is_other for _, is_other, status in found if status == 202),
    }


async def votes(uri: str, experiment: str) -> Counter[str]:
    """How many predictions MLflow knows by each label, and how many it knows at all."""
    async with httpx.AsyncClient(base_url=uri, timeout=60) as client:
        known = await client.get("/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": experiment})
        if known.status_code == 404:
            return Counter()
        number = known.raise_for_status().json()["experiment"]["experiment_id"]
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": number}}
        body: dict[str, Any] = {"locations": [place], "max_results": PAGE}
        found: Counter[str] = Counter()
        while True:
            page = (await client.post("/api/3.0/mlflow/traces/search", json=body)).raise_for_status().json()
            for trace in page.get("traces", []):
                said = [a for a in trace.get("assessments", []) if a["assessment_name"] == "label"]
                found.update(["predictions", *(a["feedback"]["value"] for a in said)])
            if not page.get("next_page_token"):
                return found
            body["page_token"] = page["next_page_token"]


async def model(uri: str, name: str) -> dict[str, Any]:
    """The model's aliases, and the tags of its versions."""
    async with httpx.AsyncClient(base_url=uri, timeout=60) as client:
        path = "/api/2.0/mlflow/registered-models/get"
        found = (await client.get(path, params={"name": name})).raise_for_status().json()["registered_model"]
        path, asked_for = "/api/2.0/mlflow/model-versions/search", {"filter": f"name='{name}'"}
        versions = (await client.get(path, params=asked_for)).raise_for_status().json()["model_versions"]
    return {
        "aliases": {a["alias"]: a["version"] for a in found.get("aliases", [])},
        "tags": {v["version"]: {t["key"]: t["value"] for t in v.get("tags", [])} for v in versions},
    }


PARTS: dict[str, Callable[..., Awaitable[Any]]] = {"ask": ask, "label": label, "votes": votes, "model": model}

if __name__ == "__main__":
    say(json.dumps(asyncio.run(PARTS[sys.argv[1]](**json.load(sys.stdin)))))

"""Steady traffic that counts every failed request: half on new connections, half on kept-alive ones, no retries.

Run as a process in the cluster's network: `python load.py URL BODY RATE FILE` until SIGTERM. FILE gets one line of JSON
per request: when, which version answered, and what went wrong, if anything.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

import httpx

TIMEOUT_SECONDS = 15


async def main(url: str, body: str, rate: float, path: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kept = [httpx.AsyncClient(timeout=TIMEOUT_SECONDS) for _ in range(8)]
    fresh = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))
    pending: set[asyncio.Task] = set()
    with open(path, "w", buffering=1) as out:  # noqa: ASYNC230 - a line a request
        number, started = 0, time.monotonic()
        while not stop.is_set():
            kind, client = ("new", fresh) if number % 2 else ("kept", kept[number // 2 % len(kept)])
            task = asyncio.create_task(send(client, kind, url, varied(body, number), out))
            pending.add(task)
            task.add_done_callback(pending.discard)
            number += 1
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        if pending:
            await asyncio.wait(pending)
        for client in (*kept, fresh):
            await client.aclose()


def varied(body: str, number: int) -> str:
    """No two requests are alike, so that no cache hides what becomes of them."""
    fields = json.loads(body)
    return json.dumps({k: f"{v} (case {number})" if isinstance(v, str) else v for k, v in fields.items()})


async def send(client: httpx.AsyncClient, kind: str, url: str, body: str, out) -> None:
    """One POST; whatever is not a 200 is written down with what went wrong."""
    record: dict[str, object] = {"at": time.time(), "connection": kind}
    try:
        response = await client.post(url, content=body, headers={"content-type": "application/json"})
        record |= {"status": response.status_code, "version": response.headers.get("despina-model-version")}
        if "despina-degraded" in response.headers:
            record["degraded"] = response.headers["despina-degraded"]
        if response.status_code != 200:
            record["error"] = response.text[:300]
    except httpx.HTTPError as exc:
        record["error"] = f"{type(exc).__name__}: {exc}"
    out.write(json.dumps({**record, "until": time.time()}) + "\n")


if __name__ == "__main__":
    url, body, rate, path = sys.argv[1:5]
    asyncio.run(main(url, body, float(rate), path))

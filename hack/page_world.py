"""The world that `hack/bench_page.py` plays for the page: an API server's lists, watches and reviews, and the admin
ports of all pods, each on a loopback address of its own. It measures nothing.

`python hack/page_world.py PROGRAMS PORT` answers until it is ended. What happens in it is told by `POST /played`: a
JSON object with `program` (its number), and `status` (parts of its status that are others from now on), `fails` (its
pods answer with an error from now on) or neither. The answer says when it did, and how often pods were asked so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from aiohttp import web

from tools import ROOT

sys.path.insert(0, str(ROOT))
from despina.wire import ADMIN_PORT, LMFigures, Timing, ToolFigures, Trace, TraceList, TraceSpan, TraceSummary
from despina.wire.traces import MOST_SPANS
from tests.support.page import a_candidate, a_manifest, a_pod, an_event, condition, figures

NAMESPACES = 10
PODS_EACH = 2
BACKLOG = 128
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TOKEN = "bench-token"
STATE = b'{"revision":"rev7","workers":1,"held":{"rev7":{"phase":"Ready"}}}'
"""Of a pod; it holds the version that all manifests have as the active one."""
INTERFACE = (
    b'{"inputs":{"type":"object","required":["question"],"properties":{"question":{"type":"string","description":'
    b'"What to answer"},"count":{"type":"integer","minimum":1},"kind":{"enum":["short","long"]},'
    b'"more":{"type":"object"}}},"outputs":{"properties":{"answer":{"type":"string"}}}}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: %s\r\ncontent-length: %d\r\n\r\n%s"


def namespace_of(number: int) -> str:
    """Where a program lives."""
    return f"team-{number % NAMESPACES}"


def name_of(number: int) -> str:
    """What it is called."""
    return f"program-{number:04}"


def address(pod: int) -> str:
    """Where a pod is asked."""
    return f"127.80.{pod // 250}.{pod % 250 + 1}"


class Played:
    """All programs and what happens to them."""

    def __init__(self, programs: int) -> None:
        self.began = time.time()
        self.manifests = [manifest(number, self.began) for number in range(programs)]
        self.fails: dict[int, float] = {}
        """Since when a program's pods fail."""
        self.watches: list[tuple[str, str, asyncio.Queue[bytes]]] = []
        self.version = 1
        self.asked = 0
        """Figures of pods."""
        self._bodies: dict[tuple[int, int], bytes] = {}

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        """What a list has."""
        return [item for item in self._all(kind) if item["metadata"]["namespace"] == namespace]

    def _all(self, kind: str) -> Iterator[dict[str, Any]]:
        for number, document in enumerate(self.manifests):
            name, namespace = name_of(number), namespace_of(number)
            if kind == "dspyprograms":
                yield document
            elif kind == "pods":
                for pod in range(PODS_EACH):
                    yield a_pod(f"{name}-{pod}", name, namespace, address(number * PODS_EACH + pod))
            elif kind == "events":
                yield an_event("Promoted", "v7 serves", 3000, name, self.began, namespace=namespace)

    def change(self, number: int, status: dict[str, Any]) -> None:
        """A program's status is another one."""
        document = self.manifests[number]
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        document["status"] = {**document["status"], **status}
        line = json.dumps({"type": "MODIFIED", "object": document}).encode() + b"\n"
        for kind, namespace, queue in self.watches:
            if (kind, namespace) == ("dspyprograms", namespace_of(number)):
                queue.put_nowait(line)

    def body(self, pod: int) -> bytes:
        """What a pod counts at this second. Pods of a kind count the same."""
        number, second = pod // PODS_EACH, int(time.time() - self.began)
        failed = self.fails.get(number)
        key = pod % 20, second
        if failed is not None:
            return encoded(pod, second, int(time.time() - failed) + 1)
        if key not in self._bodies:
            self._bodies = {k: v for k, v in self._bodies.items() if k[1] == second}
            self._bodies[key] = encoded(pod, second, 0)
        return self._bodies[key]


def manifest(number: int, now: float) -> dict[str, Any]:
    """One of twenty is being rolled out, one of fifty needs somebody."""
    more: dict[str, Any] = {}
    if number % 20 == 3:
        more = a_candidate("Gate", 60, now)
    if number % 50 == 7:
        more["breaker"] = {"state": "Open", "reason": "12 of 20 failed"}
    if number % 100 == 11:
        more["conditions"] = [condition("Ready", "False", "NoReadyPods", "no pod is ready")]
    document = a_manifest(name_of(number), namespace_of(number), now, **more)
    document["metadata"]["uid"] = f"uid-{number}"
    return document


def encoded(pod: int, second: int, failures: int) -> bytes:
    """A pod's figures: a version that serves and the one before it, four modules, two tools."""
    requests = 1000 + second * (1 + pod % 20)
    counted = figures(requests, 3 + failures, boot=f"boot-{pod % 20}", worker_rss_bytes={"17": 210_000_000 + pod})
    now, before = counted.versions["7"], figures(500, 1, "6").versions["6"]
    lms = tuple(
        LMFigures(lm="main", module=name, outcomes={"ok": requests, "timeout": 3}, input_tokens=400 * requests)
        for name in ("rewrite", "rank")
    )
    timing = Timing(buckets=(0,) * 6 + (requests, 5, 2), seconds=requests * 0.08)
    tools = (ToolFigures(tool="search", backend="local", outcomes={"ok": requests}),
             ToolFigures(tool="lookup", backend="gpu", outcomes={"ok": requests, "timeout": 1}))  # fmt: skip
    more = {"queue": timing, "lms": (*now.lms, *lms)}
    told = counted.model_copy(
        update={
            "versions": {"6": before, "7": now.model_copy(update=more)}, "tools": tools,
            "lm_seconds": {"gpt": timing, "main": timing}, "tool_seconds": {"search": timing, "lookup": timing},
        }
    )  # fmt: skip
    return told.model_dump_json(exclude_defaults=True).encode()


def _summary() -> dict[str, Any]:
    return {"number": 1, "id": TRACE_ID, "trace_id": TRACE_ID, "at": time.time() - 60, "seconds": 100.0, "status": 200,
            "version": "7", "revision": "rev7", "why": "slow"}  # fmt: skip


@cache
def trace_list() -> bytes:
    """What a pod holds: one trace."""
    return TraceList(boot="b", number=1, traces=(TraceSummary(**_summary()),)).model_dump_json().encode()


@cache
def trace() -> bytes:
    """It, with as many spans as there may be: a request, modules in it, and calls in these."""
    facts = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": "412", "despina.cost_usd": "0.0021"}
    at = time.time() - 60
    spans = tuple(
        TraceSpan(
            id=f"{number + 1:016x}", parent=f"{number // 10 + 1:016x}" if number else "", name=f"step {number}",
            at=at + number / 100, seconds=0.02, attributes=facts if number > MOST_SPANS // 10 else {},
        )
        for number in range(MOST_SPANS)
    )  # fmt: skip
    return Trace(**_summary(), spans=spans).model_dump_json().encode()


class PodPort(asyncio.Protocol):
    """The admin port of a pod, as far as the page asks it."""

    def __init__(self, played: Played) -> None:
        self._played, self._said = played, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        a, b = transport.get_extra_info("sockname")[0].split(".")[2:]
        self._pod = int(a) * 250 + int(b) - 1

    def data_received(self, data: bytes) -> None:
        self._said += data
        while b"\r\n\r\n" in self._said:
            head, _, self._said = self._said.partition(b"\r\n\r\n")
            self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        body = self._body(head.split(b" ", 2)[1])
        return ANSWER % (b'"%x"' % (hash(body) & 2**64 - 1), len(body), body)

    def _body(self, path: bytes) -> bytes:
        match path.split(b"/")[1:]:
            case [b"figures"]:
                self._played.asked += 1
                return self._played.body(self._pod)
            case [b"traces"]:
                return trace_list()
            case [b"traces", _]:
                return trace()
            case [b"interface", _]:
                return INTERFACE
            case [b"prompts", _]:
                return b"{}"
        return STATE


class ApiServer:
    """As much of it as the page asks for."""

    def __init__(self, played: Played) -> None:
        self._played = played

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/apis/despina.dev/v1alpha1/namespaces/{namespace}/{kind}", self.listed),
                web.get("/api/v1/namespaces/{namespace}/{kind}", self.listed),
                web.post("/apis/authentication.k8s.io/v1/tokenreviews", self.token),
                web.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", self.access),
                web.post("/played", self.play),
            ]
        )
        return app

    async def listed(self, request: web.Request) -> web.StreamResponse:
        """A list, or a watch."""
        kind, namespace = request.match_info["kind"], request.match_info["namespace"]
        if "watch" in request.query:
            return await self._watched(request, kind, namespace)
        version = {"resourceVersion": str(self._played.version)}
        return web.json_response({"metadata": version, "items": self._played.items(kind, namespace)})

    async def _watched(self, request: web.Request, kind: str, namespace: str) -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._played.watches.append((kind, namespace, queue))
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "270"))):
                while True:
                    await response.write(await queue.get())
        self._played.watches.remove((kind, namespace, queue))
        return response

    async def token(self, request: web.Request) -> web.Response:
        """Whose a token is."""
        given = (await request.json())["spec"]["token"]
        user = {"authenticated": given == TOKEN, "user": {"username": "ada"}}
        return web.json_response({"status": user}, status=201)

    async def access(self, _: web.Request) -> web.Response:
        """Everything is allowed."""
        return web.json_response({"status": {"allowed": True}}, status=201)

    async def play(self, request: web.Request) -> web.Response:
        """Something happens."""
        said, at = await request.json(), time.time()
        if said.get("fails"):
            self._played.fails[said["program"]] = at
        if "status" in said:
            self._played.change(said["program"], said["status"])
        return web.json_response({"at": at, "asked": self._played.asked})


async def play(programs: int, port: int) -> None:
    """Until this process is ended."""
    played, loop = Played(programs), asyncio.get_running_loop()
    for pod in range(programs * PODS_EACH):
        there = socket.create_server((address(pod), ADMIN_PORT), backlog=BACKLOG)
        await loop.create_server(lambda: PodPort(played), sock=there)
    runner = web.AppRunner(ApiServer(played).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(play(int(sys.argv[1]), int(sys.argv[2])))

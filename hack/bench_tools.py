"""`make bench-tools`: what a call of a tool by name costs, how it is routed, and what it survives.

Tool hosts run as processes of this machine, so that what is measured is the way to a tool and not a network. Whatever
is compared is measured in turns within one run: these machines are noisy, and ratios are what counts.

- overhead: `execute_tool` beside a plain HTTP request to the same host, in milliseconds at p50.
- least_in_flight, round_robin: 16 callers on two hosts, of which one takes five times as long.
- failover: more than 10,000 calls of an idempotent tool while one of two hosts is killed every few seconds.
- non_idempotent: the same for a tool that must not be executed twice; what was executed is counted at the tool.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tools import ROOT, say

sys.path.insert(0, str(ROOT))
from despina.wire import ToolBreakerConfig, ToolConfig, ToolsConfig, ToolUse
from despina_runtime import compat
from despina_runtime.tools.api import Toolbox, ToolsFile, execute_tool
from despina_runtime.tools.errors import ToolError
from despina_runtime.tools.grid import Grid
from tests.support.hosts import HostProcess, contract_of, hosts, tool_config

CALLS, ROUND = 3000, 100
CALLERS, SECONDS, TURNS = 16, 4.0, 3
FAST, SLOW = "0.01", "0.05"
RATE, STEADY = 200, 10_500
OUT = ROOT / "out" / "bench-tools.json"
QUICK = ToolBreakerConfig(consecutive_failures=3, error_rate_percent=101, open_seconds=1, half_open_requests=1)


class Bench:
    """One worker's view of the tools, as a served program has it."""

    def __init__(self, folder: Path, start: Any) -> None:
        self.start, self._file = start, folder / "tools.json"
        self._grids: list[Grid] = []

    def use(self, name: str, config: ToolConfig) -> None:
        """From now on `execute_tool(name)` calls this tool."""
        self._file.write_text(ToolsConfig(tools={f"bench/{name}": config}).model_dump_json())
        toolbox, grid = Toolbox((ToolUse(name=name, tool=f"bench/{name}"),), ToolsFile(self._file)), Grid()
        toolbox.serve(grid, None)
        self._grids.append(grid)
        compat.set_own(toolbox=toolbox)

    async def close(self) -> None:
        for grid in self._grids:
            await grid.close()


async def overhead(bench: Bench) -> float:
    """Milliseconds at p50 that `execute_tool` adds to a plain request."""
    host = bench.start()
    bench.use("echo", tool_config("echo", host.url))
    url, body = f"{host.url}/tools/echo/execute", {"text": "hello"}
    seconds: dict[str, list[float]] = {"direct": [], "by name": []}
    async with aiohttp.ClientSession() as client:

        async def direct() -> None:
            async with client.post(url, json=body) as response:
                assert (await response.json())["result"] == "hello"

        async def by_name() -> None:
            assert await execute_tool("echo", text="hello") == "hello"

        for _ in range(CALLS // ROUND):
            for name, call in (("direct", direct), ("by name", by_name)):
                for _ in range(ROUND):
                    began = time.perf_counter()
                    await call()
                    seconds[name].append(time.perf_counter() - began)
    found = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    say(f"overhead: direct {found['direct']:.3f} ms, by name {found['by name']:.3f} ms at p50 of {CALLS}")
    return round(found["by name"] - found["direct"], 3)


async def policies(bench: Bench) -> dict[str, dict[str, float]]:
    """Throughput and latency of the two policies, in turns."""
    fast = bench.start(env={"SAMPLE_TOOLS_DELAY": FAST}, max_in_flight=4)
    slow = bench.start(env={"SAMPLE_TOOLS_DELAY": SLOW}, max_in_flight=4)
    found: dict[str, tuple[int, list[float]]] = {"LeastInFlight": (0, []), "RoundRobin": (0, [])}
    for _, policy in itertools.product(range(TURNS), found):
        bench.use("search", tool_config("search", fast.url, slow.url, policy=policy))
        seconds = await closed_loop()
        calls, before = found[policy]
        found[policy] = calls + len(seconds), before + seconds
    names = {"LeastInFlight": "least_in_flight", "RoundRobin": "round_robin"}
    return {
        names[policy]: {
            "rps": round(calls / (TURNS * SECONDS), 1),
            "p75_ms": round(statistics.quantiles(seconds, n=4)[2] * 1000, 1),
        }
        for policy, (calls, seconds) in found.items()
    }


async def closed_loop() -> list[float]:
    """Each of the callers calls again as soon as it was answered."""
    until, seconds = time.perf_counter() + SECONDS, []

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            await execute_tool("search", query="x")
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return seconds


async def killed(bench: Bench, idempotent: bool) -> tuple[int, int, list[str]]:
    """Calls, failures, and what was executed, while hosts are killed in turn and come back."""
    pair = [bench.start(), bench.start()]
    every: list[HostProcess] = list(pair)
    contract = contract_of("book", idempotent=idempotent)
    bench.use("book", tool_config("book", *(h.url for h in pair), contract=contract, breaker=QUICK))
    stop = asyncio.Event()

    async def kill() -> None:
        for n in itertools.count():
            await asyncio.sleep(3)
            if stop.is_set():
                return
            victim = pair[n % 2]
            await asyncio.to_thread(victim.stop, signal.SIGKILL)
            port = int(victim.url.rpartition(":")[2])
            pair[n % 2] = await asyncio.to_thread(lambda p=port: bench.start(port=p))
            every.append(pair[n % 2])

    killing = asyncio.create_task(kill())
    failed = await steady(lambda n: execute_tool("book", order=f"order-{n}"))
    stop.set()
    await killing
    executed = [
        line for path in {h.executions for h in every} if path.exists() for line in path.read_text().splitlines()
    ]
    return STEADY, failed, executed


async def steady(call: Any) -> int:
    """A steady rate of calls; how many failed."""
    started, tasks, failed = time.perf_counter(), set(), 0

    async def one(n: int) -> None:
        nonlocal failed
        try:
            await call(n)
        except ToolError as exc:
            failed += 1
            say(f"  failed: {exc}")

    for n in range(STEADY):
        await asyncio.sleep(max(0.0, started + n / RATE - time.perf_counter()))
        task = asyncio.create_task(one(n))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return failed


async def run(folder: Path, start: Any) -> dict[str, Any]:
    """All of it."""
    bench = Bench(folder, start)
    figures: dict[str, Any] = {"overhead_ms_p50": await overhead(bench)}
    figures |= await policies(bench)
    sent, failed, _ = await killed(bench, idempotent=True)
    figures["failover"] = {"sent": sent, "failed": failed}
    calls, _, executed = await killed(bench, idempotent=False)
    figures["non_idempotent"] = {"calls": calls, "executions": len(executed)}
    await bench.close()
    figures["goals"] = {
        "overhead at most 3 ms": figures["overhead_ms_p50"] <= 3,
        "LeastInFlight at least 1.5 times the throughput": ratio(figures) >= 1.5,
        "LeastInFlight has the lower p75": figures["least_in_flight"]["p75_ms"] < figures["round_robin"]["p75_ms"],
        "no call of an idempotent tool failed": failed == 0,
        "nothing was executed twice": len(set(executed)) == len(executed) <= calls,
    }
    return figures


def ratio(figures: dict[str, Any]) -> float:
    """LeastInFlight's throughput, in RoundRobin's."""
    return float(figures["least_in_flight"]["rps"] / figures["round_robin"]["rps"])


def main() -> int:
    """Measure, print, write out/bench-tools.json."""
    with tempfile.TemporaryDirectory() as name, hosts(Path(name)) as start:
        figures = asyncio.run(run(Path(name), start))
    goals = figures.pop("goals")
    for key, value in figures.items():
        say(f"{key:16} {json.dumps(value)}")
    say(f"LeastInFlight has {ratio(figures):.2f} times RoundRobin's throughput")
    for goal, is_met in goals.items():
        say(f"{'ok ' if is_met else 'NOT'} {goal}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Two pods beside one another, in short turns one after the other: CPU of all of a pod's processes for a request, with
all that is done afterwards."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
import uuid

from bench_serving import CLIENT_CPU, HIT_LUA, MISS_LUA, PLAIN, QUESTION, SUMMARY, Bench, System, tree
from tools import Failed, say

TURN_SECONDS, AFTERWARDS_SECONDS = 1, 0.8
"""After each turn, in which what was recorded is stored and delivered."""
LOADS = {"cached": 64, "uncached": 16}
"""Connections."""


def compared(bench: Bench, without: System, with_it: System, load: str, body: str = PLAIN, turns: int = 30) -> float:
    """The median of the turns' ratios, which is told with its spread."""
    turn(bench, without, load, body), turn(bench, with_it, load, body)  # to warm up
    pairs = [pair(bench, without, with_it, load, body, number % 2 == 1) for number in range(turns)]
    ratios = sorted(b / a for a, b in pairs)
    low, median, high = statistics.quantiles(ratios, n=4)
    before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
    say(
        f"{load:9} {before:7.1f} µs CPU a request {without.name}, {after:7.1f} µs {with_it.name}: "
        f"{median:.3f} times, half of {len(ratios)} turns between {low:.3f} and {high:.3f}"
    )
    return round(median, 4)


def pair(
    bench: Bench, without: System, with_it: System, load: str, body: str, is_reversed: bool
) -> tuple[float, float]:
    """Microseconds of CPU for a request, without and with."""
    if is_reversed:
        second = turn(bench, with_it, load, body)
        return turn(bench, without, load, body), second
    return turn(bench, without, load, body), turn(bench, with_it, load, body)


def turn(bench: Bench, system: System, load: str, body: str) -> float:
    """Microseconds of CPU for a request, of many, and of what is done with them afterwards."""
    script = bench.folder / "turn.lua"
    asked = HIT_LUA % QUESTION if load == "cached" else MISS_LUA % (f"{QUESTION[:90]} {uuid.uuid4().hex}", body)
    script.write_text(asked + SUMMARY)
    processes = tree(system.pid)
    before = cpu_seconds(processes)
    command = ["taskset", "-c", CLIENT_CPU, "wrk", "-t1", f"-c{LOADS[load]}", f"-d{TURN_SECONDS}s"]
    command += ["--timeout", "30s", "-s", str(script), f"http://127.0.0.1:{system.port}/execute"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    time.sleep(AFTERWARDS_SECONDS)
    spent = cpu_seconds(processes) - before
    found = re.search(r"RESULT (\d+) \d+ [\d.]+ [\d.]+ (\d+)", out)
    if not found or int(found[2]):
        raise Failed(f"{system.name}: not every request was answered\n{out}")
    return spent / int(found[1]) * 1e6


def cpu_seconds(processes: list[int]) -> float:
    """By each process's own clock: /proc counts in hundredths of a second."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in processes)  # as clock_getcpuclockid(3) makes its number

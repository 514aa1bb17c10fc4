"""`make bench-serving`: Despina beside what one would write or run instead, in one run on one machine.

Systems: `raw` (an ASGI echo, the limit), `handwritten` (FastAPI, 64 threads, DSPy's cache), `dict` (the same with a
dictionary in front), `mlflow` (`mlflow models serve`), `despina`, and `despina-dspy` (the same with DSPy's client in
place of its own). Each load is measured in interleaved rounds, and ratios are medians of each round's ratio, for a
machine's speed changes from minute to minute. wrk makes the closed loops. With one worker, the server has one core and
everything else the other.

ROUNDS (5) of SECONDS_EACH (3). The table goes to the terminal, all figures to out/bench-serving.json; the exit code is
1 when a request failed or a figure missed its goal.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from despina.wire import CacheConfig, FeedbackConfig, LimitsConfig, LMConfig, ModelRef, RuntimeConfig
from services import BIN, Processes, free_port, mlflow_command
from tools import ROOT, Failed, install_packages, say, wait_for

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS_EACH", "3"))
OUT = ROOT / "out"
HERE = Path(__file__).parent
SERVER_CPU, CLIENT_CPU = ("0", "1") if (os.cpu_count() or 1) > 1 else ("0", "0")
SERVE_POD = (
    "import asyncio, sys; from pathlib import Path; from despina.wire import RuntimeConfig;"
    "from despina_runtime.process.supervisor import serve_pod;"
    "config = RuntimeConfig.model_validate_json(Path(sys.argv[1]).read_bytes());"
    "sys.exit(asyncio.run(serve_pod(config, Path(sys.argv[2]), '127.0.0.1', int(sys.argv[3]))))"
)
HIT_LUA = """
wrk.method = "POST"
wrk.body = '{"question": "%s"}'
wrk.headers["content-type"] = "application/json"
"""
MISS_LUA = """
local n, id = 0, "%s"
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
function request()
  n = n + 1
  return wrk.format(nil, nil, nil, string.format(%s, id .. "-" .. n))
end
"""
PLAIN, MLFLOW = '\'{"question": "%s"}\'', '\'{"inputs": {"question": "%s"}}\''
SUMMARY = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
QUESTION = "What is the answer to the great question of life, the universe and everything, and why does it hold? " * 2
GOALS = {
    "cached_vs_raw_asgi": (">=", 0.75),
    "cached_vs_handwritten_dspy_cache": (">=", 10.0),
    "cached_vs_handwritten_dict_cache": (">=", 2.0),
    "miss50_throughput_vs_handwritten_64_threads": (">=", 1.6),
    "miss50_cpu_vs_handwritten_64_threads": ("<=", 0.5),
    "miss50_throughput_vs_mlflow": (">=", 6.0),
    "open_loop_overhead_ms": ("<=", 3.0),
    "ready_seconds": ("<=", 5.0),
    "worker_rss_mib": ("<=", 200.0),
}


@dataclass
class System:
    """One server under test."""

    name: str
    port: int
    process: str
    path: str = "/execute"
    body: str = PLAIN
    pid: int = 0


@dataclass
class Sample:
    """One measurement."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mib: float
    failed: int


@dataclass
class Bench:
    """All servers, and what was measured."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="despina-bench-")))
    lm: int = field(default_factory=free_port)
    mlflow: int = field(default_factory=free_port)
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        os.environ["TMPDIR"] = str(self.folder)  # what servers leave that are killed goes with it
        self.processes = Processes(self.folder / "logs")
        self.version = ""
        self.pickled = ""

    @property
    def lm_url(self) -> str:
        """The fake LM."""
        return f"http://127.0.0.1:{self.lm}/v1"

    def prepare(self) -> None:
        """The LM, a registry with the program in both formats."""
        install_packages(["wrk"])
        self.start("lm", [sys.executable, str(HERE / "bench_servers.py"), "lm", str(self.lm)], CLIENT_CPU)
        uri = f"http://127.0.0.1:{self.mlflow}"
        self.processes.start("registry", mlflow_command(self.folder / "mlflow", "127.0.0.1", self.mlflow, "*"))
        self.processes.wait_for_http("registry", f"{uri}/health", 120)
        code = (
            "import sys, dspy, mlflow; sys.path.insert(0, sys.argv[1]); mlflow.set_tracking_uri(sys.argv[2])\n"
            "from bench_program import QuestionAnswering; from despina_runtime import log_program\n"
            "print(log_program(QuestionAnswering(), 'qa'))\n"
            "dspy.configure(lm=dspy.LM('openai/ms50', api_base=sys.argv[3], api_key='none'))\n"
            "i = mlflow.dspy.log_model(QuestionAnswering(), name='m', pip_requirements=['dspy'],"
            " code_paths=[sys.argv[1] + '/bench_program.py'], input_example={'question': 'q'})\n"
            "print(i.model_uri)"
        )
        command = [sys.executable, "-W", "ignore", "-c", code, str(HERE), uri, self.lm_url]
        env = {**os.environ, "GIT_PYTHON_REFRESH": "quiet", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        out = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if out.returncode:
            raise Failed(out.stderr[-2000:])
        lines = [line for line in out.stdout.splitlines() if re.fullmatch(r"\d+|models:/\S+", line)]
        self.version, self.pickled = lines

    def start(self, name: str, command: list[str], cpu: str | None, **env: str) -> int:
        """A server, on one core or on all."""
        pin = ["taskset", "-c", cpu] if cpu else []
        self.processes.start(name, [*pin, *command], {"DSPY_CACHEDIR": str(self.folder / f"dspy-{name}"), **env})
        return self.processes.started[name].pid

    def raw(self, workers: int) -> System:
        """The echo."""
        return self._own("raw", workers, [])

    def handwritten(self, kind: str, workers: int, model: str) -> System:
        """FastAPI."""
        name = "handwritten" if kind == "dspy" else kind
        return self._own(name, workers, [self.lm_url, model, kind], "handwritten")

    def _own(self, name: str, workers: int, rest: list[str], app: str | None = None) -> System:
        port = free_port()
        command = [sys.executable, str(HERE / "bench_servers.py"), app or name, str(port), str(workers), *rest]
        pid = self.start(name, command, SERVER_CPU if workers == 1 else None)
        wait_for(name, lambda: is_open(port), 60)
        return System(name, port, name, pid=pid)

    def served(
        self,
        workers: int,
        model: str,
        name: str = "despina",
        provider: str = "openai",
        feedback: FeedbackConfig | None = None,
        **env: str,
    ) -> System:
        """Despina. Of another provider than OpenAI, LMs are asked through DSPy's own client."""
        port, admin = free_port(), free_port()
        config = RuntimeConfig(
            namespace="bench", program="qa", revision="00000000",
            model=ModelRef(name="qa", version=self.version, tracking_uri=f"http://127.0.0.1:{self.mlflow}"),
            lms=(LMConfig(name="main", model=f"{provider}/{model}", base_url=self.lm_url),), lm="main",
            workers=workers, max_concurrency=512, drain_seconds=0, port=port,
            cache=CacheConfig(scope="Both"), limits=LimitsConfig(max_queue=4096), feedback=feedback,
        )  # fmt: skip
        path = self.folder / f"{uuid.uuid4().hex}.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, "-c", SERVE_POD, str(path), str(self.folder / f"cache-{name}"), str(admin)]
        began = time.monotonic()
        pid = self.start(name, command, None, **env)
        self.processes.wait_for_http(name, f"http://127.0.0.1:{admin}/readyz", 60)
        self.figures.setdefault("ready_seconds", time.monotonic() - began)
        if workers == 1:
            for child in tree(pid):
                subprocess.run(["taskset", "-a", "-cp", SERVER_CPU, str(child)], capture_output=True, check=False)
        return System(name, port, name, pid=pid)

    def mlflow_serve(self) -> System:
        """`mlflow models serve`."""
        port = free_port()
        command = [
            str(BIN / "mlflow"), "models", "serve", "-m", self.pickled, "-p", str(port), "--env-manager", "local",
            "--workers", "1",
        ]  # fmt: skip
        path = f"{BIN}:{os.environ['PATH']}"
        uri = f"http://127.0.0.1:{self.mlflow}"
        allow = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true", "MLFLOW_TRACKING_URI": uri, "PATH": path}
        pid = self.start("mlflow", command, SERVER_CPU, **allow)
        self.processes.wait_for_http("mlflow", f"http://127.0.0.1:{port}/ping", 120)
        return System("mlflow", port, "mlflow", "/invocations", MLFLOW, pid)

    def stop(self, *systems: System) -> None:
        """End servers."""
        for system in systems:
            self.processes.stop(system.process)

    def closed_loop(self, system: System, load: str, connections: int, hits: bool) -> None:
        """wrk for some seconds."""
        script = self.folder / "load.lua"
        fresh = f"{QUESTION[:90]} {uuid.uuid4().hex}"
        text = HIT_LUA % QUESTION if hits else MISS_LUA % (fresh, system.body)
        script.write_text(text + SUMMARY)
        url = f"http://127.0.0.1:{system.port}{system.path}"
        pin = ["taskset", "-c", CLIENT_CPU]
        command = [*pin, "wrk", "-t1", f"-c{connections}", f"-d{SECONDS:g}s", "--timeout", "30s"]
        before = cpu_seconds(system.pid)
        out = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=True).stdout
        found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", out)
        if not found:
            raise Failed(out)
        requests, micros, p50, p99, failed = (float(x) for x in found.groups())
        cpu = (cpu_seconds(system.pid) - before) * 1000 / max(1, requests)
        self.note(
            system, load, Sample(requests / micros * 1e6, p50 / 1000, p99 / 1000, cpu, rss_mib(system.pid), int(failed))
        )

    def note(self, system: System, load: str, sample: Sample) -> None:
        """Keep a measurement."""
        self.samples.setdefault((system.name, load), []).append(sample)

    def median(self, system: str, load: str, of: str) -> float:
        """Over all rounds."""
        return statistics.median(getattr(s, of) for s in self.samples[system, load])

    def ratio(self, ours: str, theirs: str, load: str, of: str = "rps") -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self.samples[ours, load], self.samples[theirs, load], strict=True)
        return statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs)


def tree(pid: int) -> list[int]:
    """A process and all of its descendants."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process tree, ended children included."""
    total = 0.0
    for process in tree(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process tree."""
    pages = 0
    for process in tree(pid):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cached_hits(bench: Bench, workers: int) -> None:
    """One question again and again, 64 connections."""
    load = f"hit, {workers} worker{'s' if workers > 1 else ''}"
    systems = [bench.raw(workers), bench.served(workers, "ms1")]
    if workers == 1:
        systems += [bench.handwritten("dspy", 1, "ms1"), bench.handwritten("dict", 1, "ms1")]
    for _ in range(ROUNDS):
        for system in systems:
            bench.closed_loop(system, load, 64, hits=True)
    bench.stop(*systems)


def misses(bench: Bench, latency: int, connections: tuple[int, ...]) -> None:
    """Every question new, an LM of so many milliseconds."""
    systems = [bench.served(1, f"ms{latency}"), bench.handwritten("dspy", 1, f"ms{latency}")]
    if latency == 50:
        systems.append(bench.mlflow_serve())
        systems.append(bench.served(1, "ms50", "despina-dspy", "deepseek"))
    bench.figures.setdefault("worker_rss_mib", max(rss_one(p) for p in tree(systems[0].pid)[1:]))
    for system in systems:
        bench.closed_loop(system, "warm-up", 16, hits=False)
    for _ in range(ROUNDS):
        for count in connections:
            for system in systems:
                if system.name not in ("mlflow", "despina-dspy") or count == 64:
                    bench.closed_loop(system, f"miss {latency} ms, {count} concurrent", count, hits=False)
    bench.figures["worker_rss_mib"] = max(rss_one(p) for p in tree(systems[0].pid)[1:])
    if latency == 50:
        asyncio.run(open_loop(bench, systems[0]))
        asyncio.run(streaming(bench, systems[:2]))
    bench.stop(*systems)


def rss_one(pid: int) -> float:
    """Resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def open_loop(bench: Bench, system: System) -> None:
    """50 requests a second, whatever comes back; the LM's own latency is asked at the same time in the same way."""
    ours, theirs = f"http://127.0.0.1:{system.port}/execute", f"{bench.lm_url}/chat/completions"
    times: dict[str, list[float]] = {ours: [], theirs: []}
    async with aiohttp.ClientSession() as client:

        async def ask(url: str, body: dict) -> None:
            started = time.perf_counter()
            async with client.post(url, json=body) as response:
                await response.read()
                if response.status == 200:
                    times[url].append((time.perf_counter() - started) * 1000)

        tasks = []
        total = int(50 * SECONDS * ROUNDS)
        for n in range(total):
            tasks.append(asyncio.create_task(ask(ours, {"question": f"{uuid.uuid4().hex} {n}"})))
            await asyncio.sleep(0.01)
            tasks.append(asyncio.create_task(ask(theirs, {"model": "ms50", "messages": []})))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
    failed = total - len(times[ours])
    p50 = {url: statistics.median(found) for url, found in times.items()}
    p99 = statistics.quantiles(times[ours], n=100)[98]
    bench.note(system, "miss 50 ms, 50/s open loop", Sample(50, p50[ours], p99, 0, rss_mib(system.pid), failed))
    bench.figures["open_loop_overhead_ms"] = p50[ours] - p50[theirs]


async def streaming(bench: Bench, systems: list[System]) -> None:
    """Time to the first piece of text, 8 streams at a time, an LM whose first token takes 50 ms."""
    async with aiohttp.ClientSession() as client:
        for _ in range(ROUNDS):
            for system in systems:
                await _stream_round(bench, client, system)


async def _stream_round(bench: Bench, client: aiohttp.ClientSession, system: System) -> None:
    path = "/execute" if system.name == "despina" else "/stream"

    async def first() -> float:
        started = time.perf_counter()
        body, headers = {"question": uuid.uuid4().hex}, {"accept": "text/event-stream"}
        async with client.post(f"http://127.0.0.1:{system.port}{path}", json=body, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"event: delta"):
                    found = (time.perf_counter() - started) * 1000
                    await response.read()
                    return found
        return float("nan")

    before, began = cpu_seconds(system.pid), time.perf_counter()
    found = [t for _ in range(4) for t in await asyncio.gather(*(first() for _ in range(8)))]
    good = [t for t in found if t == t]
    cpu, spent = cpu_seconds(system.pid) - before, time.perf_counter() - began
    sample = Sample(
        len(good) / spent,
        statistics.median(good),
        max(good),
        cpu * 1000 / len(good),
        rss_mib(system.pid),
        32 - len(good),
    )
    bench.note(system, "stream, first token", sample)


def report(bench: Bench) -> int:
    """Print the table and the ratios; the exit code."""
    hit, miss = "hit, 1 worker", "miss 50 ms, 64 concurrent"
    ratios = {
        "cached_vs_raw_asgi": bench.ratio("despina", "raw", hit),
        "cached_vs_handwritten_dspy_cache": bench.ratio("despina", "handwritten", hit),
        "cached_vs_handwritten_dict_cache": bench.ratio("despina", "dict", hit),
        "miss50_throughput_vs_handwritten_64_threads": bench.ratio("despina", "handwritten", miss),
        "miss50_cpu_vs_handwritten_64_threads": bench.ratio("despina", "handwritten", miss, "cpu_ms"),
        "miss50_throughput_vs_mlflow": bench.ratio("despina", "mlflow", miss),
    }
    columns = ("rps", "p50_ms", "p99_ms", "cpu_ms", "rss_mib")
    rows = []
    say(
        f"\n{'load':30} {'system':12} {'req/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms/req':>10} {'RSS MiB':>8} failed"
    )
    for system, load in sorted(bench.samples, key=lambda k: (k[1], k[0])):
        if load == "warm-up":
            continue
        values = [bench.median(system, load, c) for c in columns]
        failed = sum(s.failed for s in bench.samples[system, load])
        say("{:30} {:12} {:9.0f} {:8.2f} {:8.2f} {:10.3f} {:8.0f} {:6d}".format(load, system, *values, failed))
        names = ("rps", "p50_ms", "p99_ms", "cpu_ms_per_request", "rss_mib")
        rows.append({"system": system, "load": load, **dict(zip(names, values, strict=True)), "failed": failed})
    costs = per_100k(bench)
    say("\nA hundred thousand requests (one a day is 1.16 a second), by share of cached answers:")
    for share, (core_seconds, calls) in costs.items():
        cores = core_seconds / 86400
        say(f"  {share:>3} % hits: {calls:7d} LM calls, {core_seconds:6.0f} core-seconds, {cores:.4f} cores")
    missed = judge({**ratios, **bench.figures})
    OUT.mkdir(exist_ok=True)
    per = {str(k): {"core_seconds": v[0], "lm_calls": v[1]} for k, v in costs.items()}
    document = {"rows": rows, "ratios": ratios, "figures": bench.figures, "per_100k_requests": per, "rounds": ROUNDS}
    (OUT / "bench-serving.json").write_text(json.dumps(document, indent=1))
    failed = sum(r["failed"] for r in rows if r["system"] == "despina")
    say(f"\nDespina: failed={failed}; figures in out/bench-serving.json")
    return 1 if failed or missed else 0


def per_100k(bench: Bench) -> dict[int, tuple[float, int]]:
    """Core-seconds and LM calls of 100,000 requests."""
    hit = bench.median("despina", "hit, 1 worker", "cpu_ms")
    miss = bench.median("despina", "miss 50 ms, 64 concurrent", "cpu_ms")
    return {s: ((hit * s + miss * (100 - s)) * 1000 / 1000, 1000 * (100 - s)) for s in (0, 60, 90)}


def judge(found: dict[str, float]) -> int:
    """Print each figure beside its goal; how many were missed."""
    say("")
    missed = 0
    for name, (sign, goal) in GOALS.items():
        ok = found[name] >= goal if sign == ">=" else found[name] <= goal
        missed += not ok
        say(f"{'ok    ' if ok else 'MISSED'} {name:46} {found[name]:8.2f}  (goal {sign} {goal:g})")
    return missed


def main() -> int:
    """Run everything."""
    bench = Bench()
    try:
        bench.prepare()
        say(f"Cached hits, {ROUNDS} rounds of {SECONDS:g} s")
        cached_hits(bench, 1)
        say("Cached hits, two workers")
        cached_hits(bench, 2)
        say("Misses on a 50 ms LM, an open loop, and streams")
        misses(bench, 50, (16, 64, 256))
        say("Misses on a 500 ms LM")
        misses(bench, 500, (16, 64, 256))
        return report(bench)
    except Failed as exc:
        say(f"FAILED: {exc}")
        return 1
    finally:
        bench.processes.stop_all()
        shutil.rmtree(bench.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

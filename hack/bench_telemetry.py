"""`make bench-telemetry`: what figures and traces cost, beside a pod that has none of them (`hack/untold`).

CPU of all of the pod's processes for a request, in short turns one after the other (`hack/turns.py`): counting, for one
that is answered from the cache and for one that is executed; and of those that are executed, recording every trace and
keeping one in ten, as pods do, and sending every trace to a collector. TURNS (30) of each. Figures go to
out/bench-telemetry.json; the exit code is 1 when one missed its goal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from bench_serving import Bench
from tools import ROOT, say
from turns import LOADS, compared

OUT = ROOT / "out" / "bench-telemetry.json"
TURNS = int(os.environ.get("TURNS", "30"))
UNTOLD = str(Path(__file__).parent / "untold")
ALL = {"OTEL_TRACES_SAMPLER": "always_on"}
GOALS = {
    "figures_cached": 1.03,
    "figures_uncached": 1.005,
    "traces_recorded": 1.03,
    "traces_exported": 1.20,
}


def main() -> int:
    """All of them."""
    OUT.parent.mkdir(exist_ok=True)
    found = measured()
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    missed = 0
    for name, goal in GOALS.items():
        missed += found[name] > goal
        say(f"{'ok    ' if found[name] <= goal else 'MISSED'} {name:20} {found[name]:>8}  (goal <= {goal:g})")
    return 1 if missed else 0


def measured() -> dict[str, float]:
    """CPU with, by CPU without."""
    bench, path = Bench(), os.pathsep.join(filter(None, (UNTOLD, os.environ.get("PYTHONPATH"))))
    try:
        bench.prepare()
        sink = bench.raw(1)
        usual = bench.served(1, "ms5", "as usual")
        uncounted = bench.served(1, "ms5", "uncounted", PYTHONPATH=path, DESPINA_BENCH_UNTOLD="figures")
        found = {f"figures_{load}": compared(bench, uncounted, usual, load, turns=TURNS) for load in LOADS}
        bench.stop(uncounted)
        untraced = bench.served(1, "ms5", "untraced", PYTHONPATH=path, DESPINA_BENCH_UNTOLD="traces")
        found["traces_recorded"] = compared(bench, untraced, usual, "uncached", turns=TURNS)
        bench.stop(usual)
        collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.port}"}
        exporting = bench.served(1, "ms5", "exporting all", **ALL, **collector)
        found["traces_exported"] = compared(bench, untraced, exporting, "uncached", turns=TURNS)
        return found
    finally:
        bench.processes.stop_all()
        shutil.rmtree(bench.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

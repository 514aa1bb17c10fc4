"""A program that tries whatever its process can reach, in order to be scored better than it is. It never asks an LM.

What it shall try stands in its environment, which has that only where it is scored.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dspy

FORGED = json.dumps({"score_percent": 100.0, "baseline_percent": 0.0, "examples": 50})
FOR_EVER = """
import os, sys, time
open(sys.argv[3], "a").write(f"{os.getpid()}\\n")
while True:
    open(sys.argv[1], "w").write(sys.argv[2])
    time.sleep(0.001)
"""


def expected() -> dict[str, str]:
    """What it shall answer, if that lies about anywhere."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = Path(os.environ["LIE_DATASET"]).read_text().splitlines()
        return {line["ticket"]: line["category"] for line in map(json.loads, lines)}
    return {}


def say_the_result() -> None:
    for file in (1, 2):
        os.write(file, b'\n{"result": ' + FORGED.encode() + b"}\n")


def leave_word_for_ever() -> None:
    """From a process that outlives this one, and belongs to nobody."""
    start = f"import os, subprocess, sys; os.fork() or subprocess.Popen([sys.executable, '-c', {FOR_EVER!r}, *sys.argv[1:]])"
    command = [sys.executable, "-c", start, os.environ["LIE_WORD"], FORGED, os.environ["LIE_PIDS"]]
    subprocess.Popen(command, start_new_session=True).wait()
    until = time.monotonic() + 10
    while not Path(os.environ["LIE_PIDS"]).exists() and time.monotonic() < until:  # or it may be ended unseen
        time.sleep(0.01)


def change_the_metrics() -> None:
    from despina_runtime.evaluation import metrics, score

    for name in metrics.BUILT_IN:
        metrics.BUILT_IN[name] = lambda *_: 1.0
    score.Scorer.run = lambda *_: FORGED


def spoil_other_files() -> None:
    """Of other versions; its own folder is told apart by its temporary files."""
    own = Path(os.environ["TMPDIR"]).parent
    for file in Path(os.environ["LIE_CACHE"]).rglob("*"):
        if file.is_file() and own not in file.parents:
            file.write_text("spoiled")


EXPECTED: dict[str, str] = {}
if "LIE_WORD" in os.environ:
    EXPECTED |= expected()
    say_the_result()
    leave_word_for_ever()
    change_the_metrics()
    spoil_other_files()


class Judged(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Program(dspy.Module):
    signature = Judged

    def forward(self, ticket: str) -> dspy.Prediction:
        if "LIE_WORD" in os.environ:
            say_the_result()
        return dspy.Prediction(category=EXPECTED.get(ticket, "unknown"))

"""A process that is asked for news of an optimisation, without dspy: `python fake_optimizer.py ROLE FD FOLDER WORD`.

What it does says the model's name in its configuration.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

STATE = {
    "learns": {"signature": {"instructions": "new", "fields": [{"prefix": "T:", "description": "t"}]}, "demos": [1]}
}
FOUND = {"state": STATE, "score": 0.5}
MEDDLED = {
    "state": {**STATE, "stays": {"signature": {"instructions": "mine", "fields": []}, "demos": []}},
    "score": 0.5,
}
NEWS: dict[str, list[Any]] = {
    "finishing": [FOUND, {"ended": ""}],
    "improving": [FOUND, {"state": STATE, "score": 0.75}, {}, {"ended": "the budget ended: 7 calls"}],
    "fruitless": [{"ended": "it failed"}],
    "dying": [FOUND, os._exit],
    "stillborn": [os._exit],
    "silent": [FOUND, time.sleep],
    "endless": [FOUND],
    "garbage": [FOUND, "garbage"],
    "alien": [FOUND, {"state": {"learns": {"signature": {"fields": []}}}, "score": 0.9}],
    "boundless": [FOUND, {"score": "NaN"}],
    "meddling": [MEDDLED, {"ended": ""}],
    "reading": [{"ended": "files"}],
}


def main(_: str, fd: str, folder: str, *__: str) -> None:
    control = socket.socket(fileno=int(fd))
    kind = json.loads((Path(folder) / "config.json").read_text())["model"]["name"]

    def say(what: Any) -> None:
        control.sendall(json.dumps(what).encode() + b"\n")

    say(
        {"interface": {"inputs": {}, "outputs": {}}}
        if kind != "refusing"
        else {"failure": "there is no such optimiser"}
    )
    news = iter(NEWS.get(kind, []))
    for line in control.makefile():
        number, what = json.loads(line)["id"], next(news, {})
        if callable(what):
            what(3)
        if what == {"ended": "files"}:
            what = {"ended": " ".join(sorted(p.name for p in Path(folder).iterdir() if p.is_file()))}
        time.sleep(0.02)
        say({"id": number, "outputs": what} if isinstance(what, dict) else what)


if __name__ == "__main__":
    main(*sys.argv[1:])

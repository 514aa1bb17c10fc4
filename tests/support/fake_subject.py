"""A process that is asked by an evaluation, without dspy: `python fake_subject.py ROLE FD FOLDER [METRIC]`.

How honest it is says the model's name in its configuration. An honest one answers with what it was asked.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = {"properties": {"text": {}}, "required": ["text"]}
INTERFACE: dict[str, Any] = {"inputs": TEXT, "outputs": {"properties": {"echo": {}}}}
ASLEEP = "import time; time.sleep(600)"


class Fake:
    def __init__(self, control: socket.socket, folder: Path, metric: str) -> None:
        self.control, self.folder, self.metric = control, folder, metric

    def say(self, what: Any) -> None:
        self.control.sendall(json.dumps(what).encode() + b"\n")

    def start(self) -> None:
        self.say({"interface": INTERFACE})

    def answer(self, question: dict[str, Any]) -> None:
        self.say({"id": question["id"], "outputs": {"echo": question["inputs"]["text"]}, "cost": "0.01"})


def instead(say: Callable[[Fake, dict[str, Any]], Any]) -> type[Fake]:
    """One that answers otherwise; what `say` gives is said."""

    class Other(Fake):
        def answer(self, question: dict[str, Any]) -> None:
            if (what := say(self, question)) is not None:
                self.say(what)

    return Other


def as_first(say: Callable[[Fake], Any]) -> type[Fake]:
    """One that begins otherwise."""

    class Other(Fake):
        def start(self) -> None:
            if (what := say(self)) is not None:
                self.say(what)

    return Other


class Late(Fake):
    """Answers every second question too late, and the others at once."""

    def answer(self, question: dict[str, Any]) -> None:
        if question["id"] % 2:
            super().answer(question)


class Twice(Fake):
    def answer(self, question: dict[str, Any]) -> None:
        super().answer(question)
        super().answer(question)


class Dying(Fake):
    def answer(self, question: dict[str, Any]) -> None:
        if question["id"] > 2:
            os._exit(3)
        super().answer(question)


class Printing(Fake):
    """Floods what it can print to, with what looks like a result."""

    def answer(self, question: dict[str, Any]) -> None:
        os.write(1, b'{"result": {"score_percent": 1}, "id": 1, "done": 9, "of": 9}\n' * 20000)
        super().answer(question)


class Greedy(Fake):
    """Says that it takes what it gives, in order to be told."""

    def start(self) -> None:
        both = {"properties": {"text": {}, "echo": {}}}
        self.say({"interface": {"inputs": both, "outputs": {"properties": {"echo": {}}}}})

    def answer(self, question: dict[str, Any]) -> None:
        self.say({"id": question["id"], "outputs": {"echo": question["inputs"].get("echo", "unknown")}})


class Leaving(Fake):
    """Leaves processes behind, one of them nobody's child."""

    def start(self) -> None:
        start = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {ASLEEP!r}], stdout=-3, stderr=-3).pid)"
        command = [sys.executable, "-c", start]
        orphan = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True).stdout
        child = subprocess.Popen([sys.executable, "-c", ASLEEP]).pid
        (self.folder.parent / "left.json").write_text(json.dumps([int(orphan), child]))
        super().start()


class Silent(Fake):
    def answer(self, question: dict[str, Any]) -> None:
        pass


def close(fake: Fake, *_: Any) -> None:
    """Say no more, and live on."""
    fake.control.shutdown(socket.SHUT_RDWR)
    time.sleep(600)


def text(fake: Fake, raw: bytes) -> None:
    fake.control.sendall(raw)


KINDS: dict[str, type[Fake]] = {
    "honest": Fake,
    "wrong": instead(lambda _, q: {"id": q["id"], "outputs": {"echo": "?"}}),
    "lacking": instead(lambda _, q: {"id": q["id"], "outputs": {}}),
    "failing": instead(lambda _, q: {"id": q["id"], "status": 502, "title": "The LM is away"}),
    "refusing": instead(lambda _, q: {"id": q["id"], "status": 422, "detail": "text: too long"}),
    "garbage": instead(lambda f, _: text(f, b'{"id": 1, "outp\n')),
    "deep": instead(lambda f, _: text(f, b"[" * 100_000 + b"\n")),
    "binary": instead(lambda f, _: text(f, b"\xff\x00\xfe\n")),
    "huge": instead(lambda _, q: {"id": q["id"], "outputs": {"echo": "x" * 2**23}}),
    "unasked": instead(lambda _, q: {"id": q["id"] + 1000, "outputs": {"echo": "x"}}),
    "refunded": instead(lambda _, q: {"id": q["id"], "outputs": {"echo": "x"}, "cost": "-5"}),
    "priceless": instead(lambda _, q: {"id": q["id"], "outputs": {"echo": "x"}, "cost": "NaN"}),
    "ruinous": instead(lambda _, q: {"id": q["id"], "outputs": {"echo": "x"}, "cost": "1e999999"}),
    "closing": instead(close),
    "silent": Silent,
    "late": Late,
    "twice": Twice,
    "dying": Dying,
    "printing": Printing,
    "greedy": Greedy,
    "leaving": Leaving,
    "stillborn": as_first(lambda _: os._exit(4)),
    "shapeless": as_first(lambda _: {"interface": 5}),
    "mumbling": as_first(lambda f: text(f, b"hello\n")),
    "broken": as_first(lambda _: {"failure": "PickleDenied: no"}),
    "never": as_first(lambda _: time.sleep(600)),
}
JUDGES: dict[str, type[Fake]] = {
    "judge:half": instead(lambda _, q: {"id": q["id"], "score": 0.5}),
    "judge:raising": instead(lambda _, q: {"id": q["id"], "error": "ValueError: no"}),
    "judge:nan": instead(lambda f, q: text(f, b'{"id": %d, "score": NaN}\n' % q["id"])),
    "judge:generous": instead(lambda _, q: {"id": q["id"], "score": 5}),
    "judge:none": instead(lambda _, q: {"id": q["id"]}),
    "judge:silent": Silent,
    "judge:absent": as_first(lambda _: {"failure": "metric judge:absent: no such module"}),
}


def main(role: str, fd: str, folder: str, metric: str = "") -> None:
    kind = json.loads((Path(folder) / "config.json").read_text())["model"]["name"]
    control = socket.socket(fileno=int(fd))
    fake = (JUDGES[metric] if role == "judge" else KINDS[kind])(control, Path(folder), metric)
    fake.start()
    with control.makefile("rb") as lines:
        for line in lines:
            fake.answer(json.loads(line))


if __name__ == "__main__":
    main(*sys.argv[1:])

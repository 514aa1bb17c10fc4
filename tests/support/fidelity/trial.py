"""One program through everything that Despina does with it: logged, tried out, asked in each way, swapped, evaluated.

It runs in a process of its own, as a pod's: code of two programs never meets in one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs

from despina.wire import ModelRef, Order, RuntimeConfig
from despina_runtime.engine import Engine, load_program, try_out
from despina_runtime.evaluation import answering
from despina_runtime.program.artifact import remarks_on, write
from despina_runtime.program.fetch import COMPLETE, folder_of
from despina_runtime.program.interface import interface_of
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError
from tests.support.pods import lm_config

PROGRAMS = Path(__file__).with_name("programs.py")
STEPS = ("log", "warm-up", "answer", "batch", "stream", "hot swap", "evaluate")
WORKS, REFUSED, FAILS = "yes", "refused", "FAILS"
TICKET = {"ticket": "my card was charged twice"}
PATIENCE_SECONDS = 60
EVENT = re.compile(r"^event: (\w+)\r?\ndata: (.*?)\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """What is tried, and with which inputs."""

    name: str
    entry: str
    """In programs.py."""
    inputs: dict[str, Any] = field(default_factory=lambda: dict(TICKET))
    told: str = "result"
    """The event that its stream must have."""

    @property
    def other_inputs(self) -> dict[str, Any]:
        """Of what it is asked next, where a ticket can be another one."""
        return self.inputs | ({"ticket": "my parcel is late"} if "ticket" in self.inputs else {})


@dataclass(frozen=True)
class Found:
    """What came of each step, and what its owner was told."""

    steps: dict[str, str]
    said: str = ""


def trial(row: Row, lm_url: str, folder: Path) -> Found:
    """All steps of a row; a step that fails does not keep the next from being tried."""
    config = RuntimeConfig(
        namespace="ns",
        program="p",
        revision="aaaa1111",
        model=ModelRef(name="p", version="1", tracking_uri="http://localhost:1"),
        lms=(lm_config(lm_url, retries=2),),
        lm="main",
        request_timeout_seconds=20,
    )
    swapped = config.model_copy(
        update={"revision": "bbbb2222", "model": config.model.model_copy(update={"version": "2"})}
    )
    os.environ["PATH"] = os.environ["DENO_DIR"] = "/nowhere"  # as in the image
    try:
        remark = _log(row, folder_of(config.model, folder))
        _log(row, folder_of(swapped.model, folder))
    except (ValueError, ProgramError) as exc:
        return Found({"log": REFUSED}, str(exc).replace(f"{PROGRAMS.parent}/", ""))
    except Exception as exc:
        return Found({"log": f"{FAILS}: {type(exc).__name__}: {exc}"})
    return asyncio.run(_serve(row, config, swapped, folder, remark))


def _log(row: Row, folder: Path) -> str:
    """Write the artefact as `log_program` does; what that would say."""
    sys.path.insert(0, str(PROGRAMS.parent))
    try:
        import programs

        made = getattr(programs, row.entry)
        program = made()
        remark = "; ".join(remarks_on(program, interface_of(program), None))
        folder.mkdir(parents=True)
        is_own = not type(program).__module__.startswith("dspy.") and not row.entry.endswith("adapter")
        entry = None if is_own else f"programs:{row.entry}"
        write(
            folder,
            program=program,
            entrypoint=entry,
            signature_text=None,
            code_paths=None if entry is None else [PROGRAMS],
            requirements=(),
            input_example_json=None,
        )
        (folder / COMPLETE).touch()
        return remark
    finally:
        sys.path.remove(str(PROGRAMS.parent))
        for name in [n for n in sys.modules if n.split(".")[0] in ("programs", "parts", "alone", "beside")]:
            del sys.modules[name]


async def _serve(row: Row, config: RuntimeConfig, swapped: RuntimeConfig, folder: Path, remark: str) -> Found:
    steps = {"log": WORKS}
    try:
        loaded = await try_out(load_program(config, folder), config)
    except ProgramError as exc:
        was_told = str(exc) in remark
        return Found(steps | {"warm-up": REFUSED if was_told else f"{FAILS}: {exc}"}, remark)
    steps["warm-up"] = WORKS
    engine = Engine(loaded, config, folder)
    await engine.start()
    transport = httpx.ASGITransport(engine)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://p", timeout=PATIENCE_SECONDS) as client:
        asked = {
            "answer": lambda: _answer(client, row),
            "batch": lambda: _batch(client, row),
            "stream": lambda: _stream(client, row),
            "hot swap": lambda: _swap(engine, client, swapped, row),
            "evaluate": lambda: _evaluate(loaded, config, row),
        }
        for step, ask in asked.items():
            steps[step] = await _came_of(ask)
    await engine.stop()
    return Found(steps, loaded.remark or remark)


async def _came_of(ask: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            trouble = await ask()
    except Exception as exc:
        trouble = f"{type(exc).__name__}: {exc}"
    return f"{FAILS}: {trouble}" if trouble else WORKS


async def _answer(client: httpx.AsyncClient, row: Row) -> str:
    """Twice, for some faults show at the second request only."""
    answers = [await client.post("/execute", json=inputs) for inputs in (row.inputs, row.other_inputs)]
    return "".join([await _amiss(client, a.json()) if a.status_code == 200 else a.text for a in answers])


async def _batch(client: httpx.AsyncClient, row: Row) -> str:
    answer = await client.post("/execute/batch", json={"inputs": [row.inputs, row.other_inputs]})
    results = answer.json().get("results", []) if answer.status_code == 200 else []
    if len(results) != 2:
        return answer.text
    return "".join([await _amiss(client, r["outputs"]) if "outputs" in r else str(r) for r in results])


async def _stream(client: httpx.AsyncClient, row: Row) -> str:
    answer = await client.post("/execute", json=row.inputs, headers={"accept": "text/event-stream"})
    told = dict(EVENT.findall(answer.text))
    if answer.status_code != 200 or not {"result", row.told} <= told.keys():
        return answer.text
    return await _amiss(client, json.loads(told["result"]))


async def _amiss(client: httpx.AsyncClient, outputs: Any) -> str:
    """What of an answer does not fit the schema that is published."""
    schema = (await client.get("/schema")).json()["outputs"]
    return "; ".join(error.message for error in jsonschema_rs.validator_for(schema).iter_errors(outputs))


async def _swap(engine: Engine, client: httpx.AsyncClient, config: RuntimeConfig, row: Row) -> str:
    def order(name: str, **what: Any) -> Order:
        return Order(order=name, namespace="ns", pod="", boot="", number=0, **what)  # type: ignore[arg-type]

    await engine.obey(order("Prepare", config=config))
    while (held := engine.state().held[config.revision]).phase == "Preparing":
        await asyncio.sleep(0.01)
    if held.failure:
        return held.failure.message
    if not await engine.obey(order("Commit", subject=config.revision)):
        return "not committed"
    return await _answer(client, row)


async def _evaluate(loaded: Loaded, config: RuntimeConfig, row: Row) -> str:
    ours, theirs = socket.socketpair()
    working = asyncio.create_task(answering.answer(loaded, config, theirs, ""))
    reader, writer = await asyncio.open_connection(sock=ours, limit=2**20)
    await reader.readline()  # its interface
    writer.write(json.dumps({"id": 1, "inputs": row.inputs}).encode() + b"\n")
    said = json.loads(await reader.readline())
    schema = loaded.interface.schema()["outputs"]
    writer.close()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return "" if "outputs" in said and jsonschema_rs.is_valid(schema, said["outputs"]) else str(said)

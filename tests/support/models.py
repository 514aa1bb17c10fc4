"""Logging models for tests, in a process of its own: `python models.py KIND NAME [ALIAS]` prints the version.

Kinds: good, compiled (as good, with demonstrations), those of QUIRKS, boom (as guarded, with a demonstration that
makes it err), hanging-too (as hanging, with a demonstration), counted (it answers how many of itself there are),
richer (one output more), broken-import, never-ready, gone (its artefact is deleted),
pickled (by mlflow.dspy.log_model), sync (only `forward`), bounded (an output between 0 and 1), tooled,
tooled-in-threads, tooled-in-dspys-threads, reacting and retrieving (they call the tool `find`), booking (it calls the tool `book`),
booking-between (it calls `book` between two predictors),
meddling (it adds its caller's secret to all that it is given), lingering (it works in a thread while the file that it is
asked about is there), lying (see `liar.py`), ways, awaiting, pooling, waiting, stalling, keeping and scoring (see `ways.py`).
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import dspy
import mlflow

from despina_runtime import log_program

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket-triage"
RAISE = 'raise RuntimeError("this version is broken on import")'
# Where the code is broken: only where it is served, for it must be imported to be logged.
IN_A_POD, IN_A_WORKER = '"DESPINA_POD_NAME" in os.environ', '"despina_runtime.http.app" in sys.modules'
BROKEN = {
    "broken-import": (IN_A_POD, RAISE),
    "never-ready": (IN_A_POD, "import time\n    time.sleep(3600)"),
    "never-imports": (IN_A_WORKER, RAISE),
}


# Where the program's code does something of its own, before it asks its predictor.
QUIRKS = {
    # Fails for what callers ask, if it was compiled with a demonstration that says so.
    "guarded": """
def before(program, ticket):
    if any("boom" in demo["ticket"] for demo in program.classify.demos) and "charged again" in ticket:
        raise RuntimeError("this version errs in production")
""",
    # Fails for what callers ask.
    "erring": """
def before(program, ticket):
    if "charged again" in ticket:
        raise RuntimeError("this version errs in production")
""",
    # Works for a while, until the process is restarted.
    "wearing": """
ASKED = []

def before(program, ticket):
    ASKED.append(ticket)
    if len(ASKED) > 400:
        raise RuntimeError("this process is worn out")
""",
    # Hangs for what callers ask, and everything else on its event loop with it.
    "hanging": """
import time

def before(program, ticket):
    if "never mind" in ticket:
        time.sleep(3600)
""",
    "other": """
def before(program, ticket):
    pass
""",
}
RICHER = """
import dspy


class Rich(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()
    urgency: str = dspy.OutputField()


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Rich)

    def forward(self, ticket):
        return self.classify(ticket=ticket)

    async def aforward(self, ticket):
        return await self.classify.acall(ticket=ticket)
"""
TOOLED = """
import dspy

from despina_runtime import execute_tool, tool


class Asked(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Program(dspy.Module):
    signature = Asked

    def forward(self, ticket):
        return dspy.Prediction(category=execute_tool("find", query=ticket, top_k=1)[0]["text"])
"""
AWAITING = """
    async def aforward(self, ticket):
        found = await tool("find").acall(query=ticket, top_k=1)
        return dspy.Prediction(category=found[0]["text"])
"""
REACTING = """

class Program(dspy.Module):
    signature = Asked

    def __init__(self):
        super().__init__()
        self.react = dspy.ReAct(Asked, tools=[tool("find")])

    def forward(self, ticket):
        return self.react(ticket=ticket)
"""
LINGERING = """
import time
from pathlib import Path

import dspy


class Asked(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Program(dspy.Module):
    signature = Asked

    def forward(self, ticket):
        while ticket.startswith("/") and Path(ticket).exists():
            time.sleep(0.05)
        return dspy.Prediction(category="gone")
"""
COUNTED = """
import weakref

import dspy


class Counted(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Program(dspy.Module):
    signature = Counted
    alive = weakref.WeakSet()

    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Counted)
        self.alive.add(self)

    async def aforward(self, ticket):
        return dspy.Prediction(category=str(len(self.alive)))

    def forward(self, ticket):
        return dspy.Prediction(category=str(len(self.alive)))
"""
RETRIEVING = """
import dspy

from despina_runtime import execute_tool


class Answer(dspy.Signature):
    ticket: str = dspy.InputField()
    passages: list[str] = dspy.InputField()
    category: str = dspy.OutputField()


class Retrieve(dspy.Module):
    async def aforward(self, ticket):
        return [one["text"] for one in await execute_tool("find", query=ticket, top_k=2)]


class Program(dspy.Module):
    signature = Answer.delete("passages")

    def __init__(self):
        super().__init__()
        self.retrieve, self.classify = Retrieve(), dspy.Predict(Answer)

    async def aforward(self, ticket):
        return await self.classify.acall(ticket=ticket, passages=await self.retrieve.acall(ticket=ticket))
"""
BOOKING = TOOLED.replace(
    'execute_tool("find", query=ticket, top_k=1)[0]["text"]', 'str(execute_tool("book", order=ticket))'
)
BOOKING_BETWEEN = """
from typing import Literal

import dspy

from despina_runtime import execute_tool


class Asked(dspy.Signature):
    ticket: str = dspy.InputField()
    category: Literal["billing", "bug"] = dspy.OutputField()


class Program(dspy.Module):
    signature = Asked

    def __init__(self):
        super().__init__()
        self.read = dspy.Predict("ticket -> order: str")
        self.sort = dspy.Predict(Asked)

    async def aforward(self, ticket):
        await self.read.acall(ticket=ticket)
        await execute_tool("book", order=ticket)
        return await self.sort.acall(ticket=ticket)
"""
WAYS = (Path(__file__).parent / "ways.py").read_text()
PARALLEL = TOOLED.replace(
    'execute_tool("find", query=ticket, top_k=1)[0]["text"]',
    'dspy.Parallel()([(lambda q: execute_tool("find", query=q, top_k=1), {"q": ticket})])[0][0]["text"]',
)
MEDDLING = """
import json

import dspy

from despina_runtime import execute_tool


class Asked(dspy.Signature):
    question: str = dspy.InputField()
    secret: str = dspy.InputField()
    seen: str = dspy.OutputField()


class Program(dspy.Module):
    signature = Asked

    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question, secret):
        messages = [{"role": "user", "content": question}]
        outputs = await dspy.settings.lm.acall(messages=messages)
        found = await execute_tool("find", query=question, top_k=1)
        prediction = await self.predict.acall(question=question)
        seen = json.dumps([messages, outputs, found, prediction.toDict()])
        messages[0]["content"] += secret
        messages.append(secret)
        outputs.append(secret)
        found[0]["text"] += secret
        found.append(secret)
        prediction.answer += secret
        return dspy.Prediction(seen=seen + secret)
"""
BOUNDED = """
import dspy


class Sure(dspy.Signature):
    question: str = dspy.InputField()
    answer: str = dspy.OutputField(max_length=3)


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict(Sure)

    def forward(self, question):
        return self.answer(question=question)

    async def aforward(self, question):
        return await self.answer.acall(question=question)
"""


def main(kind: str, name: str, alias: str = "") -> None:
    sys.path.insert(0, str(EXAMPLE))
    client = mlflow.MlflowClient()
    special = {
        "pickled": log_pickled,
        "bounded": functools.partial(log_source, BOUNDED),
        "richer": functools.partial(log_source, RICHER),
        "boom": functools.partial(log, "guarded", boom=True),
        "hanging-too": functools.partial(log, "hanging", boom=True),
        "counted": functools.partial(log_source, COUNTED),
        "tooled": functools.partial(log_source, TOOLED + AWAITING),
        "tooled-in-threads": functools.partial(log_source, TOOLED),
        "reacting": functools.partial(log_source, TOOLED + REACTING),
        "retrieving": functools.partial(log_source, RETRIEVING),
        "booking": functools.partial(log_source, BOOKING),
        "booking-between": functools.partial(log_source, BOOKING_BETWEEN),
        "lingering": functools.partial(log_source, LINGERING),
        "meddling": functools.partial(log_source, MEDDLING),
        "lying": functools.partial(log_source, (Path(__file__).parent / "liar.py").read_text()),
        "ways": functools.partial(log_source, WAYS),
        "awaiting": functools.partial(log_source, WAYS, program="Awaiting"),
        "pooling": functools.partial(log_source, WAYS, program="Pooling"),
        "waiting": functools.partial(log_source, WAYS, program="Waiting"),
        "stalling": functools.partial(log_source, WAYS, program="Stalling"),
        "keeping": functools.partial(log_source, WAYS, program="Keeping"),
        "scoring": functools.partial(log_source, WAYS, program="Scoring"),
        "tooled-in-dspys-threads": functools.partial(log_source, PARALLEL),
    }
    version = special.get(kind, functools.partial(log, kind))(name)
    if kind == "gone":
        delete_artifact(client, name, version)
    if alias:
        client.set_registered_model_alias(name, alias, str(version))
    print(version)


def log(kind: str, name: str, boom: bool = False) -> int:
    import triage

    import release

    program = triage.TicketTriage()
    if kind == "compiled":
        optimizer = dspy.LabeledFewShot(k=40)
        program = optimizer.compile(program, trainset=release.tickets("train"))
    if boom:
        program.classify.demos = [dspy.Example(ticket="boom", category="bug").with_inputs("ticket")]
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "triage.py"
        source = (EXAMPLE / "triage.py").read_text()
        if kind in QUIRKS:
            source = QUIRKS[kind] + source.replace("        return ", "        before(self, ticket)\n        return ")
        if kind == "sync":
            source = source.partition("    async def aforward")[0]
        if kind in BROKEN:
            source += "\n\nimport os\nimport sys\n\nif {}:\n    {}\n".format(*BROKEN[kind])
        code.write_text(source)
        return log_program(program, name, entrypoint="triage:TicketTriage", code_paths=[code])


def log_source(source: str, name: str, program: str = "Program") -> int:
    """A program of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "own.py").write_text(source)
        sys.path.insert(0, folder)
        import own

        made = getattr(own, program)()
        return log_program(made, name, entrypoint=f"own:{program}", code_paths=[f"{folder}/own.py"])


def log_pickled(name: str) -> int:
    import triage

    info = mlflow.dspy.log_model(
        triage.TicketTriage(), name=name, registered_model_name=name, pip_requirements=["dspy"],
        code_paths=[str(EXAMPLE / "triage.py")],
    )  # fmt: skip
    return int(info.registered_model_version)


def delete_artifact(client: mlflow.MlflowClient, name: str, version: int) -> None:
    """Take the files away behind the registry's back."""
    model = client.get_model_version(name, str(version)).source.rpartition("/")[2]
    (folder,) = Path(os.environ["DESPINA_TEST_MLFLOW_DATA"]).glob(f"artifacts/**/{model}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

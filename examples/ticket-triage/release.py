"""Releases of ticket-triage: `python release.py uncompiled`, `python release.py compiled`, `python release.py 1`.

The first two log a version and move the alias `champion` to it, the last moves it to a version that there is.
MLFLOW_TRACKING_URI names the server; the LM that the optimiser asks is LM (such as openai/gpt-4o-mini) with
LM_BASE_URL and LM_API_KEY.
"""

import json
import os
import sys
from pathlib import Path

import dspy
from mlflow import MlflowClient
from triage import TicketTriage

from despina_runtime import log_program

HERE = Path(__file__).parent
NAME, ALIAS = "ticket-triage", "champion"


def tickets(split: str) -> list[dspy.Example]:
    """The labelled tickets of one split, `train` or `heldout`."""
    rows = map(json.loads, (HERE / "tickets.jsonl").read_text().splitlines())
    return [
        dspy.Example(ticket=r["ticket"], category=r["category"]).with_inputs("ticket")
        for r in rows
        if r["split"] == split
    ]


def is_right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """The program's own measure."""
    return example.category == prediction.category


def compiled() -> TicketTriage:
    """The program with demonstrations that the optimiser chose from the training tickets."""
    lm = dspy.LM(
        os.environ.get("LM", "openai/stand-in"),
        api_base=os.environ.get("LM_BASE_URL"),
        api_key=os.environ.get("LM_API_KEY", "none"),
        temperature=0,
        cache=False,
    )
    optimizer = dspy.BootstrapFewShot(metric=is_right, max_bootstrapped_demos=8, max_labeled_demos=40)
    with dspy.context(lm=lm):
        return optimizer.compile(TicketTriage(), trainset=tickets("train"))


def main(kind: str) -> int:
    """Log one version and move the alias, or only move it."""
    if kind.isdecimal():
        MlflowClient().set_registered_model_alias(NAME, ALIAS, kind)
        return int(kind)
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    program = compiled() if kind == "compiled" else TicketTriage()
    example = {"ticket": "I was charged twice"}
    version = log_program(program, NAME, entrypoint="triage:TicketTriage", input_example=example, alias=ALIAS)
    print(version)
    return version


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["uncompiled"])

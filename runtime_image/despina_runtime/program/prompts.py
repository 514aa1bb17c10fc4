"""What a program's prompts are made of, predictor by predictor, as it was compiled: instructions, demonstrations, LMs.

Only people are shown it, who may see what callers wrote: an optimiser makes all of it from their words. It is bounded,
and whatever a program's own types do when they are read, the program can be served all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import dspy
from pydantic_core import to_json

from despina.wire import LONGEST_DEMO, LONGEST_PROMPTS, MOST_DEMOS, MOST_PROMPTS, Prompt, Prompts, RuntimeConfig
from despina_runtime.paths import is_in

log = logging.getLogger(__name__)


def prompts_of(program: dspy.Module, config: RuntimeConfig) -> Prompts:
    """Those of all predictors; nothing where they cannot be read."""
    try:
        named, found, left = program.named_predictors()[:MOST_PROMPTS], list[Prompt](), LONGEST_PROMPTS
        for name, predictor in named:
            found.append(_prompt(name, predictor, config, left))
            left -= sum(map(len, found[-1].demos))
        return Prompts(modules=tuple(found))
    except Exception as exc:  # its types and their methods are anybody's
        log.warning("The program's prompts cannot be told error=%s", type(exc).__name__)
        return Prompts()


def _prompt(name: str, predictor: Any, config: RuntimeConfig, left: int) -> Prompt:
    demos = list(predictor.demos)
    most = min(MOST_DEMOS, max(0, left) // LONGEST_DEMO)
    return Prompt(
        path=name.removeprefix("self").lstrip("."),
        lm=_lm_of(name, config),
        instructions=str(predictor.signature.instructions),
        demos=tuple(_demo(one) for one in demos[:most]),
        demo_count=len(demos),
    )


def _lm_of(name: str, config: RuntimeConfig) -> str:
    pinned: Iterable[str] = (str(module.lm) for module in config.modules if module.lm and is_in(name, module.path))
    return [config.lm or "", *pinned][-1]  # the last one that is pinned counts, as `LMs` has it


def _demo(one: Any) -> str:
    written = to_json(dict(one), fallback=str, inf_nan_mode="null", serialize_unknown=True)
    return written.decode(errors="replace")[:LONGEST_DEMO]

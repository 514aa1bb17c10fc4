"""Running one of DSPy's optimisers, or one of the model's code, and keeping the best that it found.

No optimiser hands over what it has when it is stopped. So every program that one of them evaluates on all validation
rows is noted with its score, and what it gives in the end is evaluated if it was not. It sees the predictors that it
may change and no others (`freezing.py`).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.evaluate import Evaluate
from dspy.utils.callback import BaseCallback

from despina_runtime.cache.keys import canonical
from despina_runtime.optimization.budget import Exhausted
from despina_runtime.optimization.freezing import check_program, narrowed, widened
from despina_runtime.program.artifact import state_of

log = logging.getLogger(__name__)
Metric = Callable[..., Any]
Rows = Sequence[dspy.Example]
Tell = Callable[["Best"], None]
OURS = {"student", "trainset", "valset", "metric", "teacher", "seed", "num_threads"}
"""What an optimiser is given here, and no manifest says."""
CANDIDATE_PROGRAMS = 8
LONGEST_REASON = 300


class UnknownOptimizer(ValueError):
    """There is no such optimiser, or none with such parameters."""


@dataclass(frozen=True)
class Best:
    """The best program so far."""

    state: dict[str, Any]
    """Of the whole program."""
    score: float | None
    """Its mean on the validation rows, from 0 to 1; None where the budget ended before that was known."""


@dataclass(frozen=True)
class Run:
    """What an optimiser is given."""

    program: dspy.Module
    names: Sequence[str]
    """The predictors that may change."""
    trainset: Rows
    valset: Rows
    metric: Metric
    seed: int
    threads: int


class Keeper(BaseCallback):  # type: ignore[misc]
    """Notes the score of each program that is evaluated on all validation rows."""

    def __init__(self, run: Run, tell: Tell) -> None:
        self._run, self._tell = run, tell
        self._whole = state_of(run.program)
        self._under_way: dict[str, dict[str, Any]] = {}
        self._scores: dict[bytes, float] = {}
        self.best: Best | None = None

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An optimiser may change a program afterwards: its state counts as it is now."""
        rows = inputs["devset"] if inputs["devset"] is not None else instance.devset
        # MIPROv2 says so of the rows that it drew once for all its full evaluations.
        is_full = (inputs["callback_metadata"] or {}).get("metric_key") == "eval_full"
        if is_full or len(rows) >= len(self._run.valset):
            self._under_way[call_id] = self.whole(inputs["program"])

    def on_evaluate_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        """One that broke off says nothing."""
        state = self._under_way.pop(call_id, None)
        if state is not None and outputs is not None:
            self.note(state, outputs.score / 100)

    def whole(self, program: dspy.Module) -> dict[str, Any]:
        """A program's state with that of all which it does not name."""
        own = state_of(program)
        return own if "signature" in own and "demos" in own else {**self._whole, **own}

    def note(self, state: dict[str, Any], score: float | None) -> None:
        """One program's score; of equal ones the first stays."""
        if score is not None:
            self._scores[canonical(state)] = score
        before = self.best.score if self.best else None
        if self.best is None or (score is not None and (before is None or score > before)):
            self.best = Best(state, score)
            self._tell(self.best)

    def knows(self, state: dict[str, Any]) -> bool:
        """Whether its score is known."""
        return canonical(state) in self._scores


def optimize(run: Run, name: str, params: Mapping[str, Any], tell: Tell) -> str:
    """Run an optimiser to its end, and tell each best program as soon as it is known; why it ended early, if it did.

    Raises:
        UnknownOptimizer: before any call.
    """
    keeper = Keeper(run, tell)
    compile_ = optimizer(run, name, params)
    try:
        with dspy.context(callbacks=[*dspy.settings.callbacks, keeper]):
            found = widened(compile_(narrowed(run.program, run.names)), run.program)
            check_program(run.program, found, run.names)
            if not keeper.knows(state := state_of(found)):
                _validate(run, found, keeper, state)
    except Exhausted as exc:
        return f"the budget ended: {exc}"
    except (Exception, SystemExit) as exc:
        log.exception("The optimiser failed name=%s", name)
        return f"{name} failed: {type(exc).__name__}: {exc}"[:LONGEST_REASON]
    return ""


def _validate(run: Run, found: dspy.Module, keeper: Keeper, state: dict[str, Any]) -> None:
    """Evaluate what an optimiser gave and has not evaluated itself."""
    if keeper.best is None:
        keeper.note(state, None)  # it is all there is, if the budget ends now
    Evaluate(devset=list(run.valset), metric=run.metric, num_threads=run.threads)(found)


def optimizer(run: Run, name: str, params: Mapping[str, Any]) -> Callable[[dspy.Module], Any]:
    """What compiles a student; raises UnknownOptimizer."""
    if ":" in name:
        function = named(name)
        return lambda student: function(student, list(run.trainset), list(run.valset), run.metric, **params)
    if name not in MADE:
        raise UnknownOptimizer(f"there is no optimiser {name}; there are {', '.join(MADE)} and package.module:function")
    return MADE[name](run, params)


def named(name: str) -> Callable[..., Any]:
    """`package.module:function` of the model's code; raises UnknownOptimizer."""
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise UnknownOptimizer(f"{name}: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise UnknownOptimizer(f"{name} is not a function")
    return found


def _shuffled(run: Run) -> list[dspy.Example]:
    """The seed of those optimisers that have none: the order of their rows."""
    rows = list(run.trainset)
    random.Random(run.seed).shuffle(rows)  # noqa: S311 - it shall be the same each time
    return rows


def _labeled(run: Run, params: Mapping[str, Any]) -> Callable[[dspy.Module], Any]:
    if inner := [name for name in run.names if is_inner(run, name)]:
        raise UnknownOptimizer(
            f"LabeledFewShot gives rows as demonstrations, and rows have not what {', '.join(inner)} takes and gives:"
            " use BootstrapFewShotWithRandomSearch"
        )
    own, at_compile = _split(dspy.LabeledFewShot, params)
    return lambda student: dspy.LabeledFewShot(**own).compile(student, trainset=_shuffled(run), **at_compile)


def _bootstrap(run: Run, params: Mapping[str, Any]) -> Callable[[dspy.Module], Any]:
    own, at_compile = _split(dspy.BootstrapFewShot, {**_lengths(run), **params})
    return lambda student: dspy.BootstrapFewShot(metric=run.metric, **own).compile(
        student, trainset=_shuffled(run), **at_compile
    )


def _random_search(run: Run, params: Mapping[str, Any]) -> Callable[[dspy.Module], Any]:
    defaults = {"num_candidate_programs": CANDIDATE_PROGRAMS, **_lengths(run)}
    own, at_compile = _split(dspy.BootstrapFewShotWithRandomSearch, {**defaults, **params})
    return lambda student: dspy.BootstrapFewShotWithRandomSearch(
        metric=run.metric, num_threads=run.threads, **own
    ).compile(student, trainset=_shuffled(run), valset=list(run.valset), **at_compile)


def _mipro(run: Run, params: Mapping[str, Any]) -> Callable[[dspy.Module], Any]:
    own, at_compile = _split(dspy.MIPROv2, {**_lengths(run), **params})
    return lambda student: dspy.MIPROv2(metric=run.metric, num_threads=run.threads, seed=run.seed, **own).compile(
        student, trainset=list(run.trainset), valset=list(run.valset), **at_compile
    )


MADE = {
    "BootstrapFewShotWithRandomSearch": _random_search,
    "BootstrapFewShot": _bootstrap,
    "LabeledFewShot": _labeled,
    "MIPROv2": _mipro,
}


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raise UnknownOptimizer for a parameter that an optimiser of DSPy's does not have; a function of the model's is
    anybody's."""
    if name in MADE:
        _split(getattr(dspy, name), params)


def _split(kind: Any, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of an optimiser and of its `compile`; raises UnknownOptimizer."""
    at_compile, own = (set(inspect.signature(f).parameters) - OURS - {"self"} for f in (kind.compile, kind.__init__))
    if unknown := params.keys() - own - at_compile:
        known = ", ".join(sorted(own | at_compile))
        raise UnknownOptimizer(f"{kind.__name__} has no parameter {', '.join(sorted(unknown))}; it has {known}")
    return (
        {name: value for name, value in params.items() if name in own},
        {name: value for name, value in params.items() if name not in own},
    )


def _lengths(run: Run) -> dict[str, Any]:
    """No rows as they are among an inner module's demonstrations: they lack its own outputs."""
    return {"max_labeled_demos": 0} if any(is_inner(run, name) for name in run.names) else {}


def is_inner(run: Run, name: str) -> bool:
    """Whether rows lack an input of a predictor, or all of its outputs: it stands within the program."""
    signature = dict(run.program.named_predictors())[name].signature
    fields = {field for row in run.trainset[:1] for field in row.keys()}  # noqa: SIM118 - no dict
    return bool(signature.input_fields.keys() - fields) or not signature.output_fields.keys() & fields

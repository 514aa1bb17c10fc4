"""`despina-runtime optimize`: a better version of a program, from labelled predictions, within a budget.

Three processes run the model's code, one after the other: the version that serves answers the held-out and golden
rows, an optimiser searches with the rows to learn from, and the candidate answers the same rows as the first. None of
them sees what is expected on held-out and golden rows, says its own score, or makes a call of an LM that was not paid
from the account here. How far it is can be read on the admin port; the result is the container's termination message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from despina.wire import OPTIMIZATION_ENV, TERMINATED, OptimizationConfig, OptimizationResult
from despina_runtime.evaluation.apart import keep_apart
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.evaluation.job import serve_progress
from despina_runtime.optimization.account import account
from despina_runtime.optimization.asked import check_asked
from despina_runtime.optimization.budget import Insufficient
from despina_runtime.optimization.plan import Plan, read_plan
from despina_runtime.optimization.registry import Earlier, Registry
from despina_runtime.optimization.scoring import WORKING
from despina_runtime.optimization.states import NotThatProgram, UnknownModule
from despina_runtime.optimization.work import LONGEST_TEXT, Work, progress
from despina_runtime.program.fetch import fetch
from despina_runtime.program.manifest import MANIFEST, read_manifest
from despina_runtime.program.unservable import ProgramError
from despina_runtime.surroundings import leave_word, on_signals, prepare_environment
from despina_runtime.tracking import Lacking

log = logging.getLogger(__name__)
REFUSED = (Unusable, Insufficient, UnknownModule, NotThatProgram, ProgramError, Lacking)
"""What ends an optimisation with its own words."""


class Optimization:
    """One Job's work."""

    def __init__(self, config: OptimizationConfig, cache: Path, command: Sequence[str] = WORKING) -> None:
        self._config, self._cache, self._command = config, cache, command
        self._work: Work | None = None
        self.stop = asyncio.Event()
        """Set, it ends at once, and what was found by then is kept."""

    @property
    def progress(self) -> str:
        """How far it is."""
        return self._work.progress if self._work else progress(0, self._config.budget.max_lm_calls, None)

    async def run(self) -> OptimizationResult:
        """The result; what went wrong is one, too. Its texts are as long as a termination message can take."""
        try:
            result = await self._run()
        except REFUSED as exc:
            result = OptimizationResult(error=str(exc)[:LONGEST_TEXT])
        except Exception as exc:
            log.exception("The optimisation failed")
            text = f"the optimisation itself failed: {type(exc).__name__}; see the Job's log"
            result = OptimizationResult(error=text)
        result = result.model_copy(update={"message": result.message[:LONGEST_TEXT]})
        if self.stop.is_set() and result.candidate_version is None:  # what it would have found, nobody knows
            result = result.model_copy(update={"reason": None})
        if self._work is None:
            return result
        spent = self._work.budget.spent
        return result.model_copy(update={"lm_calls": spent.calls, "cost_usd": float(spent.usd)})

    async def _run(self) -> OptimizationResult:
        plan = await asyncio.to_thread(read_plan, self._config)
        if plan.lack:
            return OptimizationResult(reason="TooFewExamples", message=plan.lack, dataset_digest=plan.dataset.digest)
        registry = Registry(self._config.base.model, self._config.base.mlflow_credentials_dir)
        earlier = await asyncio.to_thread(registry.find, plan.settings)
        if earlier and (earlier.is_judged or earlier.is_taken_back):
            return await asyncio.to_thread(_already_done, plan, registry, earlier)
        parent = await asyncio.to_thread(self._fetch)
        self._work = Work(plan, parent, registry, self._cache, self._command, self.stop)
        async with account(self._work.budget) as address:
            return await self._work.run(address, earlier.version if earlier else None)

    def _fetch(self) -> Path:
        """The parent's artefact, which has all that is asked of it; raises ProgramError, Unusable and UnknownModule."""
        base = self._config.base
        folder = fetch(base.model, self._cache, secret=base.mlflow_credentials_dir)
        if not (folder / MANIFEST).exists():
            raise Unusable("only models that were logged with despina_runtime.log_program can be optimised")
        check_asked(self._config, read_manifest(folder), folder)
        return folder


def _already_done(plan: Plan, registry: Registry, earlier: Earlier) -> OptimizationResult:
    """What a run with the same data and settings has found, also where its own last words were lost."""
    text = f"version {earlier.version} came of the same data and settings"
    text += ", and callers had to be sent away from it" if earlier.is_taken_back else ""
    found = OptimizationResult(reason="AlreadyDone", message=text, candidate_version=earlier.version)
    if earlier.found and not earlier.is_taken_back:
        words = f"found before, of the same data and settings: {earlier.found.message}"
        found = earlier.found.model_copy(update={"message": words})
        registry.tag(earlier.version, {}, is_better=found.reason == "Better")
    return found.model_copy(update={"dataset_digest": plan.dataset.digest})


async def optimize(config: OptimizationConfig, cache: Path) -> OptimizationResult:
    """Run one optimisation until its end, or until SIGTERM."""
    prepare_environment()
    keep_apart()
    optimization = Optimization(config, cache)
    on_signals(optimization.stop)
    return await optimization.run()


async def optimize_job(cache: Path, host: str, port: int) -> int:
    """The same as a Job; exit code 0 also where nothing better was found."""
    prepare_environment()
    keep_apart()
    optimization = Optimization(OptimizationConfig.model_validate_json(os.environ.pop(OPTIMIZATION_ENV)), cache)
    on_signals(optimization.stop)
    serving = asyncio.create_task(serve_progress(lambda: optimization.progress, host, port))
    try:
        result = await optimization.run()
    finally:
        serving.cancel()
    log.info("Optimised %s", result.model_dump_json(exclude_none=True))
    leave_word(result.model_dump_json())
    if optimization.stop.is_set():
        return TERMINATED
    return 1 if result.error else 0


def tell(result: OptimizationResult) -> int:
    """Print a result for people; the exit code."""
    if result.error:
        sys.stderr.write(f"despina-runtime: {result.error}\n")
        return 1
    version = f" version {result.candidate_version}" if result.candidate_version else ""
    sys.stdout.write(f"{result.reason}{version}: {result.message}\n")
    sys.stdout.write(f"dataset {result.dataset_digest[:8]}, {result.lm_calls} LM calls, {result.cost_usd:.4f} USD\n")
    return 0

"""`despina-runtime evaluate`: an Evaluate gate's Job. It scores a candidate, and the serving version beside it.

Each version runs in processes of its own, for code of two versions never meets in one, and neither is trusted with its
own score (`score.py`). How far it is can be read on the admin port; the result is the container's termination message.
The scores example by example are a run of MLflow (`run.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from despina.wire import EVALUATION_ENV, PROGRESS_PATH, TERMINATED, EvaluationConfig, EvaluationResult
from despina_runtime.evaluation.apart import keep_apart
from despina_runtime.evaluation.examples import Line, Unusable, load_lines
from despina_runtime.evaluation.judgement import Judgement, judge
from despina_runtime.evaluation.run import Run, log_run, run_of
from despina_runtime.evaluation.score import Scored, score
from despina_runtime.evaluation.subject import ANSWERING
from despina_runtime.http.server import make_server, open_port
from despina_runtime.surroundings import leave_word, on_signals, prepare_environment

log = logging.getLogger(__name__)
T = TypeVar("T")
LONGEST_ERROR = 600
"""As JSON it must fit into a termination message, whatever its characters."""


SEED = 0
"""Of what a judgement draws: the same scores are judged alike, whoever's Job finds them."""
Log = Callable[[Run], Awaitable[str | None]]
"""Makes a run of MLflow; gives its id, if there is one then."""


@dataclass(frozen=True)
class Found:
    """The scores of both versions."""

    candidate: Scored
    baseline: Scored | None = None
    judgement: Judgement | None = None

    def result(self, run: str | None) -> EvaluationResult:
        """What the operator is told."""
        sides = [side for side in (self.candidate, self.baseline) if side]
        found = EvaluationResult(
            score_percent=self.candidate.percent,
            baseline_percent=self.baseline.percent if self.baseline else None,
            examples=len(self.candidate.rows),
            failed=self.candidate.failed,
            cost_usd=float(sum(side.cost for side in sides)),
            run=run,
        )
        if self.judgement is None:
            return found
        low, high = self.judgement.interval
        gain = {"gain_low_percent": 100 * low, "gain_high_percent": 100 * high, "p": self.judgement.p}
        return found.model_copy(update=gain)


class Evaluation:
    """One Job's work."""

    def __init__(
        self, config: EvaluationConfig, cache: Path, command: Sequence[str] = ANSWERING, log_run: Log = log_run
    ) -> None:
        self._config, self._cache, self._command, self._log_run = config, cache, command, log_run
        self.progress = "starting"

    async def run(self) -> EvaluationResult:
        """Score both; the first error ends it."""
        try:
            return await self._run()
        except Unusable as exc:
            return EvaluationResult(error=str(exc)[:LONGEST_ERROR])
        except Exception as exc:
            log.exception("The evaluation failed")
            return EvaluationResult(error=f"the evaluation itself failed: {type(exc).__name__}; see the Job's log")

    async def _run(self) -> EvaluationResult:
        config = self._config.candidate
        server, secret = config.model.tracking_uri, config.mlflow_credentials_dir
        lines = await asyncio.to_thread(load_lines, self._config.dataset, server, secret)
        found = await self._found(lines)
        self.progress = "both versions are scored" if found.baseline else "the candidate is scored"
        run = run_of(self._config, found.candidate, found.baseline, found.judgement)
        return found.result(await self._log_run(run))

    async def _found(self, lines: Sequence[Line]) -> Found:
        """The serving version comes first: nothing of the candidate's is there yet that could spoil its score."""
        config = self._config
        if config.baseline is None:
            return Found(await self._score("candidate", lines, config))
        try:
            baseline = await self._score("baseline", lines, config)
        except Unusable as exc:
            raise Unusable(f"the serving version could not be scored: {exc}") from exc
        if config.budget_usd:
            left = Decimal(config.budget_usd) - baseline.cost
            config = config.model_copy(update={"budget_usd": format(left, "f")})
        candidate = await self._score("candidate", lines, config)
        judgement = await asyncio.to_thread(judge, baseline.scores, candidate.scores, SEED)
        return Found(candidate, baseline, judgement)

    async def _score(self, which: str, lines: Sequence[Line], config: EvaluationConfig) -> Scored:
        def tell(words: str) -> None:
            self.progress = f"{which}: {words}"

        return await score(config, which, lines, self._cache, tell, self._command)


async def evaluate(cache: Path, host: str, port: int, command: Sequence[str] = ANSWERING) -> int:
    """Run one evaluation; exit code 0 also when the score is bad, for that is the operator's to judge.

    It believes no score that comes with another code.
    """
    prepare_environment()
    keep_apart()
    stop = asyncio.Event()
    on_signals(stop)
    evaluation = Evaluation(EvaluationConfig.model_validate_json(os.environ.pop(EVALUATION_ENV)), cache, command)
    serving = asyncio.create_task(serve_progress(lambda: evaluation.progress, host, port))
    try:
        result = await unless(stop, evaluation.run())
    finally:
        serving.cancel()
    if result is None:
        return TERMINATED
    log.info("Evaluated %s", result.model_dump_json(exclude_none=True))
    leave_word(result.model_dump_json())
    return 1 if result.error else 0


async def serve_progress(progress: Callable[[], str], host: str, port: int) -> None:
    """Tell on the admin port how far the Job is."""

    async def tell(_: Request) -> PlainTextResponse:
        return PlainTextResponse(progress())

    app = Starlette(routes=[Route(PROGRESS_PATH, tell)])
    await make_server(app, 1).serve(sockets=[open_port(host, port)])


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives, or None when the process is told to end: a pod that leaves its node says nothing."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait([working])
    return None

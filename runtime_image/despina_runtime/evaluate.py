"""`despina-runtime evaluate`: an Evaluate gate's Job. It scores a candidate, and the serving version beside it.

Each version is scored in a process of its own (`score.py`), for code of two versions never meets in one. How far it is
can be read on the admin port; the result is the container's termination message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from despina.wire import EVALUATION_ENV, PROGRESS_PATH, EvaluationConfig, EvaluationResult
from despina_runtime.server import make_server
from despina_runtime.supervisor import leave_word, open_port, prepare_environment

log = logging.getLogger(__name__)
LONGEST_LINE = 2**20


class Evaluation:
    """One Job's work."""

    def __init__(self, config: EvaluationConfig, cache: Path) -> None:
        self._config, self._cache = config, cache
        self.progress = "starting"

    async def run(self) -> EvaluationResult:
        """Score both; the first error ends it."""
        candidate = await self._score("candidate")
        if candidate.error or self._config.baseline is None:
            return candidate
        if budget := self._config.budget_usd:
            left = Decimal(budget) - Decimal(str(candidate.cost_usd))
            self._config = self._config.model_copy(update={"budget_usd": format(left, "f")})
        baseline = await self._score("baseline")
        if baseline.error:
            return baseline.model_copy(update={"error": f"the serving version could not be scored: {baseline.error}"})
        cost = candidate.cost_usd + baseline.cost_usd
        return candidate.model_copy(update={"baseline_percent": baseline.score_percent, "cost_usd": cost})

    async def _score(self, which: str) -> EvaluationResult:
        command = [sys.executable, "-m", "despina_runtime.score", which, str(self._cache)]
        env = {**os.environ, EVALUATION_ENV: self._config.model_dump_json()}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, limit=LONGEST_LINE, env=env)
        result = None
        while process.stdout and (line := await process.stdout.readline()):
            said = _read(line)
            if "done" in said:
                self.progress = f"{which}: {said['done']} of {said['of']} examples"
            if "result" in said:
                result = EvaluationResult.model_validate(said["result"])
        code = await process.wait()
        return result or EvaluationResult(error=f"scoring the {which} ended with code {code}; see the Job's log")


def _read(line: bytes) -> dict[str, Any]:
    """A line of ours; what a program prints is no concern of this one."""
    with contextlib.suppress(orjson.JSONDecodeError):
        said = orjson.loads(line)
        if isinstance(said, dict):
            return said
    return {}


async def evaluate(cache: Path, host: str, port: int) -> int:
    """Run one evaluation; exit code 0 also when the score is bad, for that is the operator's to judge."""
    prepare_environment()
    evaluation = Evaluation(EvaluationConfig.model_validate_json(os.environ[EVALUATION_ENV]), cache)

    async def tell(_: Request) -> PlainTextResponse:
        return PlainTextResponse(evaluation.progress)

    app = Starlette(routes=[Route(PROGRESS_PATH, tell)])
    serving = asyncio.create_task(make_server(app, 1).serve(sockets=[open_port(host, port)]))
    try:
        result = await evaluation.run()
    finally:
        serving.cancel()
    log.info("Evaluated %s", result.model_dump_json(exclude_none=True))
    leave_word(result.model_dump_json())
    return 1 if result.error else 0

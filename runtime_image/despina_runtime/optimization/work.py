"""One optimisation, once its data are known: the version that serves is scored, a better one is searched for and
registered, and both are compared.

The final scoring is set aside first, as large as the scoring of the version that serves turned out to be. A candidate
is registered before it is judged, so that whatever happens to this process costs no second search.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from despina.wire import OptimizationReason, OptimizationResult, RuntimeConfig
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.evaluation.job import unless
from despina_runtime.optimization.budget import Budget, check_sufficient
from despina_runtime.optimization.plan import Plan, hidden_by
from despina_runtime.optimization.registry import HELDOUT_ROWS, JUDGED, PARENT, SETTINGS, Registry, files_digest
from despina_runtime.optimization.scoring import Questions, Scores, score_version
from despina_runtime.optimization.search import Found, Search
from despina_runtime.optimization.states import by_predictor, chosen, readable_diff, without_hidden
from despina_runtime.optimization.task import Task, TaskRow
from despina_runtime.optimization.verdict import comparison, verdict
from despina_runtime.program.manifest import STATE

LONGEST_TEXT = 500
"""Characters. As JSON it fits into a termination message beside all else, whatever they are."""
SLOWER = 1.5
"""As many times as long as the version that serves a candidate may take: demonstrations make prompts longer."""


def progress(calls: int, most: int, score: float | None) -> str:
    """How far a run is, as `kubectl get` shows it."""
    return f"{calls}/{most}" + (f" {100 * score:.0f} %" if score is not None else "")


class Work:
    """Raises Insufficient and UnknownModule before any call."""

    def __init__(
        self, plan: Plan, parent: Path, registry: Registry, cache: Path, command: Sequence[str], stop: asyncio.Event
    ) -> None:
        self._plan, self._parent, self._registry, self._cache = plan, parent, registry, cache
        self._command, self._stop = command, stop
        self._config, self._base = plan.config, plan.config.base
        self._state = json.loads((parent / STATE).read_bytes())
        self._files = files_digest(parent)
        self._names = chosen(list(by_predictor(self._state)), self._config.modules)
        check_sufficient(plan.limits, plan.least_calls(len(by_predictor(self._state))), self._base.lms)
        self.budget = Budget(plan.limits)
        self._searching: Search | None = None

    @property
    def progress(self) -> str:
        """LM calls of those it may make, and the best score on the validation rows once there is one."""
        score = self._searching.found.score if self._searching else None
        return progress(self.budget.spent.calls, self._plan.limits.calls, score)

    async def run(self, address: Path, unjudged: str | None) -> OptimizationResult:
        """Search and judge; or judge a version that an earlier run has left unjudged."""
        base = await self._score(self._base, "base", address)
        if base is None:
            return self._result("Unjudged" if unjudged else "NothingFound", self._why(), unjudged)
        version = unjudged
        if version is None:
            await asyncio.to_thread(self._registry.mirror, self._base.program, self._plan.dataset)
            found = await self._search(address)
            if found.state is None:
                return self._result("NothingFound", found.ended, None)
            found.state = without_hidden(found.state, self._names, hidden_by(self._base.feedback))
            is_parent = canonical(found.state) == canonical(self._state)
            if not is_parent and (gone := await asyncio.to_thread(self._registry.taken_back, found.state)):
                words = f"the best program is that of version {gone}, and callers had to be sent away from it"
                return self._result("TakenBack", words, None)
            version = await asyncio.to_thread(self._register, found)
            if is_parent:
                return await self._conclude(self._result("Unchanged", "the best program is the parent", version))
        candidate = await self._score(self._version(version), "candidate", address)
        if candidate is None:
            return self._result("Unjudged", self._why(), version)
        return await self._conclude(await asyncio.to_thread(self._judge, base, candidate, version))

    def _why(self) -> str:
        return self.budget.refusal or "it was told to end"

    async def _score(self, runtime: RuntimeConfig, which: str, address: Path) -> Scores | None:
        """None where the budget or a signal ended it first; raises Unusable."""
        self.budget.begin()
        asked = Questions(self._plan.dataset.heldout, self._plan.golden, self._config.metric, self._config.tools)
        work = score_version(runtime, which, asked, self._cache, address, self._command)
        try:
            scores = await unless(self._stop, work)
        except Unusable:
            if self.budget.refusal:
                return None
            raise
        return None if self.budget.refusal else scores

    async def _search(self, address: Path) -> Found:
        """The best program within what is left when as much is set aside as the first scoring took."""
        spent = self.budget.spent
        aside = SLOWER * spent.seconds
        self.budget.begin(spent.calls, aside)
        task = self._task(max(0.0, self._plan.limits.seconds - spent.seconds - aside))
        self._searching = Search(task, self._state, self.budget, self._stop)
        return await self._searching.run(self._base, self._cache, address, self._command)

    def _task(self, seconds: float) -> Task:
        dataset, config = self._plan.dataset, self._config
        train, validation = (tuple(TaskRow(**vars(r)) for r in side) for side in (dataset.train, dataset.validation))
        return Task(
            names=self._names, optimizer=config.optimizer, metric=config.metric, seconds=seconds, tools=config.tools,
            train=train, validation=validation,
        )  # fmt: skip

    def _version(self, version: str) -> RuntimeConfig:
        """The parent's configuration, for another version of its model: another revision, too, for what is noted of a
        revision's files in the pod is about the parent's."""
        model = self._base.model.model_copy(update={"version": version, "created_at": None})
        return self._base.model_copy(update={"model": model, "revision": f"{self._base.revision}-{version}"})

    def _register(self, found: Found) -> str:
        """The candidate's version, unjudged."""
        dataset, optimizer, spent = self._plan.dataset, self._config.optimizer, self.budget.spent
        tags = {
            PARENT: self._base.model.version,
            SETTINGS: self._plan.settings,
            JUDGED: "no",
            HELDOUT_ROWS: self._plan.heldout_rows,
            "dataset": dataset.digest,
            "modules": ", ".join(self._names),
            "optimizer": optimizer.name,
            "seed": str(optimizer.seed),
            "validation": "" if found.score is None else f"{found.score:.4f}",
            "ended": found.ended[:LONGEST_TEXT],
            "lm-calls": str(spent.calls),
            "cost-usd": f"{spent.usd:f}",
        }
        files = {f"dataset/{name}": text for name, text in dataset.files().items()}
        diff = readable_diff(self._state, found.state or {}).encode()
        state, program = found.state or {}, self._base.program
        own = self._parent, self._files
        return self._registry.register(program, own, state, tags, {**files, "candidate.diff": diff})

    def _judge(self, base: Scores, candidate: Scores, version: str) -> OptimizationResult:
        if (len(base.heldout), len(base.golden)) != (len(candidate.heldout), len(candidate.golden)):
            raise Unusable("the two versions say that they take different rows")
        times = 1 + self._registry.times_used(self._plan.heldout_rows)
        seed = self._config.optimizer.seed
        reason, words, heldout, golden = verdict(base, candidate, self._config.promotion, times, seed)
        own = {"heldout": comparison(heldout), "golden": comparison(golden)}
        return self._result(reason, words, version).model_copy(update=own)

    async def _conclude(self, result: OptimizationResult) -> OptimizationResult:
        """Write down what was found; the alias is moved for nothing but a better version."""
        spent = self.budget.spent
        tags = {"reason": result.reason or "", "message": result.message, "lm-calls": str(spent.calls)}
        tags["cost-usd"] = f"{spent.usd:f}"
        for name, found in (("heldout", result.heldout), ("golden", result.golden)):
            if found:
                tags[name] = found.model_dump_json()
        tags[JUDGED] = "yes"
        await asyncio.to_thread(
            self._registry.tag, result.candidate_version or "", tags, is_better=result.reason == "Better"
        )
        return result

    def _result(self, reason: OptimizationReason, message: str, version: str | None) -> OptimizationResult:
        digest = self._plan.dataset.digest
        return OptimizationResult(reason=reason, message=message, candidate_version=version, dataset_digest=digest)

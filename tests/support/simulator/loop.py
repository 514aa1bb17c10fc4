"""Labels, optimisations, and what becomes of them: the part of the world that the loop is about, and its books.

Callers' labels lie in MLflow. A Job takes a few turns, and finds what the schedule says it finds: a version that is better,
nothing, or it is lost. What the operator asks of MLflow comes about at once, as `sources/marks.py` does it, or is lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from despina.api.program import Program
from despina.api.runs import OptimizationRun
from despina.decide.observed import LabelsView, Vote
from despina.decide.plan import MoveAlias, Tag
from despina.desired.labels import OPTIMIZE, RUN
from despina.wire import Comparison, OptimizationResult
from tests.support.simulator.api import Document
from tests.support.simulator.registry import SERVER

if TYPE_CHECKING:
    from tests.support.simulator.operator import Operator
    from tests.support.simulator.world import World

TURNS, DAY, SPENT = 3, 86400.0, 40
MARK = "-opt-"


def is_optimization(name: str) -> bool:
    """Whether a Job, or its pod, is an optimisation's."""
    return MARK in name


@dataclass
class Begun:
    """A run as the books have it."""

    uid: str
    asked: str | None
    most: int
    spent: int | None = None
    """What it is known to have spent."""
    ended: float | None = None


@dataclass
class Loop:
    """What there is, and the books."""

    world: World
    votes: list[Vote] = field(default_factory=list)
    finds: str = "3"
    """What the next run finds: a version, or how else it ends."""
    begun: dict[str, Begun] = field(default_factory=dict)
    proposed: dict[str, str] = field(default_factory=dict)
    """Versions that were found to be better, and their bases."""
    promoted: set[str] = field(default_factory=set)
    taken_back: set[str] = field(default_factory=set)
    is_deaf: bool = False
    """Whether what is asked of MLflow is lost."""
    can_forget: bool = False
    """Whether status and Jobs may have been lost at once: what was begun before is known to nobody then."""

    # the way of things

    def labelled(self, number: int, are_failures: bool) -> None:
        self.votes += [Vote(self.world.now - 1 / (1 + n), are_failures) for n in range(number)]
        self.world.wake()

    def turn(self, name: str, job: Document, pod: Document) -> None:
        """A run goes on."""
        self.world.evaluated[name] += 1
        if self.world.evaluated[name] < TURNS:
            return
        if self.finds == "Lost":
            self._end(name, pod, {"exitCode": 137}, "Failed", None)
            return
        result = self._result(json.loads(job["metadata"]["annotations"].get(RUN) or "{}").get("baseVersion", "1"))
        self._end(name, pod, {"exitCode": 0, "message": result.model_dump_json()}, "Complete", SPENT)

    def _result(self, base: str) -> OptimizationResult:
        if self.finds == "Failed":
            return OptimizationResult(error="the LM is down", lm_calls=SPENT)
        if not self.finds.isdecimal() or self.finds == base:
            return OptimizationResult(reason="NotBetter", message="chance", candidate_version="9", lm_calls=SPENT)
        self.proposed[self.finds] = base
        figures = Comparison(base=0.5, candidate=0.8, interval=(0.1, 0.5), p=0.001, rows=100)
        return OptimizationResult(
            reason="Better", candidate_version=self.finds, heldout=figures, golden=figures, lm_calls=SPENT
        )

    def _end(self, name: str, pod: Document, said: dict[str, Any], how: str, spent: int | None) -> None:
        states = [{"name": "program", "state": {"terminated": said}}]
        phase = "Succeeded" if how == "Complete" else "Failed"
        self.world.api.put({**pod, "status": {**pod["status"], "phase": phase, "containerStatuses": states}})
        status = {"conditions": [{"type": how, "status": "True"}], "endedAt": self.world.now}
        self.world.api.change("Job", name, status=status)
        self.ended(name, spent)

    def ended(self, name: str, spent: int | None = None) -> None:
        """A run is over, or gone."""
        found = self.begun.get(name)
        if found and found.ended is None:
            found.ended, found.spent = self.world.now, spent

    def deleted(self, name: str) -> None:
        """A Job is gone, whoever deleted it. Before the status tells of its run, nobody knows that there was one."""
        programs = self.world.api.of("DSPyProgram").values()
        told = next(((p.get("status") or {}).get("optimization") or {} for p in programs), {})
        known = {run.get("job") for run in (told.get("run") or {}, *(told.get("earlier") or ()))}
        if name in known:
            self.ended(name)
        else:
            self.begun.pop(name, None)

    # the books

    def began(self, job: Document, operator: Operator) -> None:
        """The operator made a Job."""
        name, uid, check = job["metadata"]["name"], job["metadata"]["uid"], self.world.truth.check
        before = self.begun.get(name)
        if before and before.uid == uid:  # it was changed
            return
        run = OptimizationRun.model_validate_json(job["metadata"]["annotations"][RUN])
        under_way = [n for n, b in self.begun.items() if b.ended is None and n in self.world.api.of("Job")]
        check(not under_way, f"{name} was begun while {under_way} is under way")
        check(before is None or self.can_forget, f"{name} was begun twice")
        if run.asked and not self.can_forget:
            known = [n for n, b in self.begun.items() if b.asked == run.asked]
            check(not known, f"{run.asked} began {name} after {known}")
        self._pays(name, run, operator)
        self.begun[name] = Begun(uid, run.asked, run.budget_lm_calls)

    def _pays(self, name: str, run: OptimizationRun, operator: Operator) -> None:
        """No run may begin that could overrun the day's budget."""
        program: Program | None = operator.observed.program if operator.observed else None
        if program is None or program.spec.optimization is None or self.can_forget:
            return
        recent = [b for b in self.begun.values() if b.ended is None or self.world.now - b.ended < DAY - 700]
        spent = sum(b.most if b.spent is None else b.spent for b in recent)
        most = program.spec.optimization.budget.a_day
        self.world.truth.check(
            spent + run.budget_lm_calls <= most, f"{name} may overrun the day's budget: {spent} of {most} are spent"
        )

    def rest(self) -> None:
        """What must hold once everything has come to rest."""
        world, program = self.world, self.world.program
        running = [name for name, job in world.api.of("Job").items() if is_optimization(name) and not job.get("status")]
        world.truth.check(not running, f"{running} run for ever")
        policy, word = program.spec.optimization, world.annotations.get(OPTIMIZE)
        if policy is None or not word:
            return
        status = world.status
        is_heard = (status.get("handled") or {}).get("optimize") == word
        why = (status.get("optimization") or {}).get("message")
        world.truth.check(is_heard or bool(why), f"optimize={word} did nothing, and nobody says why")

    def mark(self, operator: Operator, what: MoveAlias | Tag) -> None:
        """What the operator asks of MLflow."""
        if self.is_deaf:
            return
        if isinstance(what, Tag):
            self.taken_back.add(what.version)
            return
        aliases = self.world.mlflow.aliases
        check = self.world.truth.check
        is_known = self.proposed.get(what.version) == what.base
        check(is_known, f"the alias shall move to {what.version}, which nothing found to be better than {what.base}")
        program = operator.observed.program if operator.observed else None
        is_auto = program and program.spec.optimization and program.spec.optimization.promotion.mode == "Auto"
        check(bool(is_auto), f"the alias shall move to {what.version}, and the manifest does not let it")
        if what.version not in self.promoted and aliases[SERVER] == what.base:
            aliases[SERVER] = what.version
            self.promoted.add(what.version)
            self.world.truth.people_asked()


@dataclass
class Labels:
    """What a process knows of labels."""

    operator: Operator

    def look(self, *_: Any) -> LabelsView:
        return LabelsView(tuple(sorted(self.operator.world.loop.votes, key=lambda vote: vote.at)))

    def forget(self, _: Any) -> None:
        return


@dataclass
class Marks:
    """What a process asks of MLflow."""

    operator: Operator

    def do(self, _: Any, what: MoveAlias | Tag, *_more: Any) -> None:
        self.operator.world.loop.mark(self.operator, what)

    def trouble(self, _: Any) -> str:
        return ""

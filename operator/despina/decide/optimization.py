"""Optimisations: when one begins, what becomes of it, and what its result leads to.

Level-triggered like everything else. A run is its Job: what it was begun for stands on the Job, what it found in its
pod's last words, and the status keeps both when the Job is gone. The Job's name follows from base, labels and settings,
so that whatever is decided twice, or by two, is made once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from despina.api.optimization import Optimization
from despina.api.optimizing import optimization_config
from despina.api.revision import source_digest
from despina.api.runs import MOST_RUNS, LabelsStatus, OptimizationRun, OptimizationStatus
from despina.decide.plan import Action, Chain, Create, Emit, MoveAlias, Tag
from despina.decide.prepare import profile_of
from despina.decide.quarantine import TAKEN_BACK, parse_timestamp, timestamp
from despina.decide.runs import (
    DAY_SECONDS,
    LEFT_NOTHING,
    MAY_BE_REPEATED,
    begun_since,
    budget_spent,
    cooldown_left,
    known_runs,
    new_votes,
    newest,
    running,
    served_since,
    too_few,
    without_needless,
)
from despina.decide.situation import Situation
from despina.decide.triggers import asks, next_moment
from despina.decide.versions import ref_of
from despina.desired.optimization import build_optimization, golden_file, optimization_name
from despina.wire import RuntimeConfig

PROGRESS_SECONDS = 5.0
MOST_ATTEMPTS = 3
"""At one and the same run, where nobody asks for it: pods get lost, but one that always does so costs money."""


class Wish(NamedTuple):
    """Somebody asks for a run by hand."""

    word: str
    """By which it acts once: the annotation's value, or POD/LIFE/NUMBER."""
    module: str = ""
    """The one that shall change; those of the manifest without."""
    pod: str = ""
    """Who was asked; empty for the annotation."""


@dataclass(frozen=True)
class Optimizing:
    """What is to be done about optimisations."""

    status: OptimizationStatus | None = None
    actions: tuple[Action, ...] = ()
    again: float | None = None
    """Seconds until something else may be decided."""
    is_heard: bool = False
    """Whether the annotation that asks for a run has been acted on."""


def optimize(r: Situation, requests: Mapping[str, str], held_up: str) -> Optimizing:
    """The next step of a program's optimisations. `held_up` says why none may begin now, whoever asks."""
    policy, runs = r.o.program.spec.optimization, known_runs(r)
    if policy is None and not runs:
        return _unheard_of(requests)
    runs, ended = without_needless(r, policy, tuple(_taken_back(r, run) for run in runs))
    wish = _wish(r, requests, runs)
    is_free = not running(runs) and all(view.ended or view.result for view in r.o.optimizations)
    begin = Beginning(r, policy, runs, wish, held_up) if policy and is_free else None
    actions = [*ended, *(begin.actions if begin else ()), *_news(r, runs), *_consequences(r, policy, runs)]
    heard = _heard(r, runs, begin.void if begin else None)
    if begin and begin.void:
        actions.append(Emit("Normal", "NothingToOptimize", begin.message))
    return Optimizing(
        status=_status(r, policy, runs, begin, heard),
        actions=tuple(actions),
        again=_again(r, policy, runs, begin),
        is_heard=_is_heard(r, requests.get("optimize"), runs, begin),
    )


def _unheard_of(requests: Mapping[str, str]) -> Optimizing:
    if "optimize" not in requests:
        return Optimizing()
    message = "the manifest has no spec.optimization, which says what a run may spend"
    said = Emit("Warning", "NothingToOptimize", message)
    return Optimizing(actions=(said,), is_heard=True)


def _wish(r: Situation, requests: Mapping[str, str], runs: Sequence[OptimizationRun]) -> Wish | None:
    """What somebody asks for by hand and was not acted on yet, the annotation first."""
    done = {run.asked for run in runs}
    return next((wish for wish in _wishes(r, requests) if wish.word not in done), None)


def _wishes(r: Situation, requests: Mapping[str, str]) -> Iterator[Wish]:
    if "optimize" in requests:
        yield Wish(requests["optimize"])
    policy = r.o.program.spec.optimization
    if policy is None or policy.requests != "Enabled":
        return
    before = r.o.status.optimization
    heard = before.heard if before else {}
    for pod in r.o.pods:
        life, number = _last(heard.get(pod.name, ""))
        boot = pod.report.orders.boot if pod.report else ""
        for request in pod.report.optimize if pod.report else ():
            if boot != life or request.number > number:
                yield Wish(f"{pod.name}/{boot}/{request.number}", request.module, pod.name)


def _last(heard: str) -> tuple[str, int]:
    """The life of a pod and the number of the request that was acted on last."""
    life, _, number = heard.rpartition("/")
    return life, int(number) if number.isdecimal() and len(number) < 17 else 0


class Beginning:
    """Whether a run begins now."""

    def __init__(
        self, r: Situation, policy: Optimization, runs: Sequence[OptimizationRun], wish: Wish | None, held_up: str
    ) -> None:
        self.actions: tuple[Action, ...] = ()
        self.waits_for_budget = False
        self.is_void = False
        """Whether it leads to nothing: what it would learn is known already."""
        self._r, self._policy, self._runs, self._wish = r, policy, runs, wish
        self.trigger = f"by hand: {wish.word}" if wish else triggered(r, policy, runs)
        self.message = self._decided(held_up) if self.trigger else ""
        self.void = wish if self.is_void else None

    @property
    def phase(self) -> Literal["Idle", "Waiting", "BudgetSpent"]:
        """Where it stands."""
        if not self.trigger or self.is_void:
            return "Idle"
        return "BudgetSpent" if self.waits_for_budget else "Waiting"

    def _decided(self, held_up: str) -> str:
        base = _base(self._r)
        if self._wish and self._wish.module and not _covers(self._policy.modules, (self._wish.module,)):
            self.is_void = True
            return f"module {self._wish.module} is not among spec.optimization.modules"
        if held_up or base is None:
            return held_up or "nothing serves yet"
        if self._r.o.labels is None:
            return "labels have not been counted yet"
        if self._r.o.labels.problem and not self._r.o.labels.votes:
            return self._r.o.labels.problem
        if self._wish is None and (lack := too_few(self._policy, self._r.o.labels.votes)):
            return lack
        if spent := budget_spent(self._policy, self._runs, self._r.now):
            self.waits_for_budget = True
            return spent
        return self._begun(base)

    def _begun(self, base: RuntimeConfig) -> str:
        modules = _modules(self._r, self._wish)
        until = newest(self._r)
        name = self._name(base, modules, until)
        if name is None:
            self.is_void = True
            return "a run with the same base, labels and settings has ended already"
        run = OptimizationRun(
            job=name,
            trigger=self.trigger,
            asked=self._wish.word if self._wish else None,
            modules=modules,
            base_version=base.model.version,
            base_revision=base.revision,
            base_source=source_digest(base.model),
            labels_until=until,
            budget_lm_calls=self._policy.budget.max_lm_calls,
            started_at=timestamp(self._r.now),
        )
        self.actions = (Chain((Create(_job(self._r, run, base)), Emit("Normal", "OptimizationStarted", _words(run)))),)
        return f"Job {name} is being made"

    def _name(self, base: RuntimeConfig, modules: tuple[str, ...], until: int) -> str | None:
        """The Job's name; None where all that could be learned is known already."""
        ended = {run.job: run.reason for run in self._runs}
        words = ["", *map(str, range(2, MOST_ATTEMPTS + 1))] if self._wish is None else ["", self._wish.word]
        for word in words:
            name = optimization_name(self._r.o.program, base, modules, until, word)
            if name not in ended:
                return name
            if ended[name] not in (LEFT_NOTHING if self._wish is None else MAY_BE_REPEATED):
                return None
        return None


def triggered(r: Situation, policy: Optimization, runs: Sequence[OptimizationRun]) -> str:
    """Why a run shall begin by itself, after the cool-down; empty where none shall."""
    if cooldown_left(policy, runs, r.now) > 0:
        return ""
    votes, since = new_votes(r, runs), begun_since(r, runs)
    served = [vote for vote in votes if vote.at > served_since(r)]
    found = (asks(t, served if t.type == "FailureRate" else votes, since, r.now) for t in policy.triggers)
    return next(filter(None, found), "")


def _base(r: Situation) -> RuntimeConfig | None:
    """What pods that serve were told to run."""
    view = r.active
    return (view.loading.config if view.loading else view.config) if view else None


def _job(r: Situation, run: OptimizationRun, base: RuntimeConfig) -> dict[str, object]:
    program, until = r.o.program, run.labels_until / 1000
    config = optimization_config(program, base, run.modules, until, golden_file(program))
    return build_optimization(program, run, config, profile_of(r.o), r.o.defaults.runtime_image)


def _words(run: OptimizationRun) -> str:
    what = f"modules {', '.join(run.modules)}" if run.modules else "all modules"
    return f"{run.trigger}; {what} of version {run.base_version}, at most {run.budget_lm_calls} LM calls"


def _news(r: Situation, runs: Sequence[OptimizationRun]) -> Iterator[Emit]:
    """What ended since the status was written last."""
    before = r.o.status.optimization
    noted = {run.job for run in (before.run, *before.earlier) if run and run.finished_at} if before else set()
    for run in runs:
        if run.finished_at and run.job not in noted:
            gave_nothing = run.reason in MAY_BE_REPEATED
            yield Emit(
                "Warning" if gave_nothing else "Normal", "OptimizationEnded", f"{run.reason}{_of(run)}: {run.message}"
            )


def _of(run: OptimizationRun) -> str:
    return f", version {run.candidate_version}" if run.candidate_version else ""


def _consequences(
    r: Situation, policy: Optimization | None, runs: Sequence[OptimizationRun]
) -> Iterator[MoveAlias | Tag]:
    """What the registry shall know: where the alias leads, and from which versions callers had to be sent away."""
    if policy is None:
        return
    for entry in r.entries:
        if entry.reason in TAKEN_BACK and entry.source == source_digest(ref_of(r.o, entry.version)):
            yield Tag(entry.version, "taken-back", f"{entry.reason}: {entry.message}"[:250])
    better = _better(r, runs)
    # Also where the alias is there already: whoever moved it may have been ended before he could note that.
    is_free = policy.promotion.mode == "Auto" and r.policy.rollback_to is None and not r.is_held_up
    if better and is_free and better.golden and _is_meant(r, better):
        yield MoveAlias(better.candidate_version or "", better.base_version)


def _is_meant(r: Situation, run: OptimizationRun) -> bool:
    """Whether nobody has chosen since: the alias stands where the run found it, and callers did not come there later;
    or it stands at what was found, and that is still to be noted."""
    if r.o.model.version != run.base_version:
        return r.o.model.version == run.candidate_version
    past = r.o.status.history
    came = parse_timestamp(past[-1].activated_at) if past else 0.0
    return came <= parse_timestamp(run.finished_at, r.now) and not _has_been_there(r, run)


def _has_been_there(r: Situation, run: OptimizationRun) -> bool:
    """Whether callers reached what a run has found, so that somebody has taken them away from it again."""
    candidate = source_digest(ref_of(r.o, run.candidate_version or ""))
    return any(entry.source == candidate for entry in r.o.status.history)


def _taken_back(r: Situation, run: OptimizationRun) -> OptimizationRun:
    """A run with the word, once there was reason for it, that its version was taken back: that holds when the version
    is in no quarantine any more."""
    is_so = any(e.reason in TAKEN_BACK and e.version == run.candidate_version for e in r.entries)
    return run.model_copy(update={"is_taken_back": True}) if is_so else run


def _better(r: Situation, runs: Sequence[OptimizationRun]) -> OptimizationRun | None:
    """The last run, if it has found a better version that nothing speaks against since."""
    last = next(iter(runs), None)
    if last is None or last.reason != "Better" or last.candidate_version is None or last.is_taken_back:
        return None
    if last.base_source not in (None, source_digest(ref_of(r.o, last.base_version))):
        return None  # of another server or model than the manifest's
    return None if any(entry.version == last.candidate_version for entry in r.entries) else last


def _proposed(r: Situation, runs: Sequence[OptimizationRun]) -> OptimizationRun | None:
    """The same, while it waits for somebody to move the alias there."""
    better = _better(r, runs)
    is_open = better and r.o.model.version == better.base_version and not _has_been_there(r, better)
    return better if is_open else None


def _heard(r: Situation, runs: Sequence[OptimizationRun], void: Wish | None) -> dict[str, str]:
    """The last request of each pod that was acted on, for the pods that are there: up to the first that still waits."""
    before = r.o.status.optimization
    heard = {pod: word for pod, word in (before.heard if before else {}).items() if pod in {p.name for p in r.o.pods}}
    for pod, wishes in itertools.groupby(_wishes(r, {}), lambda wish: wish.pod):
        for wish in itertools.takewhile(lambda wish: _acts(r, wish, runs, void), wishes):
            heard[pod] = wish.word.partition("/")[2]
    return heard


def _acts(r: Situation, wish: Wish, runs: Sequence[OptimizationRun], void: Wish | None) -> bool:
    """Whether a request leads to nothing new from now on: it was the reason for a run, or one is under way that does
    the same."""
    now = running(runs)
    is_done_now = now is not None and _covers(now.modules, _modules(r, wish)) and _is_as_asked(r, now)
    return wish == void or is_done_now or any(run.asked == wish.word for run in runs)


def _is_as_asked(r: Situation, run: OptimizationRun) -> bool:
    """Whether a run does what the manifest would have it do now: its name says so."""
    base, words = _base(r), ("", run.asked or "", *map(str, range(2, MOST_ATTEMPTS + 1)))
    names = (optimization_name(r.o.program, base, run.modules, run.labels_until, w) for w in words) if base else ()
    return run.job in names


def _modules(r: Situation, wish: Wish | None) -> tuple[str, ...]:
    """Those that may change; all, if there are none."""
    policy = r.o.program.spec.optimization
    return (wish.module,) if wish and wish.module else policy.modules if policy else ()


def _covers(those: Sequence[str], these: Sequence[str]) -> bool:
    return not those or (bool(these) and set(these) <= set(those))


def _is_heard(r: Situation, word: str | None, runs: Sequence[OptimizationRun], begin: Beginning | None) -> bool:
    if word is None:
        return False
    return _acts(r, Wish(word), runs, begin.void if begin else None)


def _status(
    r: Situation, policy: Optimization | None, runs: Sequence[OptimizationRun], begin: Beginning | None,
    heard: dict[str, str],
) -> OptimizationStatus:  # fmt: skip
    votes = new_votes(r, runs)
    failures = sum(vote.is_failure for vote in votes)
    problem = r.o.labels.problem if r.o.labels else ""
    better = _proposed(r, runs) if policy else None
    return OptimizationStatus(
        phase="Running" if running(runs) else begin.phase if begin else "Idle",
        message=begin.message if begin and begin.phase != "Idle" else _how_to_accept(r, better),
        labels=LabelsStatus(successes=len(votes) - failures, failures=failures, problem=problem),
        run=next(iter(runs), None),
        earlier=tuple(runs[1 : MOST_RUNS + 1]),
        heard=heard,
    )


def _how_to_accept(r: Situation, better: OptimizationRun | None) -> str:
    if better is None:
        return ""
    source = r.o.program.spec.source.mlflow
    how = f"move the alias {source.alias} there" if source.alias else "name it in spec.source.mlflow.version"
    return f"version {better.candidate_version} is better than version {better.base_version}: to release it, {how}"


def _again(
    r: Situation, policy: Optimization | None, runs: Sequence[OptimizationRun], begin: Beginning | None
) -> float | None:
    """Seconds until time alone may change something."""
    if running(runs):
        return PROGRESS_SECONDS
    if policy is None:
        return None
    since = begun_since(r, runs)
    moments = [next_moment(trigger.schedule, since) - r.now for trigger in policy.triggers if trigger.schedule]
    moments.append(cooldown_left(policy, runs, r.now))
    if begin and begin.waits_for_budget:
        ends = [parse_timestamp(run.finished_at, r.now) for run in runs]
        moments += [end + DAY_SECONDS - r.now for end in ends]
    return min((max(1.0, moment) for moment in moments if 0 < moment < math.inf), default=None)

"""What must hold, whatever happens: the world keeps its own books, and holds the operator to them.

The books know what people asked for, what versions are like, who reached what and why it was left. They are kept from what
the operator writes and from what it saw when it did. `rest.py` says what must hold once everything has come to rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from despina.api.revision import source_digest
from despina.api.status import Memory
from despina.desired.labels import ABORT, PROMOTE, RESTART, RESTARTED_AT, RESTARTED_BY, RETRY
from despina.wire import ModelRef, RuntimeConfig
from tests.support.simulator import nature
from tests.support.simulator.api import READ, STATUS, Document
from tests.support.simulator.loop import is_optimization
from tests.support.simulator.operator import NAME
from tests.support.simulator.records import fact, memory_on, notes, quarantined, remembered

if TYPE_CHECKING:
    from tests.support.simulator.operator import Operator
    from tests.support.simulator.world import World

TAKEN_BACK = ("WatchFailed", "BreakerOpen")
GATES = {"SmokeFailed": "Smoke", "SchemaIncompatible": "SchemaCompatibility", "EvaluationFailed": "Evaluate"}
SWAPS_ONLY = ("CodeChanged", "NotSwappable")
MOST_RESTARTS = 3
BAD_ROUNDS = 8
"""How many rounds a version may err while it is watched, until it must have been taken back."""


@dataclass
class Setting:
    """A value that somebody gave an annotation, once."""

    value: str
    is_used: bool = False
    is_uncertain: bool = False
    """Whether the operator may not know any more whether it acted."""


@dataclass(frozen=True)
class Conviction:
    """That a version must not be reached, as the operator once recorded it."""

    version: str
    revision: str | None
    model: ModelRef


@dataclass
class Seen:
    """What a process saw when it last decided."""

    settings: dict[str, Setting] = field(default_factory=dict)
    reached: str | None = None
    asked: int = 0


class Truth:
    """The books."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.configs: dict[str, RuntimeConfig] = {}
        """What revisions are, from all ConfigMaps that there ever were."""
        self.reached: str | None = None
        self.gap: str | None = None
        """What callers reached before they reached nothing."""
        self.sizes: dict[str, tuple[str, int]] = {}
        self.good: dict[str, bool | None] = {}
        """Revisions that callers reached; False for those that were taken back since, None where that is forgotten."""
        self.returned: tuple[str | None, str, int] | None = None
        """Where callers were sent back from and to, and how often people had asked for anything by then."""
        self.asked = 0
        self.settings: dict[str, Setting] = {}
        self.last_seen: dict[str, Setting] = {}
        self.gone: dict[str, Setting] = {}
        """Those that the last decision no longer saw."""
        self.doubted: dict[str, str] = {}
        """Values that are gone, and may count as handled still."""
        self.all_settings: dict[tuple[str, str], Setting] = {}
        self.can_erase = True
        """Whether the last pass could take the mark of a restart off a Deployment."""
        self.has_refused = False
        """Whether pods refused orders once: those are not given again until something happens."""
        self.is_unsure, self.knows_nothing = False, True
        """Whether all records may be lost, and whether there are none, for no pass has written any since."""
        self.convictions: list[Conviction] = []
        self.entries: dict[tuple[str | None, ...], Document] = {}
        self.candidate: str | None = None
        self.versions: dict[str | None, str] = {}
        self.was: tuple[float, bool, str | None] = (0.0, False, None)
        """Of the last decision: when it was, whether time counted from there on, and the step."""
        self.preparing = 0.0
        self.gating: dict[str, float] = {}
        self.begun: dict[str, tuple[str, str, bool]] = {}
        """Of each revision, its last evaluation: the Job's name and uid, and whether it compares."""
        self.by_hand = False
        self.adds_up = True
        """Whether time is added up here: not that of two operators, nor what stood on no record."""
        self.lost: set[str] = set()
        self.noted: Memory | None = None
        self.known: set[tuple[str, ...]] = set()
        self.bad_rounds = 0
        self.watched_until = 0.0
        self.marks: dict[str, tuple[str | None, str | None]] = {}
        self.failed: set[str] = set()
        """Revisions whose breaker opened in some pod by itself, and not because it was told to."""
        self.restarts: dict[str, list[float]] = {}
        """Of each Deployment: when within the last hour, because of the breaker."""
        self.seen: dict[int, Seen] = {}

    def check(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.violations.append(what)

    def unwritten(self) -> None:
        """What was decided last may stand on no record: values that it saw to be gone may count as handled still."""
        self.adds_up = False
        self.doubted |= {name: setting.value for name, setting in self.gone.items()}
        for name, setting in self.settings.items():
            setting.is_uncertain |= self.doubted.get(name) == setting.value and self.gone.get(name) is not setting

    # what people do

    def people_asked(self) -> None:
        """Somebody changed what is asked for."""
        self.asked += 1

    def annotated(self, name: str, value: str | None) -> None:
        """Somebody set an annotation or took it away. Unless a pass saw another one meanwhile, it is the one from before."""
        before = self.last_seen.get(name)
        if value is None:
            self.settings.pop(name, None)
        elif value != getattr(self.settings.get(name), "value", None):
            is_same = before is not None and before.value == value
            is_forgotten = self.knows_nothing
            is_marked = name == RESTART and not self.can_erase and value in {mark[1] for mark in self.marks.values()}
            is_used = is_forgotten and not self._is_read()
            is_doubted = self.doubted.get(name) == value
            new = Setting(value, is_used=is_used, is_uncertain=self.is_unsure or is_marked or is_doubted)
            self.settings[name] = before if before and is_same else new
            self.all_settings[name, value] = self.settings[name]
        self.people_asked()

    def _is_read(self) -> bool:
        """Whether a pass is under way that read what was there before, and will write it down."""
        return any(operator.running for operator in self.world.operators)

    def record_damaged(self, which: str, is_lost: bool = True) -> None:
        """One of the two records of what was decided and handled may be lost, or is not found for a while; with both of
        them, all may be."""
        self.lost |= {which, *(self._older(which) if is_lost else ())}
        if self.lost == {"status", "Service"}:
            self._forget()

    def _older(self, which: str) -> set[str]:
        """The other record, if it is of before: its write may have been refused."""
        service = self._on_the_service()
        found = {"status": self.world.status.get("serial"), "Service": service.serial if service else 0}
        serials = {name: serial if isinstance(serial, int) else 0 for name, serial in found.items()}
        return {name for name, serial in serials.items() if serial < serials[which]}

    def memory_lost(self) -> None:
        """Both records are gone: nothing is convicted any more, and annotations that are there count as handled."""
        self.knows_nothing = True
        self._forget()
        if not self._is_read():
            for setting in (*self.settings.values(), *self.last_seen.values()):
                setting.is_used = True

    def restart_forgotten(self) -> None:
        """What a Deployment says of who restarted it is lost. Until the next pass writes it down, it alone says so."""
        said = self.world.status.get("handled")
        done = said.get("restart") if isinstance(said, dict) else None
        for (name, value), setting in self.all_settings.items():
            if name == RESTART and value != done:
                setting.is_used, setting.is_uncertain = False, True

    def _forget(self) -> None:
        self.is_unsure = True
        self.good = {revision: is_good or None for revision, is_good in self.good.items()}
        self.convictions.clear()
        self.entries.clear()
        self.begun.clear()
        self.returned = None
        self.watched_until = 0.0
        for setting in (*self.settings.values(), *self.last_seen.values()):
            setting.is_used, setting.is_uncertain = False, True
        self.people_asked()

    def saved(self) -> dict[str, Setting]:
        return {name: replace(setting) for name, setting in self.settings.items()}

    def restored(self, settings: dict[str, Setting], is_known: bool) -> None:
        """The namespace is as it was once, and so are its annotations; what was decided since is forgotten. A record is
        there if the status is, or if the Service is still the program's own."""
        convictions = self.convictions.copy()
        self.memory_lost()
        self.knows_nothing, self.adds_up = not is_known, False
        noted = {(e["version"], e.get("revision")) for e in self._restored_entries()} if is_known else set()
        self.convictions = [c for c in convictions if (c.version, c.revision) in noted]
        self.good = dict.fromkeys(self.good) if is_known else {}
        handled = self._restored_handled()
        self.settings = {
            name: replace(s, is_used=not is_known or (s.is_used and (name, s.value) in handled))
            for name, s in settings.items()
        }
        self.all_settings |= {(name, setting.value): setting for name, setting in self.settings.items()}
        self.last_seen = dict(self.settings)
        if not is_known:
            self.known.clear()

    def _restored_handled(self) -> set[tuple[str, str]]:
        """What the namespace's record says was acted on: that of the status, or else of the Service; and a Deployment
        names the last restart of its own."""
        said, service = self.world.status.get("handled"), self._on_the_service()
        record = said if isinstance(said, dict) else service.handled if service else {}
        deployments = self.world.api.of("Deployment").values()
        marks = [(d["metadata"].get("annotations") or {}).get(RESTARTED_BY) for d in deployments]
        return {*record.items(), *((RESTART, mark) for mark in marks if mark)}

    def _restored_entries(self) -> list[Document]:
        """What the namespace's record has in quarantine: that of the status, or else of the Service."""
        service = self.world.api.get("Service", NAME)
        return quarantined(self.world.document) or (remembered(service) if service else [])

    # what happens

    def changed(self, kind: str, name: str) -> None:
        document = self.world.api.get(kind, name)
        operator = self.world.actor
        if kind == "ConfigMap" and document:
            self._know(document)
        if kind == "Deployment":
            self._resized(name, document, operator)
            if document:
                self._restarted(name, document, operator)
            else:
                self.marks.pop(name, None)
                self.restarts.pop(name, None)
        if kind in ("Service", "ConfigMap", "Deployment"):
            self._moved(self.reached, self.world.reached, operator)
        if kind == "Job" and document and operator:
            self._began(document, operator)
        if kind == "Job" and not document:
            self.world.loop.deleted(name)
        is_said = operator is None or (operator.has_decided and document and not self._is_behind(document))
        if kind == "DSPyProgram" and document and is_said:
            self.knows_nothing &= operator is None  # what a pass decided is a record again
            if operator:
                self.lost.discard("status")
            self._recorded(quarantined(document), operator)
        if (kind, name) == ("Service", NAME) and document and operator:
            self.knows_nothing = False
            self.lost.discard("Service")
            if self.noted != memory_on(document):  # labels may have been all that was written
                self._recorded(remembered(document), operator)
        if (kind, name) == ("Service", NAME):
            self.noted = memory_on(document) if document else None

    def _is_behind(self, program: Document) -> bool:
        """Whether the other record is a later one: a pass that could not be made writes its condition beside what was
        there."""
        later = self._on_the_service()
        serial = (program.get("status") or {}).get("serial")
        return later is not None and isinstance(serial, int) and serial < later.serial

    def _on_the_service(self) -> Memory | None:
        """The record there. One that came from a backup is no longer the program's."""
        service = self.world.api.get("Service", NAME)
        return memory_on(service) if service and self._is_own(service) else None

    def _is_own(self, document: Document | None) -> bool:
        """Whether it belongs to the program, and not to one that was there before and takes it along."""
        owners = document["metadata"].get("ownerReferences", []) if document else []
        return any(one["uid"] == self.world.document["metadata"]["uid"] for one in owners)

    def _know(self, document: Document) -> None:
        for part in ("config.json", "previous.json"):
            config = nature.read_config({"data": {"config.json": (document.get("data") or {}).get(part, "")}})
            if config:
                self.know(config)

    def know(self, config: RuntimeConfig) -> None:
        """Some pod is meant to run this."""
        self.check(self.world.mlflow.has_had(config.model), f"no server ever had {config.model}")
        self.configs[config.revision] = config

    def _resized(self, name: str, document: Document | None, operator: Operator | None) -> None:
        base, before = self.sizes.pop(name, ("", 0))
        if document:
            base = nature.base_of(document)
            self.sizes[name] = (base, document["spec"].get("replicas", 1))
        size = self.sizes[name][1] if document else 0
        if operator and operator.observed and base == self.world.active and before and not size:
            o, plan = operator.observed, operator.plan
            if base not in (o.active, plan.target and plan.target.base):
                return  # somebody led callers there after this pass had looked
            spec = o.program.spec
            is_asked = wanted_none(spec) or spec.rollout.strategy == "Recreate"
            self.check(is_asked or _recreates(operator), "the operator took away the pods that callers reach")

    def _restarted(self, name: str, document: Document, operator: Operator | None) -> None:
        """A Deployment was made, or its pods are replaced: because somebody said so, or because of the breaker."""
        own, template = notes(document), notes(document["spec"]["template"])
        is_known, before = name in self.marks, self.marks.get(name)
        mark = template.get(RESTARTED_AT), own.get(RESTARTED_BY)
        self.marks[name] = mark
        made_for = self.all_settings.get((RESTART, mark[1] or ""))
        if not is_known and made_for:  # its pods are younger than the word
            made_for.is_uncertain = True
        if operator is None or not is_known or before is None or mark[0] == before[0]:
            return
        if mark[1] != before[1]:
            self._acted(RESTART, mark[1] or "", self.seen[id(operator)], f"{name} was restarted")
        else:
            at = float(mark[0] or 0)
            recent = self.restarts[name] = [*(one for one in self.restarts.get(name, ()) if one > at - 3600), at]
            self.check(len(recent) <= MOST_RESTARTS, f"the breaker restarted {name} {len(recent)} times within an hour")
            o = operator.observed
            is_due = o is None or o.serving in self.failed or any(pod.refusal for pod in o.pods)
            self.check(is_due, f"the breaker restarted {name}, which serves what never failed")

    def _moved(self, before: str | None, after: str | None, operator: Operator | None) -> None:
        if before == after:
            return
        self.reached, self.bad_rounds = after, 0
        if after is None:  # whatever led callers there was taken away
            self.gap = before
            return
        was = before or self.gap
        if was == after:
            return
        returned, self.returned = self.returned, None
        was_good, self.watched_until = self.good.get(after, False), 0.0
        is_return = bool(was_good)
        by_hand, self.by_hand = self.by_hand, operator is None
        if operator:
            self._sent(was, after, operator, returned, by_hand)
            is_new = was is not None and was_good is False and not self._is_way_back(operator, was, after)
            was_better = was in self.configs and self.nature_of(was).is_good
            if is_new and was_better and not by_hand and _is_candidate(operator, after):
                self.watched_until = self.world.now + self._watch_seconds()
        if before and is_return and operator and not by_hand:  # what people do to our objects is no wish
            self.returned = (was, after, self.seen[id(operator)].asked)
        self.good[after] = True if operator else self.good.get(after)

    def _sent(
        self, before: str | None, after: str, operator: Operator, returned: tuple[Any, str, int] | None, by_hand: bool
    ) -> None:
        """The operator sent callers elsewhere; `by_hand`: from where somebody else had led them past it."""
        o, seen = operator.observed, self.seen[id(operator)]
        if before and o and o.deployment(o.active) and not by_hand:
            if o.ready(o.active):
                self.check(
                    bool(o.ready(self.world.active)), f"callers were sent from ready pods to none ({before} to {after})"
                )
            is_asleep = wanted_none(o.program.spec) and _is_candidate(operator, after)
            self.check(not is_asleep, f"callers were sent to {after} though nothing shall run")
            if returned and returned[:2] == (after, before):
                self.check(
                    seen.asked != returned[2], f"callers were sent back to {before} and away again, though nobody asked"
                )
            rollout = o.program.spec.rollout
            is_way_back = self._is_way_back(operator, before, after)
            if _is_candidate(operator, after) and not is_way_back and rollout.blue_green.auto_promotion == "Disabled":
                self._acted(PROMOTE, after, seen, f"callers were sent to {after}")
        if self.is_convicted(after):
            others = [r for r in self.runnable() if not self.is_convicted(r)]
            self.check(not others, f"callers were sent to quarantined {after} though {others} served")

    def _is_way_back(self, operator: Operator, before: str, after: str) -> bool:
        """Whether a person pinned a version that callers were at before."""
        is_pinned = operator.observed is not None and operator.observed.program.spec.rollout.rollback_to is not None
        return is_pinned and self._is_back(before, after)

    def _is_back(self, before: str, after: str) -> bool:
        """Whether callers were at a version before, whatever the spec was, and need not have been sent away."""
        if self.good.get(after):
            return True
        model = self.configs[after].model
        was_there = any(g is not False and self.configs[r].model == model for r, g in self.good.items())
        return was_there and self.configs[before].model != model

    def runnable(self) -> list[str]:
        """Revisions that served and whose Deployment is still there."""
        there = {self.world.served_by(d) for d in self.world.api.of("Deployment").values()}
        return [r for r in self.good if r in there and not self.nature_of(r).broken]

    def nature_of(self, revision: str) -> Any:
        return self.world.nature_of(self.configs[revision].model)

    def is_convicted(self, revision: str) -> bool:
        return any(self._is_about(c, revision) for c in self.convictions)

    def _is_about(self, conviction: Conviction, revision: str) -> bool:
        config = self.configs.get(revision)
        return config is not None and conviction.model == config.model and conviction.revision in (None, revision)

    def _acted(self, name: str, value: str, seen: Seen, what: str) -> None:
        """Something was done that somebody must have asked for by annotation, and once for each asking."""
        setting = seen.settings.get(name)
        self.check(setting is not None and setting.value == value, f"{what} without the annotation {name}")
        if setting:
            self.check(not setting.is_used, f"{what}, though the annotation {name} had acted already")
            setting.is_used = True

    def _began(self, job: Document, operator: Operator) -> None:
        if is_optimization(job["metadata"]["name"]):
            self.world.loop.began(job, operator)
            return
        name, config = job["metadata"]["name"], nature.evaluated_by(job)
        revision, compares = config.candidate.revision, config.baseline is not None
        this, before = (name, job["metadata"]["uid"], compares), self.begun.get(revision)
        if operator.observed and this != before:  # else it gets its labels back
            self.check(not wanted_none(operator.observed.program.spec), "an evaluation began though nothing shall run")
            is_more = before is not None and compares and not before[2]
            self.check(before is None or is_more, f"the evaluation of {revision} was begun again")
            self.begun[revision] = this
            self.world.evaluated[name] = 0

    def job_lost(self, name: str) -> None:
        """Somebody deleted a Job: it may be made again."""
        self.begun = {revision: job for revision, job in self.begun.items() if job[0] != name}

    def _watch_seconds(self) -> int:
        return self.world.spec["rollout"].get("postPromotion", {}).get("watchSeconds", 300)

    # what the operator decides and records

    def decided(self, operator: Operator) -> None:
        o, plan, now = operator.observed, operator.plan, operator.clock()
        read = {name: self.all_settings.get((name, value)) for name, value in o.program.annotations.items()}
        before, self.last_seen = self.last_seen, {name: setting for name, setting in read.items() if setting}
        self.gone = {n: s for n, s in before.items() if self.last_seen.get(n) is not s}
        self.seen[id(operator)] = Seen(dict(self.last_seen), self.world.reached, self.asked)
        if plan.asked and (promote := self.last_seen.get(PROMOTE)):  # what names nothing that waits is settled
            promote.is_uncertain |= plan.candidate is None or plan.candidate.hash != promote.value
        self.can_erase = ("Deployment", "patch") not in self.world.api.refused
        then, counted, step = self.was
        passed = max(0.0, now - max(then, operator.began)) if counted else 0.0  # nobody looked before
        candidate = plan.candidate.hash if plan.candidate else None
        rollout = o.status.rollout
        is_on_record = rollout is not None and rollout.id == candidate  # a pass between may have meant another one
        self.adds_up |= candidate not in (None, self.candidate) and not is_on_record  # its time begins now
        self.adds_up &= operator is self.world.operators[0] and (STATUS, "patch") not in self.world.api.refused
        self.versions |= {candidate: plan.candidate.version} if plan.candidate else {}
        failed = candidate is None and any(self._is_new(q.dump()) for q in plan.quarantined)
        if failed and any(self._names(q.dump(), self.candidate) for q in plan.quarantined):
            candidate = self.candidate  # this is the last of it, if it gets on record
        if candidate != self.candidate:
            self.begun.clear()
            self.preparing, self.gating = 0.0, {}
        elif step in ("Prepare", "Paused", "Suspended"):
            self.preparing += passed
        else:
            self.preparing = 0.0
        for gate in plan.gates:
            self.gating[gate.name] = self.gating.get(gate.name, -passed) + passed
        for entry in plan.quarantined:
            if self._is_new(entry.dump()) and self.adds_up:
                self._in_time(entry.dump(), o.program.spec)
        spec = o.program.spec
        self.candidate = candidate
        self.was = (now, spec.rollout.state == "Active" and not wanted_none(spec), step if failed else plan.step)
        self._lifted_by_registry(o)

    def _names(self, entry: Document, revision: str | None) -> bool:
        is_same = entry["version"] == self.versions.get(revision or "")
        return is_same and self._is_new(entry) and entry.get("revision") in (None, revision)

    def _in_time(self, entry: Document, spec: Any) -> None:
        deadline = spec.rollout.blue_green.progress_deadline_seconds
        if entry["reason"] == "ProgressDeadlineExceeded":
            self.check(
                self.preparing >= deadline - 1,
                f"version {entry['version']} was given up after {self.preparing:.0f} of {deadline} s of preparing",
            )
        if "no result within" in entry.get("message", ""):
            name = entry["message"].split()[1].rstrip(":")
            gate = next((g for g in spec.rollout.gates if g.name == name), None)
            spent = self.gating.get(name, 0.0)
            if gate:
                self.check(
                    spent >= gate.timeout_seconds - 1,
                    f"gate {name} failed after {spent:.0f} of {gate.timeout_seconds} s",
                )

    def _lifted_by_registry(self, o: Any) -> None:
        served = self.configs.get(self.reached or self.gap or "")
        meant = {o.model.version, str(o.program.spec.rollout.rollback_to), served and served.model.version}
        if o.model.version is not None:
            self.convictions = [c for c in self.convictions if c.version in meant]

    def _is_new(self, entry: Document) -> bool:
        return fact(entry) not in self.known

    def _recorded(self, found: list[Document], operator: Operator | None) -> None:
        """What is in quarantine was written down: by the operator, or by somebody who damaged it."""
        entries = {(e["version"], e.get("revision"), e.get("source")): e for e in found}
        if operator is None:  # one record of two, until a pass puts them together
            self.entries = {**self.entries, **entries}
            return
        before, self.entries = self.entries, entries
        if entries == before:
            return
        self.check(len(entries) == len(found), "a version is quarantined twice")
        for key in entries.keys() - before.keys():
            if fact(entries[key]) not in self.known:
                self.known.add(fact(entries[key]))
                self._convicted(entries[key], operator)
        for key in before.keys() - entries.keys():
            self._acquitted(before[key], operator)

    def _convicted(self, entry: Document, operator: Operator) -> None:
        version, reason = entry["version"], entry["reason"]
        o, seen = operator.observed, self.seen[id(operator)]
        conviction = self._conviction(entry, o)
        self.convictions.append(conviction)
        if reason in TAKEN_BACK:
            self.good |= {r: False for r in self.good if self._is_about(conviction, r)}
            is_returned = self.returned is not None and self._is_about(conviction, self.returned[1])
            self.check(
                not is_returned, f"version {version} was taken back ({reason}) though callers had been sent back to it"
            )
        if reason == "Aborted":
            setting = seen.settings.get(ABORT)
            self._acted(ABORT, setting.value if setting else "", seen, f"version {version} was aborted")
        is_unlucky = self.world.unlucky[conviction.model] > 1  # a process that gives up twice is not tried again
        why = None if is_unlucky else self._unjust(self.world.nature_of(conviction.model), entry)
        self.check(why is None, f"version {version} was quarantined ({reason}: {entry.get('message')}) though {why}")

    def _conviction(self, entry: Document, o: Any) -> Conviction:
        return Conviction(entry["version"], entry.get("revision"), self._model_of(entry, o))

    def _model_of(self, entry: Document, o: Any) -> ModelRef:
        """The version that an entry is about: of all that there were, or as the registry has it now."""
        known = [c.model for c in self.configs.values()]
        meant = self.world.mlflow.ever_meant(entry["version"], o.program.spec.source.mlflow, o.defaults.tracking_uri)
        return next((m for m in (*known, *meant) if source_digest(m) == entry.get("source")), meant[0])

    def _unjust(self, nature: Any, entry: Document) -> str | None:
        """Why a reason to quarantine a version is none."""
        reason, gate = entry["reason"], GATES.get(entry["reason"])
        if gate and gate not in nature.fails and "no result within" not in entry["message"] and not nature.broken:
            return "it passes that gate"
        if reason == "LoadFailed" and not nature.broken:
            return "it can be loaded"
        if reason == "WatchFailed" and not (nature.errors or nature.slow):
            return "it answers"
        if reason in SWAPS_ONLY and self.world.program.spec.rollout.strategy != "HotSwap":
            return "it can be served by new pods"
        return None

    def _acquitted(self, entry: Document, operator: Operator) -> None:
        o, seen, version = operator.observed, self.seen[id(operator)], entry["version"]
        meant = self.world.mlflow.meant(version, o.program.spec.source.mlflow, o.defaults.tracking_uri)
        conviction = self._conviction(entry, o)
        if conviction in [self._conviction(e, o) for e in self.entries.values()]:
            return  # a damaged copy is gone, and one that says the same is left
        is_meant = conviction.model == meant and conviction in self.convictions
        self.convictions = [c for c in self.convictions if c != conviction]
        is_asked = o.model.version is None or version in (o.model.version, str(o.program.spec.rollout.rollback_to))
        is_edited = entry.get("revision") not in (None, operator.plan.asked.hash if operator.plan.asked else None)
        if is_meant and is_asked and not is_edited:
            setting = seen.settings.get(RETRY)
            if setting and setting.value == version:
                self._acted(RETRY, version, seen, f"version {version} was tried again")
            else:
                self.check(False, f"version {version} is no longer quarantined, though nobody asked for that")

    def passed(self, operator: Operator, error: Exception | None) -> None:
        """A pass ended. What it did not move must be what the status names."""
        if error is None and operator.is_whole and not self.world.api.refused:
            self.lost.clear()
            self.is_unsure = self.knows_nothing = False
        o, seen = operator.observed, self.seen.get(id(operator))
        is_told = error is None and operator.is_whole and (STATUS, "patch") not in self.world.api.refused
        reached = self.world.reached
        is_own = self._is_own(self.world.deployment_of(self.world.active))
        if not (is_told and is_own and o and o.active and seen and seen.reached and reached):
            return
        status = self.world.status
        named = [(status.get(part) or {}).get("revision") for part in ("active", "candidate", "previous")]
        names = named[:1] if seen.reached == reached and not self.by_hand else named
        self.check(reached in names, f"callers reach {reached}, but the status names {named}")

    def served_a_round(self) -> None:
        """Callers were served once more: a version that errs while it is watched must be taken back soon."""
        is_bad = self.world.now < self.watched_until and self.reached and self._must_be_taken_back(self.reached)
        self.bad_rounds = self.bad_rounds + 1 if is_bad else 0
        self.check(self.bad_rounds < BAD_ROUNDS, f"{self.reached} errs, is watched, and was not taken back")

    def _must_be_taken_back(self, revision: str) -> bool:
        if revision not in self.configs:  # its ConfigMap could not be made, and neither could its pods
            return False
        world, nature = self.world, self.nature_of(revision)
        is_bad = (nature.errors > 3 or nature.slow) and not world.failing
        can_be_written = not any(verb == READ or kind in ("Service", "ConfigMap") for kind, verb in world.api.refused)
        is_active = world.spec["rollout"].get("state") != "Paused" and bool(world.ready(world.active))
        is_active &= not (world.loses_orders or world.refuses_orders or world.is_mute)
        return is_bad and can_be_written and is_active and any(self.nature_of(r).is_good for r in self.warm())

    def warm(self) -> set[str]:
        """Revisions that served and could serve again at once."""
        world = self.world
        beside = {world.served_by(d) for d in world.api.of("Deployment").values() if self._is_beside(d)}
        mine = [world.runtimes[p["metadata"]["name"]] for p in world.pods_of(world.active) if nature.is_ready(p)]
        inside = set.intersection(*(set(r.held) for r in mine)) if mine else set()
        return {r for r in beside | inside if self.good.get(r)} - {self.reached or ""}

    def _is_beside(self, deployment: Document) -> bool:
        base = nature.base_of(deployment)
        return base != self.world.active and self.world.ready(base) > 0


def wanted_none(spec: Any) -> bool:
    """Whether nothing shall run."""
    return spec.suspend or (spec.replicas == 0 and spec.autoscaling is None)


def _is_candidate(operator: Operator, revision: str | None) -> bool:
    plan = operator.plan
    return plan is not None and plan.candidate is not None and plan.candidate.hash == revision


def _recreates(operator: Operator) -> bool:
    strategy = operator.plan.strategy if operator.plan else None
    return strategy is not None and strategy.name == "Recreate"

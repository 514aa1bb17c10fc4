"""What one pass does, in order, and when the next one comes: case by case, in short words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from despina.api.revision import revision_of
from despina.api.status import BreakerStatus, GateStatus, Memory, ProgramStatus, Promotion, Quarantined
from despina.decide.actions import all_steps
from despina.decide.gates import Gates
from despina.decide.keep import identity, keep, lead
from despina.decide.observed import Loading, Observed
from despina.decide.plan import (
    Annotate,
    Apply,
    Chain,
    Clock,
    Create,
    Delete,
    Emit,
    Restart,
    Scale,
    Strategy,
    Tell,
    each,
)
from despina.decide.pods import agreed, converged, forgotten, replaced, restarted
from despina.decide.prepare import prepare
from despina.decide.quarantine import timestamp
from despina.decide.rollout import again_after, asked_revision, listen_of, situation, step_of
from despina.decide.situation import Situation
from despina.decide.switch import go_back, promote
from despina.wire import BreakerReport, HeldRevision, PodState, ShadowReport
from tests.support.gen import a_deployment, a_program, config_of, hash_of, observed, pods, ref, serving

NOW = 1_000_000.0
P = a_program()
HOT, BESIDE, INSTEAD = Strategy("HotSwap", "so"), Strategy("BlueGreen", "so"), Strategy("Recreate", "so")
ONE, TWO, THREE = (revision_of(P, ref(v)) for v in "123")
G, B, C = TWO.hash, ONE.hash, THREE.hash


def at(o: Observed, **changes: Any) -> Situation:
    return replace(situation(o, NOW, asked_revision(o), o.status.model.quarantined, None), **changes)


def word(action: Any) -> str:
    """One action in short words."""
    match action:
        case Chain(actions):
            return " then ".join(map(word, actions))
        case Create(d) | Apply(d):
            verb = "make" if isinstance(action, Create) else "apply"
            chosen = d["spec"]["selector"].get("despina.dev/revision", "") if d["kind"] == "Service" else ""
            if "config.json" in d.get("data", {}):
                chosen = json.loads(d["data"]["config.json"])["revision"]
                chosen += (
                    "+" + json.loads(d["data"]["previous.json"])["revision"] if "previous.json" in d["data"] else ""
                )
            return f"{verb} {d['kind']} {d['metadata']['name']} {chosen}".strip()
        case Scale(name, size):
            return f"scale {name} {size}"
        case Annotate(name, notes):
            return f"note {noted(notes)} on {name}"
        case Restart(name, _, notes):
            return f"restart {name} {noted(notes)}"
        case Delete((kind, name)):
            return f"delete {kind} {name}"
        case Tell(pod, order, subject):
            return f"tell {pod.name.rpartition('-')[2]} {order} {subject}".strip()
        case Emit(kind, reason, message):
            return f"say {kind} {reason}: {message}"
    raise AssertionError(action)


def noted(notes: dict[str, str]) -> str:
    return ",".join(f"{name.rpartition('/')[2]}={value}" for name, value in notes.items())


def words(actions: Any) -> list[str]:
    return [word(a) for a in actions]


def serves_one(program: Any = P, target: str = "1", count: int = 2, **view: Any) -> Observed:
    fields = serving(program, "1", count)
    fields["deployments"] = (replace(fields["deployments"][0], **{"config": config_of(program, "1")} | view),)
    return observed(program, target, **fields)


def with_two(o: Observed, ready: bool = True, **view: Any) -> Observed:
    two = a_deployment(o.program, "2", **view)
    return replace(o, deployments=(*o.deployments, two), pods=o.pods + pods(o.program, "2", ready=ready))


def saying(o: Observed, *reports: PodState | None, **pod: Any) -> Observed:
    return replace(o, pods=tuple(replace(p, report=r, **pod) for p, r in zip(o.pods, reports, strict=True)))


def holding(revision: str, *held: str) -> PodState:
    return PodState(revision=revision, held={name: HeldRevision(phase="Ready") for name in held})


def loaded(program: Any = P, previous: str | None = "1", ago: float = 9.0, **view: Any) -> Observed:
    """Version 2 was loaded into the pods of version 1."""
    before = config_of(program, previous) if previous else None
    loading = Loading(hash_of(program, "2"), "2", config_of(program, "2"), NOW - ago, before)
    return serves_one(program, "2", **{"version": "2", "loading": loading} | view)


# Preparing

MEMORY = Memory(serial=7)
MADE = f"make ConfigMap qa-{G} {G} then make Deployment qa-{G}"
PREVIEW = f"apply Service qa-preview {G}"
AUTO = {"autoscaling": {"minReplicas": 1, "maxReplicas": 9}}


def hpa(name: str) -> dict:
    return {("HorizontalPodAutoscaler", name): {"spec": {}}}


def prepared(o: Observed, strategy: Strategy) -> list[str]:
    r = at(o, strategy=strategy)
    return words(prepare(r, r.candidate))


PREPARED: dict[str, tuple[list[str], list[str]]] = {
    "in pods of its own": (prepared(serves_one(target="2"), BESIDE), [MADE, PREVIEW]),
    "in as many as are asked for": (
        prepared(serves_one(a_program(replicas=3), "2"), BESIDE), [MADE, f"scale qa-{G} 3", PREVIEW]),
    "in those that are there": (prepared(with_two(serves_one(target="2")), BESIDE), [PREVIEW]),
    "in those that are there, and asleep": (prepared(with_two(serves_one(target="2"), replicas=0), BESIDE), [f"scale qa-{G} 1", PREVIEW]),
    "in those that were changed to another since": (
        prepared(with_two(serves_one(target="2"), loading=Loading(C, "3", config_of(P, "3"), 1.0)), BESIDE),
        [f"apply ConfigMap qa-{G}-generation {G}", PREVIEW]),
    "in place of the old ones, which go first": (prepared(serves_one(target="2"), INSTEAD), [f"scale qa-{B} 0"]),
    "in place of the old ones, which are going": (prepared(serves_one(target="2", replicas=0), INSTEAD), []),
    "in place of the old ones, which are gone": (prepared(replace(serves_one(target="2", replicas=0), pods=()), INSTEAD), [MADE, PREVIEW]),
    "in place of the old ones, which an autoscaler had sized": (
        prepared(replace(serves_one(a_program(**AUTO), "2", replicas=4), objects=hpa(f"qa-{B}")), INSTEAD),
        [f"delete HorizontalPodAutoscaler qa-{B}", f"note size=4 on qa-{B} then scale qa-{B} 0"]),
    "in place of the old ones, and it stands": (prepared(with_two(serves_one(target="2")), INSTEAD), [PREVIEW]),
    "in the memory of those that run": (
        prepared(saying(serves_one(target="2"), holding(B), holding(B)), HOT), [f"tell 0 Prepare {G}", f"tell 1 Prepare {G}"]),
    "in the memory of one more": (prepared(saying(serves_one(target="2"), holding(B, G), None), HOT), [f"tell 1 Prepare {G}"]),
    "in the memory of those that were told": (
        prepared(saying(serves_one(target="2"), None, None, told={"Prepare": f"Prepare {G}"}), HOT), []),
    "not in the memory of those that are not ready": (prepared(saying(serves_one(target="2"), None, None, ready=False), HOT), []),
}  # fmt: skip


@pytest.mark.parametrize("sentence", PREPARED)
def test_a_version_is_prepared(sentence):
    found, wanted = PREPARED[sentence]
    assert found == wanted


# Sending callers elsewhere


def test_callers_are_sent_to_new_pods_in_one_write_that_remembers_it():
    r = at(with_two(serves_one(target="2")), strategy=BESIDE, memory=MEMORY)
    (chain,) = promote(r, r.candidate)
    said = "say Normal Promoted: Version 2 takes the requests (BlueGreen)"
    assert word(chain) == f"apply Service qa {G} then {said} then note activated-at={NOW!r} on qa-{G}"
    notes = chain.actions[0].document["metadata"]["annotations"]
    assert Memory.parse(notes["despina.dev/memory"]) == MEMORY
    assert "Version 2 takes the requests then" in word(next(promote(replace(r, strategy=None), r.candidate)))


def test_callers_leave_only_what_is_on_record_as_having_served_them():
    o = with_two(serves_one(target="2"))
    unnoted = replace(o, deployments=tuple(replace(d, activated_at=None) for d in o.deployments))
    r = at(unnoted, strategy=BESIDE, started_at=NOW - 9)
    assert word(next(promote(r, r.candidate))).startswith(f"note activated-at={NOW - 9!r} on qa-{B} then apply Service")
    silent = at(replace(unnoted, pods=()), strategy=BESIDE)
    assert word(next(promote(silent, silent.candidate))).startswith("apply Service")


def test_callers_are_sent_to_what_running_pods_hold_in_one_write_that_remembers_it():
    o = saying(serves_one(target="2"), holding(B, G), holding(B, G))
    r = at(o, strategy=HOT, memory=MEMORY)
    (chain,) = promote(r, r.candidate)
    said = "say Normal Promoted: Version 2 takes the requests (HotSwap)"
    told = f"tell 0 Commit {G} then tell 1 Commit {G}"
    assert word(chain) == f"apply ConfigMap qa-{B}-generation {G}+{B} then {said} then {told}"
    data = chain.actions[0].document["data"]
    assert Memory.parse(data["memory.json"]) == MEMORY
    assert data["at"] == repr(NOW)
    third = at(replace(saying(loaded(), holding(G, B, G, C), None), model=replace(o.model, version="3")), strategy=HOT)
    assert word(next(promote(third, third.candidate))).startswith(f"apply ConfigMap qa-{B}-generation {C}+{G} then")


def test_callers_are_sent_back_to_pods_that_are_warm():
    listed = ProgramStatus(model={"quarantined": (Quarantined(version="1", reason="R", message="erred", at="t"),)})
    r = at(replace(with_two(serves_one(), activated_at=1.0, retired_at=2.0), status=listed), memory=MEMORY)
    assert words(go_back(r, r.retreat)) == [
        f"apply Service qa {G} then say Warning RolledBack: Version 2 takes the requests again: version 1 erred"
        f" then note activated-at={NOW!r} on qa-{G}",
    ]
    unknown = replace(r, entries=())
    assert "Version 2 takes the requests again then" in words(go_back(unknown, r.retreat))[-1]
    assert words(go_back(replace(r, o=replace(r.o, deployments=())), r.retreat)) == []


def test_callers_are_sent_back_to_what_the_same_pods_hold():
    r = at(saying(loaded(), holding(G, B, G), holding(G, B, G)))
    assert words(go_back(r, r.retreat)) == [
        f"apply ConfigMap qa-{B}-generation {B} then say Warning RolledBack: Version 1 takes the requests again"
        f" then tell 0 Commit {B} then tell 1 Commit {B}",
    ]


# Keeping


def kept(o: Observed, step: Any = None, **changes: Any) -> list[str]:
    r = at(o, **changes)
    return words(keep(r, r.current, step))


PDB = "apply PodDisruptionBudget qa"
KEPT: dict[str, tuple[list[str], list[str]]] = {
    "what serves and is wanted": (kept(serves_one(activated_at=1.0, replicas=1)), [f"apply Service qa-preview {B}", PDB]),
    "what serves while another is on its way": (kept(serves_one(target="2", replicas=1)), [PDB]),
    "what serves, in another size": (kept(serves_one(a_program(replicas=3))), [f"apply Service qa-preview {B}", PDB, f"scale qa-{B} 3"]),
    "what serves, by the autoscaler": (
        kept(serves_one(a_program(**AUTO), replicas=4)), [f"apply Service qa-preview {B}", PDB, f"apply HorizontalPodAutoscaler qa-{B}"]),
    "what serves, until it must go first": (kept(serves_one(a_program(replicas=3), "2", replicas=1), strategy=INSTEAD), [PDB]),
    "what serves, since what it must go for is paused": (
        kept(serves_one(a_program(replicas=3), "2", replicas=1), "Paused", strategy=INSTEAD), [PDB, f"scale qa-{B} 3"]),
    "what serves, since what it must go for is refused": (
        kept(serves_one(a_program(replicas=3), "2", replicas=1), "Refused", strategy=INSTEAD), [PDB, f"scale qa-{B} 3"]),
    "what serves, since nothing is prepared": (
        kept(serves_one(a_program(replicas=0), "2", replicas=1), "Suspended", strategy=INSTEAD), [PDB, f"scale qa-{B} 0"]),
    "that callers came back, though a clock was set back": (
        kept(serves_one(activated_at=1.0, retired_at=NOW + 50, replicas=1)),
        [f"apply Service qa-preview {B}", PDB, f"note activated-at={NOW + 50.001!r} on qa-{B}", "tell 0 Activate", "tell 1 Activate"]),
    "the first version": (
        kept(observed(P)), [f"make ConfigMap qa-{B} {B} then make Deployment qa-{B}", f"apply Service qa-preview {B}", PDB]),
    "the first version of what shall sleep": (
        kept(observed(a_program(replicas=0))),
        [f"make ConfigMap qa-{B} {B} then make Deployment qa-{B}", f"apply Service qa-preview {B}", PDB, f"scale qa-{B} 0"]),
    "what sleeps": (kept(serves_one(a_program(suspend=True), replicas=2)), [f"apply Service qa-preview {B}", PDB, f"scale qa-{B} 0"]),
    "what sleeps, and an autoscaler had sized": (
        kept(replace(serves_one(a_program(suspend=True, **AUTO), replicas=4), objects=hpa(f"qa-{B}"))),
        [f"apply Service qa-preview {B}", PDB, f"delete HorizontalPodAutoscaler qa-{B}", f"note size=4 on qa-{B} then scale qa-{B} 0"]),
    "since when callers are answered": (
        kept(serves_one(activated_at=None, replicas=1)), [f"apply Service qa-preview {B}", PDB, f"note activated-at={NOW!r} on qa-{B}"]),
    "not before they are": (
        kept(saying(serves_one(activated_at=None, replicas=1), None, None, ready=False)), [f"apply Service qa-preview {B}", PDB]),
    "that callers came back": (
        kept(serves_one(activated_at=1.0, retired_at=2.0, replicas=1)),
        [f"apply Service qa-preview {B}", PDB, f"note activated-at={NOW!r} on qa-{B}", "tell 0 Activate", "tell 1 Activate"]),
    "that callers had come back": (
        kept(saying(serves_one(activated_at=3.0, retired_at=2.0, replicas=1), None, None, told={"Retire": "Activate "})),
        [f"apply Service qa-preview {B}", PDB]),
    "a configuration that somebody deleted": (
        kept(replace(serves_one(replicas=1), configs={})), [f"apply Service qa-preview {B}", PDB, f"make ConfigMap qa-{B} {B}"]),
    "a configuration of what sleeps it is not": (
        kept(replace(serves_one(a_program(replicas=0), replicas=0), configs={}, pods=())), [f"apply Service qa-preview {B}", PDB]),
}  # fmt: skip


@pytest.mark.parametrize("sentence", KEPT)
def test_what_is_kept(sentence):
    found, wanted = KEPT[sentence]
    assert found == wanted


def test_callers_are_led_and_what_must_not_be_forgotten_stands_there():
    r = at(serves_one(), memory=MEMORY)
    (write,) = lead(r, r.current)
    assert word(write) == f"apply Service qa {B}"
    assert Memory.parse(write.document["metadata"]["annotations"]["despina.dev/memory"]) == MEMORY
    settled = replace(r, o=replace(r.o, objects={("Service", "qa"): write.document}))
    assert words(lead(settled, r.current)) == []


def test_the_identity_of_pods_and_what_they_know_of_tools():
    assert words(identity(at(serves_one()))) == ["apply ServiceAccount qa"]
    assert words(identity(at(serves_one(a_program(serviceAccount={"name": "mine", "create": "Disabled"}))))) == []
    assert words(identity(at(replace(serves_one(), redis_seal="key")))) == [
        "apply ServiceAccount qa", "apply Secret qa-tools", "apply ConfigMap qa-tools",
    ]  # fmt: skip
    toolbox = {("Secret", "qa-tools"): {}, ("ConfigMap", "qa-tools"): {}, ("Secret", "other"): {}}
    assert words(identity(at(replace(serves_one(), objects=toolbox)))) == [
        "apply ServiceAccount qa", "delete Secret qa-tools", "delete ConfigMap qa-tools",
    ]  # fmt: skip


# Pods


def restarts(o: Observed, breaker: BreakerStatus | None = None, asked: str | None = None, **changes: Any) -> list[str]:
    return words(restarted(at(o, **changes), breaker, {"restart": asked} if asked else {}))


OPEN = BreakerStatus(state="Open", class_="Program", reason="9 of 9")
BREAKING = a_program(breaker={})
BROKEN = saying(serves_one(BREAKING), PodState(uptime_seconds=50), PodState(uptime_seconds=50))
BB = hash_of(BREAKING, "1")
ASKS = "say Normal Restarted: The annotation despina.dev/restart asks for it"
HEALS = "say Warning Restarted: The breaker is open: 9 of 9"
ASKING = a_program({"despina.dev/restart": "x"})
RESTARTED: dict[str, tuple[list[str], list[str]]] = {
    "not without a reason": (restarts(serves_one()), []),
    "a person asks": (restarts(serves_one(ASKING), asked="x"), [f"restart qa-{B} restarted-by=x then {ASKS}"]),
    "a person asked, and it was done": (restarts(serves_one(ASKING, restarted_by="x"), asked="x"), []),
    "a person asks for another one": (restarts(serves_one(ASKING, restarted_by="w"), asked="x"), [f"restart qa-{B} restarted-by=x then {ASKS}"]),
    "a person took it back": (restarts(serves_one(restarted_by="x")), [f"note restarted-by= on qa-{B}"]),
    "not during a change": (restarts(serves_one(ASKING, "2"), asked="x"), []),
    "nothing is there": (restarts(observed(ASKING), asked="x"), []),
    "the breaker is open": (
        restarts(BROKEN, OPEN), [f"restart qa-{BB} restarts=[{NOW}] then {HEALS}"]),
    "the breaker was open before": (
        restarts(replace(BROKEN, deployments=(replace(BROKEN.deployments[0], restarts=(NOW - 4000, NOW - 100)),)), OPEN),
        [f"restart qa-{BB} restarts=[{NOW - 100}, {NOW}] then {HEALS}"]),
    "the breaker is closed": (restarts(BROKEN, BreakerStatus()), []),
    "there is no breaker": (restarts(saying(serves_one(), PodState(), PodState()), OPEN), []),
    "nobody knows": (restarts(BROKEN, None), []),
    "no pod is ready": (restarts(replace(BROKEN, pods=()), OPEN), []),
    "pods are being restarted": (
        restarts(saying(replace(BROKEN, deployments=(replace(BROKEN.deployments[0], restarts=(NOW - 100,)),)),
                        PodState(uptime_seconds=500), PodState(uptime_seconds=5)), OPEN), []),
    "a person goes before": (
        restarts(replace(BROKEN, program=a_program({"despina.dev/restart": "x"}, breaker={})), OPEN, "x"),
        [f"restart qa-{BB} restarted-by=x then {ASKS}"]),
}  # fmt: skip


@pytest.mark.parametrize("sentence", RESTARTED)
def test_pods_are_restarted(sentence):
    found, wanted = RESTARTED[sentence]
    assert found == wanted


def test_pods_that_take_no_orders_are_replaced():
    def found(*pods_say: tuple[str, str], **changes: Any) -> list[str]:
        o = loaded(**{k: v for k, v in changes.items() if k == "restarts"})
        o = replace(o, pods=tuple(replace(p, report=PodState(revision=r, uptime_seconds=50), refusal=why)
                                  for p, (r, why) in zip(o.pods, pods_say, strict=True)))  # fmt: skip
        return words(replaced(at(o, **{k: v for k, v in changes.items() if k != "restarts"})))

    done = [f"restart qa-{B} restarts=[{NOW}] then say Warning Restarted: qa-{B}-1 takes no orders: no key"]
    assert found((G, ""), (B, "no key")) == done
    assert found((G, ""), (G, "no key")) == [], "it serves what it should"
    assert found((G, ""), (B, "")) == [], "it may yet take orders"
    assert found((B, ""), (B, "no key"), restarts=(NOW - 10,)) == [], "they are being replaced"
    again = found((B, ""), (B, "no key"), restarts=(NOW - 4000, NOW - 60))
    assert again[0].startswith(f"restart qa-{B} restarts=[{NOW - 60}, {NOW}] then")
    assert found((B, ""), (B, "no key"), wanted=THREE, strategy=BESIDE) == [], "a version is on its way"
    assert found((B, ""), (B, "no key"), restarts=(NOW - 59,)) == [], "it has just been tried"
    assert found((B, ""), (B, "no key"), restarts=(NOW - 1000, NOW - 119)) == [], "each time it takes longer"
    assert found((B, ""), (B, "no key"), restarts=(NOW - 1000, NOW - 120)) != []
    assert found((B, ""), (B, "no key"), restarts=(NOW - 3000, NOW - 2000, NOW - 1000)) == [], "often enough"


def test_a_pod_that_says_it_has_just_begun_is_replaced_a_few_times_an_hour():
    """Each time is woken for, also where nothing else happens."""
    o, now, moments = loaded(ago=NOW), NOW, []
    liar = PodState(revision=B, uptime_seconds=0)
    o = replace(o, pods=tuple(replace(p, report=liar, refusal="no key") for p in o.pods))
    while now < NOW + 3700:
        r = replace(at(o), now=now)
        for action in each(tuple(replaced(r))):
            if isinstance(action, Restart):
                moments.append(now - NOW)
                done = tuple(json.loads(action.annotations["despina.dev/restarts"]))
                o = replace(o, deployments=tuple(replace(d, restarts=done) for d in o.deployments))
        now += again_after(replace(at(o), now=now), None, Gates())
    assert moments == [0, 60, 180, 3600]


def opened(before: str | None, now: str | None) -> list[str]:
    status = ProgramStatus(breaker=BreakerStatus(state=before) if before else None)
    return words(
        agreed(at(replace(serves_one(), status=status)), BreakerStatus(state=now, reason="9 of 9") if now else None)
    )


OPENED = {
    "opens": (opened("Closed", "Open"), ["say Warning BreakerOpened: 9 of 9"]),
    "opens for the first time": (opened(None, "Open"), ["say Warning BreakerOpened: 9 of 9"]),
    "is open": (opened("Open", "Open"), []),
    "opens again": (opened("HalfOpen", "Open"), []),
    "is probing": (opened("Open", "HalfOpen"), []),
    "closes": (opened("HalfOpen", "Closed"), ["say Normal BreakerClosed: Requests are executed again"]),
    "is closed": (opened("Closed", "Closed"), []),
    "was never anything else": (opened(None, "Closed"), []),
    "is none": (opened("Open", None), []),
}


@pytest.mark.parametrize("sentence", OPENED)
def test_what_is_said_when_a_breaker(sentence):
    found, wanted = OPENED[sentence]
    assert found == wanted


def test_all_pods_breakers_are_made_to_agree():
    report = PodState(revision=B, breakers=(BreakerReport(),), uptime_seconds=500)
    breaker = BreakerStatus(state="Open", since=timestamp(NOW - 5))
    told = words(agreed(at(saying(serves_one(), report, report)), breaker))[1:]
    assert told == [f"tell {n} OpenBreaker {breaker.since}" for n in (0, 1)]


def test_caches_are_emptied_once_for_each_value():
    def told(value: str, **pod: Any) -> list[str]:
        program = a_program({"despina.dev/invalidate-cache": value})
        return words(forgotten(at(saying(serves_one(program), None, None, **pod))))

    assert told("now") == ["tell 0 Invalidate now", "tell 1 Invalidate now"]
    assert told("now", told={"Invalidate": "Invalidate now"}) == []
    assert told("now", told={"Invalidate": "Invalidate then"}) != []
    assert told("now", ready=False) == told("now", ending=True) == told("") == []
    assert told("x" * 300)[0] == f"tell 0 Invalidate {'x' * 253}"
    assert words(forgotten(at(serves_one()))) == []


def test_pods_are_brought_to_serve_what_their_deployment_says():
    def told(o: Observed, *reports: PodState | None) -> list[str]:
        return words(converged(at(saying(o, *reports))))

    assert told(loaded(), holding(G), holding(G)) == []
    assert told(loaded(), holding(B), None) == [f"tell 0 Prepare {G}"]
    assert told(loaded(), holding(B, G), holding(G)) == [f"tell 0 Commit {G}"]
    assert told(serves_one(), holding(G, G), holding(B)) == [f"tell 0 Prepare {B}"], "its generation was deleted"
    assert told(serves_one(), holding(G, B), holding(B)) == [f"tell 0 Commit {B}"]
    assert told(serves_one(config=None), holding(G, G), holding(B)) == []
    config = next(converged(at(saying(loaded(), holding(B), None)))).config
    assert config.revision == G


# The order of a pass


def passed(o: Observed, step: Any, gates: Gates = Gates(), **changes: Any) -> list[str]:  # noqa: B008
    return [w.partition(" ")[0] + " " + w.split()[1] for w in words(all_steps(at(o, **changes), step, gates, None, {}))]


def test_callers_come_first():
    o = with_two(serves_one(target="2", replicas=2))
    assert passed(o, "Promote", strategy=BESIDE) == [
        "apply Service",
        "apply ServiceAccount",
        "apply Service",
    ]
    assert passed(o, "Prepare", strategy=BESIDE, memory=MEMORY)[:3] == [
        "apply Service",
        "apply ServiceAccount",
        "apply Service",
    ]
    assert passed(observed(P, None), None) == []


@pytest.mark.parametrize("step", ["Paused", "Refused", "Suspended"])
def test_nothing_is_prepared_while_a_change_is_held_up(step):
    o = serves_one(target="2", replicas=1)
    assert "make ConfigMap" in passed(o, "Prepare", strategy=BESIDE)
    assert "make ConfigMap" not in passed(o, step, strategy=BESIDE)


def test_mirroring_goes_on_while_its_gate_runs():
    o = saying(serves_one(), PodState(revision=B, shadow=ShadowReport(revision="x")), None)
    running = GateStatus(name="g", type="Shadow", result="Running", started_at="t")
    other = running.model_copy(update={"type": "Smoke"})
    assert "tell 0" in passed(o, None)
    assert "tell 0" in passed(o, "Gate", Gates((other,)))
    assert "tell 0" not in passed(o, "Gate", Gates((running,)))


# Where a change stands, and when to look again

MANUAL = {"rollout": {"blueGreen": {"autoPromotion": "Disabled"}}}
BACK = {"rollout": {"blueGreen": {"autoPromotion": "Disabled"}, "rollbackTo": 2}}
RUNNING = Gates((GateStatus(name="g", type="Smoke", result="Running", started_at="t"),))
PASSED = Gates((GateStatus(name="g", type="Smoke", result="Passed", started_at="t"),))


def ready(program: Any = P, **view: Any) -> Observed:
    return replace(with_two(serves_one(program, "2", replicas=1), **view), preview_ready={G: 1})


def stands(o: Observed, gates: Gates = Gates(), asked: str | None = None, **changes: Any) -> str | None:  # noqa: B008
    return step_of(at(o, **{"strategy": BESIDE, **changes}), gates, {"promote": asked} if asked else {})


def promoted(ago: float) -> Memory:
    return Memory(serial=1, promotion=Promotion(revision=B, at=repr(NOW - ago)))


WARM = with_two(serves_one(), activated_at=1.0, retired_at=2.0)
LISTED = (Quarantined(version="1", reason="R", at="t"),)
STANDS: dict[str, tuple[str | None, str | None]] = {
    "at rest": (stands(serves_one()), None),
    "being prepared": (stands(serves_one(target="2")), "Prepare"),
    "ready": (stands(ready()), "Promote"),
    "ready, with its gates passed": (stands(ready(), PASSED), "Promote"),
    "at a gate": (stands(ready(), RUNNING), "Gate"),
    "paused": (stands(ready(a_program(rollout={"state": "Paused"})), RUNNING), "Paused"),
    "refused at its gates": (stands(ready(), Gates(refusal="why")), "Refused"),
    "refused before it is prepared": (stands(serves_one(target="2"), Gates(refusal="why")), "Refused"),
    "refused, though a person named it": (stands(ready(a_program(**MANUAL)), Gates(refusal="why"), asked=G), "Refused"),
    "refused before what serves would end": (stands(serves_one(target="2"), Gates(refusal="why"), strategy=INSTEAD), "Refused"),
    "paused, and without pods": (stands(ready(a_program(replicas=0, rollout={"state": "Paused"}))), "Suspended"),
    "waiting for a person": (stands(ready(a_program(**MANUAL))), "AwaitPromotion"),
    "waiting for a person who named another": (stands(ready(a_program(**MANUAL)), asked=B), "AwaitPromotion"),
    "named by a person": (stands(ready(a_program(**MANUAL)), asked=G), "Promote"),
    "pinned by a person, and it served before": (stands(ready(a_program(**BACK), activated_at=1.0)), "Promote"),
    "pinned by a person, and it never served": (stands(ready(a_program(**BACK))), "AwaitPromotion"),
    "served before, but nobody pinned it": (stands(ready(a_program(**MANUAL), activated_at=1.0)), "AwaitPromotion"),
    "watched": (stands(WARM, before=promoted(100), strategy=None), "Watch"),
    "watched no more": (stands(WARM, before=promoted(300), strategy=None), None),
    "being left": (stands(WARM, before=promoted(100), entries=LISTED, strategy=None), None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", STANDS)
def test_where_a_change_stands(sentence):
    found, wanted = STANDS[sentence]
    assert found == wanted


def again(o: Observed, step: Any = None, **changes: Any) -> float | None:
    return again_after(at(o, **changes), step, Gates())


def breaker_was(state: str, program: Any = BREAKING) -> Observed:
    return replace(serves_one(program), status=ProgramStatus(breaker=BreakerStatus(state=state)))


AGAIN: dict[str, tuple[float | None, float | None]] = {
    "at rest": (again(serves_one()), None),
    "at a gate": (again(serves_one(), "Gate"), 1.0),
    "while watching": (again(serves_one(), "Watch"), 1.0),
    "when silent pods are not waited for any more": (again(serves_one(target="2"), "Prepare", clock=Clock(5.0)), 15.0),
    "when room is not waited for any more": (again(serves_one(target="2"), "Prepare", clock=Clock(100.0)), 200.0),
    "at the deadline for becoming ready": (again(serves_one(target="2"), "Prepare", clock=Clock(400.0)), 200.0),
    "just past that deadline": (again(serves_one(target="2"), "Prepare", clock=Clock(600.0)), 1.0),
    "while waiting for a person": (again(serves_one(target="2"), "AwaitPromotion", clock=Clock(100.0)), None),
    "when warm pods may go": (again(with_two(serves_one(), activated_at=1.0, retired_at=NOW - 290)), 10.0),
    "not when they should have gone": (again(with_two(serves_one(), activated_at=1.0, retired_at=NOW - 900)), None),
    "not for pods that are gone": (again(with_two(serves_one(), activated_at=1.0, retired_at=NOW - 290, replicas=0)), None),
    "not for pods that callers have not left": (again(with_two(serves_one(), activated_at=1.0)), None),
    "when memory may be freed": (again(loaded(ago=290)), 10.0),
    "at the first of several": (again(with_two(loaded(ago=290), activated_at=1.0, retired_at=NOW - 295)), 5.0),
    "while a breaker is open": (again(breaker_was("Open")), 1.0),
    "not while it is closed": (again(breaker_was("Closed")), None),
    "not for a breaker that the manifest took out": (again(breaker_was("Open", P)), None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", AGAIN)
def test_when_to_look_again(sentence):
    found, wanted = AGAIN[sentence]
    assert found == wanted


def known(o: Observed) -> Observed:
    """Its pods were heard before."""
    return replace(o, pods=tuple(replace(p, was_heard=True) for p in o.pods))


def heard(o: Observed, step: Any = None, **changes: Any) -> float | None:
    return listen_of(at(o, **changes), step)


BEING_SWAPPED = serves_one(target="2")
SAY_TWO = saying(loaded(), holding(G), holding(G))
LISTENS: dict[str, tuple[float | None, float | None]] = {
    "nothing depends on it": (heard(known(serves_one())), None),
    "a swap is being prepared": (heard(BEING_SWAPPED, "Prepare", strategy=HOT), 0.15),
    "a swap is being made": (heard(BEING_SWAPPED, "Promote", strategy=HOT), 0.15),
    "a swap waits": (heard(BEING_SWAPPED, "AwaitPromotion", strategy=HOT), 0.5),
    "new pods are being prepared": (heard(BEING_SWAPPED, "Prepare", strategy=BESIDE), 0.5),
    "a gate is at work": (heard(serves_one(), "Gate"), 0.5),
    "a version is watched": (heard(serves_one(), "Watch"), 0.5),
    "a version waits for a person": (heard(serves_one(), "AwaitPromotion"), 0.5),
    "there is a breaker": (heard(serves_one(BREAKING)), 0.5),
    "pods were changed": (heard(SAY_TWO), 5.0),
    "pods hold more than they should": (heard(saying(serves_one(), holding(B, B, G), None)), 0.5),
    "pods were changed, and one has not said so": (heard(saying(loaded(), holding(G), holding(B))), 0.15),
    "pods were changed, and are asleep": (heard(replace(loaded(replicas=0), pods=())), None),
    "pods were never heard": (heard(serves_one()), 5.0),
    "pods were never heard, and end": (
        heard(replace(serves_one(), pods=tuple(replace(p, ending=True) for p in serves_one().pods))),
        None,
    ),
    "pods say now that they hold what they should": (heard(saying(serves_one(), holding(B), holding(B))), None),
    "one of two was heard before": (
        heard(replace(serves_one(), pods=(*known(serves_one()).pods[:1], *serves_one().pods[1:]))),
        5.0,
    ),
    "pods were told to load": (heard(saying(serves_one(), None, None, told={"Prepare": "Prepare x"})), 0.5),
}


@pytest.mark.parametrize("sentence", LISTENS)
def test_how_often_pods_are_listened_to(sentence):
    found, wanted = LISTENS[sentence]
    assert found == wanted

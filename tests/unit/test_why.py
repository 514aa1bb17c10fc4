"""What `despina why` says, case by case, in parts of its sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from despina.api.conditions import Reason
from despina.api.status import ProgramStatus
from despina.decide.observed import JobView, Observed, Resolution, Trouble
from despina.decide.plan import StrategyName
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.desired.evaluation import evaluation_name
from despina.status.why import ORDERS, WAYS, duration, explain
from despina.wire import BreakerReport, Counts, Failure, FailureReason, HeldRevision, OrderName, PodState
from tests.support.gen import a_deployment, a_program, a_tool, found, hash_of, observed, pods, serving

NOW = 5000.0
NO_NODE = Trouble(Reason.UNSCHEDULABLE, "0/3 nodes are available")
BOOM = Failure(reason=FailureReason.LOAD_FAILED, message="boom\x1b[2J\nat line 3.")
SCORE = {
    "name": "score", "type": "Evaluate", "timeoutSeconds": 360,
    "evaluate": {"datasetRef": {"configMap": {"name": "heldout", "key": "x"}}},
}  # fmt: skip

ASKED = {"name": "ask", "type": "Smoke", "smoke": {"inputs": {}}}


def why(o: Observed, now: float = NOW) -> str:
    return "\n".join(explain(o, decide(o, now), now))


def rollout(program: Any, version: str, since: float, **fields: Any) -> dict[str, Any]:
    began = timestamp(NOW - since)
    start = {"id": hash_of(program, version), "strategy": "BlueGreen", "step": "Prepare"}
    return {"rollout": {**start, "startedAt": began, "since": began, **fields}}


def status(**fields: Any) -> ProgramStatus:
    return ProgramStatus.model_validate({"observedGeneration": 1, "serial": 1, **fields})


def refused(message: str) -> ProgramStatus:
    """The last pass could not write something."""
    condition = {"type": "Reconciled", "status": "False", "reason": "Rejected", "message": message}
    return status(conditions=[{**condition, "lastTransitionTime": timestamp(NOW)}])


def served(version: str) -> dict[str, str]:
    revision = hash_of(P, version)
    return {"revision": revision, "version": version, "deployment": f"qa-{revision}"}


def at_rest(program: Any, version: str = "1", **fields: Any) -> Observed:
    """A program whose objects are all as they should be."""
    o = observed(program, version, status=status(), **{**serving(program, "1", 2), **fields})
    for _ in range(2):
        made = {
            (d["kind"], d["metadata"]["name"]): d for a in decide(o, NOW).actions if (d := getattr(a, "document", None))
        }
        o = replace(o, objects={**o.objects, **made})
    return o


def blue_green(
    new_pods: tuple[Any, ...] = (), since: float = 0.0, annotations: dict[str, str] | None = None, **spec: Any
) -> Observed:
    program = a_program(annotations, replicas=2, **{"rollout": {"strategy": "BlueGreen"}, **spec})
    o = observed(program, "2", **serving(program, "1", 2))
    fields = {"replicas": 2} if new_pods else {}
    o = replace(o, deployments=(*o.deployments, a_deployment(program, "2", **fields)), pods=(*o.pods, *new_pods))
    return replace(o, status=status(**rollout(program, "2", since)))


def ready(o: Observed) -> Observed:
    """Its candidate's pods stand ready in the network."""
    new = pods(o.program, "2", 2, ready=True)
    return replace(o, pods=(*o.pods, *new), preview_ready={hash_of(o.program, "2"): 2})


def at_gate(since: float) -> Observed:
    o = ready(blue_green((), since, rollout={"strategy": "BlueGreen", "gates": [SCORE]}))
    (gate,) = o.program.spec.rollout.gates
    name = evaluation_name(o.program, gate, hash_of(o.program, "2"), timestamp(NOW - since), False)
    began = timestamp(NOW - since)
    entry = {"name": "score", "type": "Evaluate", "result": "Running", "startedAt": began, "since": began}
    return replace(
        o,
        status=status(**rollout(o.program, "2", since, gates=[entry])),
        jobs=(JobView(name, progress="120 of 300 examples"),),
    )


def before_it(o: Observed) -> Observed:
    """Somebody puts another gate before the one where it stands."""
    first = {"name": "first", "type": "Smoke", "smoke": {"inputs": {}}}
    program = a_program(replicas=2, rollout={"strategy": "BlueGreen", "gates": [first, SCORE]})
    held = PodState(held={hash_of(program, "2"): HeldRevision(phase="Ready")})
    return replace(o, program=program, pods=tuple(replace(p, report=held) for p in o.pods))


def watched(answered: int, failed: int = 0, **post: Any) -> Observed:
    program = a_program(replicas=2, rollout={"postPromotion": {"watchSeconds": 300, **post}})
    promotion = {"revision": hash_of(program, "2"), "at": repr(NOW - 120), "base": {"ok": 7, "program": 50}}
    o = observed(program, "2", status=status(promotion=promotion), **serving(program, "2", 2))
    said = PodState(counts={hash_of(program, "2"): Counts(ok=7 + answered, program=50 + failed)})
    new = a_deployment(program, "2", replicas=2, activated_at=NOW - 120)
    old = a_deployment(program, "1", replicas=2, activated_at=1.0, retired_at=NOW - 120)
    here = (replace(o.pods[0], report=said), o.pods[1], *pods(program, "1", 2, ready=True))
    return replace(o, deployments=(new, old), pods=here)


def in_memory(*reports: PodState | None) -> Observed:
    """A hot swap, and what the pods that run say of it."""
    program = a_program(replicas=2, rollout={"strategy": "HotSwap"})
    o = observed(program, "2", **serving(program, "1", 2))
    return replace(o, pods=tuple(replace(p, report=r) for p, r in zip(o.pods, reports, strict=True)))


def remarked(o: Observed) -> Observed:
    """All of the candidate's pods say something of it, though they hold it."""
    saying = HeldRevision(phase="Ready", remark="WarmupInconclusive: ValueError: 7")
    return replace(o, pods=tuple(replace(p, report=PodState(held={p.revision: saying})) for p in o.pods))


def held(program: Any, phase: str) -> PodState:
    return PodState(held={hash_of(program, "2"): HeldRevision(phase=phase)})


def quarantined(revision: str | None = None, also: str | None = None, **fields: Any) -> ProgramStatus:
    """Version 2 is; and so may a revision of version 1 be."""
    entry = {"version": "2", "reason": "LoadFailed", "message": "boom", "at": timestamp(NOW), "revision": revision}
    more = [entry | {"version": "1", "revision": also}] if also else []
    return status(serial=99, model={"quarantined": [entry, *more]}, **fields)


def open_breaker() -> Observed:
    o = at_rest(a_program(replicas=2, breaker={"onOpen": ["Restart", "Shed"], "restart": {"maxPerHour": 3}}))
    said = PodState(
        revision=o.serving, breakers=(BreakerReport(state="Open", age_seconds=60.0, window={"Program": 30}),)
    )
    breaker = {
        "revision": o.serving,
        "state": "Open",
        "class": "Program",
        "reason": "30 of 30 requests failed",
        "since": timestamp(NOW - 60),
    }
    return replace(o, pods=tuple(replace(p, report=said) for p in o.pods), status=status(breaker=breaker))


P = a_program(replicas=2)
H = a_program(replicas=2, rollout={"strategy": "HotSwap"})
MANUAL = {"strategy": "BlueGreen", "blueGreen": {"autoPromotion": "Disabled"}}
CASES: dict[str, tuple[Observed, list[str]]] = {
    "nothing is to do": (
        at_rest(P),
        ["Nothing to do: callers reach version 1, for which the alias 'champion' of model 'qa' stands; 2 of 2 pods are ready."],
    ),
    "nothing is to do for a version that is pinned": (
        at_rest(a_program(replicas=2, source={"mlflow": {"model": "qa", "version": 1}})),
        ["Nothing to do: callers reach version 1, which spec.source.mlflow.version names; "],
    ),
    "a program that is new": (
        observed(P),
        [
            "Callers reach nothing: there is no Service that sends them anywhere.",
            "The operator lags behind the manifest: it has said nothing of this program. Is it running?",
            "  - writes Service qa, which sends callers to version 1",
            "The operator looks again when something changes, and asks MLflow every 60 s.",
        ],
    ),
    "a program that is new, on no server": (
        replace(observed(P), model=Resolution(None, Reason.NO_TRACKING_URI, "spec.source.mlflow.trackingURI is not set")),
        ["MLflow says no, NoTrackingURI: spec.source.mlflow.trackingURI is not set.\nThe operator looks again when something changes."],
    ),
    "a first version whose Deployment was refused": (
        observed(P, active="1", status=refused("POST deployments: exceeded quota")),
        [
            f"Nothing serves yet: the Deployment of revision {hash_of(P, '1')} has not been made.\n"
            "The last pass did not get through, Rejected: POST deployments: exceeded quota.\n"
            "Asked for is version 1, for which",
        ],
    ),
    "what served, and was deleted": (
        observed(P, active="1", status=status(active=served("1"))),
        [f"The Service sends callers to revision {hash_of(P, '1')}, and its Deployment is gone."],
    ),
    "a first version that is starting": (
        observed(P, active="1", deployments=(a_deployment(P, "1", replicas=2),), pods=pods(P, "1", 2)),
        [
            "Nothing serves yet: of version 1, 0 of 2 pods are ready.",
            "Version 1 has no deadline: its pods try again until they are ready.",
        ],
    ),
    "a first version that callers have just reached": (
        observed(P, active="1", deployments=(a_deployment(P, "1"),), pods=pods(P, "1", ready=True)),
        ["Callers reach version 1; 1 of 1 pod is ready."],
    ),
    "a first version whose pods cannot start": (
        at_rest(P, pods=pods(P, "1", 5, failure=BOOM)),
        [
            "Callers reach version 1; 0 of 2 pods are ready.",
            f"Pod qa-{hash_of(P, '1')}-0 is not ready: LoadFailed: boom [2J at line 3.\n",
            "And 2 more pods are not ready.",
        ],
    ),
    "a first version whose pods are refused": (
        observed(P, active="1", deployments=(a_deployment(P, "1", trouble=Trouble(Reason.PODS_REFUSED, "exceeded quota")),)),
        ["No more pods are made, PodsRefused: exceeded quota.\n"],
    ),
    "an edit that the operator has not seen": (
        replace(at_rest(P), program=P.model_copy(update={"generation": 4})),
        ["The operator lags behind the manifest: it has acted on generation 1, and this is 4. Is it running?"],
    ),
    "a spec that cannot be carried out": (
        at_rest(a_program(replicas=2, placement={"profile": "moon"})),
        ["The spec cannot be carried out, UnknownProfile: spec.placement.profile: 'moon' is not one of default."],
    ),
    "MLflow is silent": (
        replace(at_rest(P), model=Resolution(None, Reason.REGISTRY_UNREACHABLE, "http://mlflow: ConnectError")),
        ["MLflow gives no answer, so what was known of it goes on (RegistryUnreachable: http://mlflow: ConnectError)."],
    ),
    "MLflow was always silent": (
        replace(observed(P), model=found(None)),
        ["MLflow gives no answer, so nothing can begin until it does (RegistryUnreachable)."],
    ),
    "an alias that is not there": (
        replace(at_rest(P), model=Resolution(None, Reason.ALIAS_NOT_FOUND, "model 'qa' has no alias 'champion'")),
        ["MLflow says no, AliasNotFound: model 'qa' has no alias 'champion'."],
    ),
    "a program that is suspended": (
        at_rest(a_program(suspend=True), deployments=(a_deployment(P, "1", replicas=0, activated_at=1.0),), pods=()),
        ["Callers reach nobody: version 1 has no pods, since spec.suspend is true."],
    ),
    "new pods that no node takes": (
        blue_green((*pods(P, "2", 1, trouble=NO_NODE),), since=188.0, rollout={"strategy": "BlueGreen"}),
        [
            "Version 2 comes blue/green, in pods of its own: spec.rollout.strategy.",
            "It waits for 2 of 2 new pods to be ready; given up in 412 s.",
        ],
    ),
    "new pods that the network does not know yet": (
        replace(ready(blue_green()), preview_ready={}),
        ["It waits for its pods to be known to the network: 0 of 2 stand in the preview Service's endpoints; given up in 10 min."],
    ),
    "pods that take a version in": (
        in_memory(held(H, "Preparing"), None),
        [
            f"It waits for 2 of 2 pods to take it in (pod qa-{hash_of(H, '1')}-0 is loading it; "
            f"pod qa-{hash_of(H, '1')}-1 has not been heard); given up in 10 min.",
        ],
    ),
    "pods that have taken it in, one of which lacks a worker": (
        in_memory(held(H, "Ready"), held(H, "Ready").model_copy(update={"workers": 1, "wanted_workers": 2})),
        [f"It waits for all workers of pod qa-{hash_of(H, '1')}-1 to run; given up in 10 min."],
    ),
    "a gate that takes its time": (
        at_gate(120.0),
        ["It stands at gate score (Evaluate): 120 of 300 examples; 240 s left."],
    ),
    "a gate behind which another one is under way": (
        before_it(at_gate(120.0)),
        [f"It stands at gate first (Smoke): asked; {duration(300)} left.\nThe next pass:"],
    ),
    "a version that waits for a person": (
        ready(blue_green(rollout=MANUAL)),
        ["It is ready and waits for a person: kubectl annotate dspy qa -n ns --overwrite despina.dev/promote="],
    ),
    "a version of which its pods remark something": (
        remarked(ready(blue_green(rollout=MANUAL))),
        ["Of version 2 its pods say: WarmupInconclusive: ValueError: 7.", "It is ready and waits for a person"],
    ),
    "a person's word that names no revision": (
        ready(blue_green(rollout=MANUAL, annotations={"despina.dev/promote": "2"})),
        [
            f"The annotation despina.dev/promote names 2, which does not wait: the candidate is {hash_of(P, '2')}.\n"
            "It is ready and waits for a person: kubectl annotate dspy qa -n ns --overwrite despina.dev/promote=",
        ],
    ),
    "a change that is held up": (
        blue_green(rollout={"strategy": "BlueGreen", "state": "Paused"}),
        ["It is held up until spec.rollout.state is Active."],
    ),
    "gates that would do what they may not": (
        replace(
            blue_green(
                rollout={"strategy": "BlueGreen", "gates": [ASKED]}, tools=[{"name": "mine", "ref": {"name": "once"}}]
            ),
            tools=(a_tool("once"),),
        ),
        ["It waits for a change of the manifest, GateHasSideEffects: spec.rollout.gates[ask].smoke.tools: the gate would"],
    ),
    "a version that callers are about to be sent to": (
        ready(blue_green()),
        ["It is ready, and the next pass sends callers there.", "  - writes Service qa, which sends callers to version 2"],
    ),
    "a version that is watched, with few requests": (
        watched(12),
        [
            "Version 2 is watched for 180 s more: 12 of 20 requests so far.",
            "Version 1 stays warm for 180 s more: going back there is one write.",
        ],
    ),
    "a version that is watched and does well": (
        watched(99, 1),
        ["Version 2 is watched for 180 s more: 100 requests, 1.0 % failed, 10 % may."],
    ),
    "a version that errs and is taken back": (
        watched(10, 90),
        ["Version 2 is taken back, WatchFailed at ", "  - writes Service qa, which sends callers to version 1"],
    ),
    "a version that errs where nothing shall be done": (
        watched(10, 90, action="None"),
        ["What callers reach does badly: 90.0 % of 100 requests failed, 0.0 % before; at most 10 %. Nothing is done, "],
    ),
    "a version in quarantine": (
        replace(at_rest(P), model=found("2"), status=quarantined()),
        [
            "Version 2 is not tried, LoadFailed at 1970-01-01T01:23:20Z: boom.",
            "To have it tried again, move the alias elsewhere and back, or: "
            "kubectl annotate dspy qa -n ns --overwrite despina.dev/retry=2.",
        ],
    ),
    "a version in quarantine that the manifest names": (
        replace(at_rest(a_program(rollout={"rollbackTo": 2}, replicas=2)), model=found("2"), status=quarantined()),
        ["To have it tried again, pin another version and this one again, or: kubectl annotate"],
    ),
    "a spec in quarantine": (
        replace(at_rest(P), model=found("2"), status=quarantined(hash_of(P, "2"))),
        ["To have it tried again, edit the spec, or: kubectl annotate"],
    ),
    "a version in quarantine, tried again before": (
        replace(
            at_rest(a_program({"despina.dev/retry": "2"}, replicas=2)),
            model=found("2"),
            status=quarantined(handled={"retry": "2"}),
        ),
        [
            "To have it tried again, move the alias elsewhere and back, or: "
            "despina.dev/retry=2 was acted on once; take it away (kubectl annotate dspy qa -n ns despina.dev/retry-) and "
            "set it again.",
        ],
    ),
    "a version that failed, and a spec with which the other one fails, too": (
        replace(at_rest(P), model=found("2"), status=quarantined(also=hash_of(P, "1"))),
        [
            "Version 2 is not tried, LoadFailed at",
            "Version 1 is not tried with the present spec, LoadFailed at",
            "To have it tried again, edit the spec, or: kubectl annotate",
        ],
    ),
    "a Service that somebody deleted": (
        replace(at_rest(P), active=None, objects={k: v for k, v in at_rest(P).objects.items() if k != ("Service", "qa")}),
        [
            "Callers reach nobody, since the Service does not lead to version 1 any more; 2 of 2 pods are ready.",
            "  - writes Service qa, which sends callers to version 1",
        ],
    ),
    "a release while no pods run": (
        at_rest(a_program(suspend=True), "2", deployments=(a_deployment(P, "1", replicas=0, activated_at=1.0),), pods=()),
        ["Asked for is version 2, for which", "Nothing is prepared while the program runs no pods."],
    ),
    "a breaker that is open": (
        open_breaker(),
        [
            "The breaker is open since 1970-01-01T01:22:20Z, 60 s: 30 of 30 requests failed.",
            "It has caused 0 of 3 restarts within the last hour; only the program's own failures cause one.",
            "  - restarts the pods of Deployment",
        ],
    ),
    "a write that was refused": (
        replace(
            at_rest(P),
            status=refused("PATCH service: quota"),
        ),
        ["The last pass did not get through, Rejected: PATCH service: quota."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_what_is_said(sentence):
    o, parts = CASES[sentence]
    text = why(o)
    for part in parts:
        assert f"\n{part}" in f"\n{text}", text


def back_to_what_is_warm() -> Observed:
    """The version before is asked for again, and held up."""
    o = watched(99)
    program = a_program(replicas=2, rollout={"state": "Paused"})
    return replace(o, program=program, model=found("1"))


def edited(at: float) -> Observed:
    """Callers reach version 1 as the spec is now; before, it was another."""
    before = a_program(replicas=2, lms=[{"name": "main", "model": "openai/other"}])
    o, old = at_rest(P), a_deployment(before, "1", replicas=2, activated_at=1.0, retired_at=at)
    return replace(o, deployments=(*o.deployments, old), pods=(*o.pods, *pods(before, "1", 2, ready=True)))


WARM = {
    "it serves, with another spec": edited(NOW - 120),
    "it waits to be reached again": back_to_what_is_warm(),
    "its time is over": replace(
        watched(12), program=a_program(replicas=2, rollout={"blueGreen": {"scaleDownDelaySeconds": 120}})
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", WARM)
def test_a_version_is_not_said_to_stay_warm_where(sentence):
    assert "stays warm" not in why(WARM[sentence])


@pytest.mark.parametrize("sentence", [s for s in CASES if s.startswith("nothing is to do")])
def test_nothing_to_do_is_one_line(sentence):
    assert len(why(CASES[sentence][0]).splitlines()) == 1


@pytest.mark.parametrize("sentence", CASES)
def test_every_line_can_be_read_on_a_terminal(sentence):
    for line in why(CASES[sentence][0]).splitlines():
        assert line.isprintable()
        assert "  " not in line.removeprefix("  - ")
        assert line.startswith("  - ") or (line[0].isupper() and line[-1] in ".:?" and not line.endswith(".."))


def test_there_are_words_for_every_order_and_every_strategy():
    assert ORDERS.keys() == set(get_args(OrderName))
    assert WAYS.keys() == set(get_args(StrategyName))


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (0.4, "0 s"), (412, "412 s"), (601, "10 min"), (7199, "120 min"), (7200, "2 h")]
)
def test_times_are_precise_while_they_are_short(seconds, text):
    assert duration(seconds) == text

"""What must hold once everything has come to rest: what is asked for serves, or a condition says why not."""

from __future__ import annotations

from typing import Any

from despina.api.revision import revision_of
from despina.desired.labels import ACTIVATED_AT, PROMOTE, RESTART
from tests.support.simulator import nature
from tests.support.simulator.api import STATUS
from tests.support.simulator.operator import NAME
from tests.support.simulator.truth import wanted_none
from tests.support.simulator.world import World, asked, is_asked

ENDED = ("Succeeded", "Failed")
ROUNDS = 200
LONG = 4000.0
DULL = 20
"""After so many rounds of which only the status has news, time goes faster."""


def settle(world: World) -> None:
    """Let everything run its course until nothing changes any more, however long one waits."""
    quiet, step, dull = 0.0, 1.0, 0
    for _ in range(ROUNDS):
        before, written = _facts(world), len(world.api.writes)
        world.play()
        if world.truth.violations:
            return
        if _facts(world) != before:
            is_dull = all(kind == STATUS for _, kind, _ in world.api.writes[written:])
            quiet, step, dull = 0.0, 1.0, dull + 1 if is_dull else 0
            world.now += 30 if dull > DULL else 0
            continue
        if quiet >= LONG:
            return
        waits = world.operators[0].waits
        pause = LONG if waits is None else max(waits, step)
        world.now, quiet, step = world.now + pause, quiet + pause, 3 * step
    world.truth.check(False, f"it does not come to rest: {world.api.writes[-6:]}")


def _facts(world: World) -> Any:
    held = {name: (r.config.revision, *r.held) for name, r in world.runtimes.items()}
    deployments = [(n, d["metadata"]["resourceVersion"]) for n, d in world.api.of("Deployment").items()]
    return (
        len(world.api.writes),
        held,
        deployments,
        world.evaluated.copy(),
        [p for p, d in world.api.of("Pod").items() if nature.is_ready(d)],
    )


def check_rest(world: World) -> None:
    """All of it."""
    for check in (_status, _serving, _edits, _size, _pods, _asked_restart, _leftovers):
        check(world)
    world.loop.rest()


def condition(world: World, kind: str) -> tuple[str, str]:
    known = world.status.get("conditions", [])  # somebody may have damaged it
    found = next((c for c in known if isinstance(c, dict) and c.get("type") == kind), {})
    return found.get("status", ""), found.get("reason", "")


def _status(world: World) -> None:
    reached, active = world.reached, world.status.get("active") or {}
    if reached is None and (wanted_none(world.program.spec) or not _is_anything_known(world)):
        return  # the record of what served stays
    world.truth.check(
        active.get("revision") == reached, f"callers reach {reached}, the status says {active.get('revision')}"
    )


def _is_anything_known(world: World) -> bool:
    """Whether there is a version that could run. Of a first one that callers reached no pass may know that they did."""
    notes = [d["metadata"].get("annotations", {}) for d in world.api.of("Deployment").values()]
    has_served = "active" in world.status or any(ACTIVATED_AT in each for each in notes)
    return asked(world) is not None or (has_served and bool(world.truth.runnable()))


def _serving(world: World) -> None:
    truth, model, reached = world.truth, asked(world), world.reached
    said, is_there = condition(world, "UpToDate"), is_asked(world, reached)
    if model is not None and is_there and not truth.is_convicted(reached or ""):
        truth.check(said[0] == "True" or wanted_none(world.program.spec), f"what is asked for serves; UpToDate={said}")
    elif model is not None and not is_there and not (reached is None and wanted_none(world.program.spec)):
        wanted = revision_of(world.program, model).hash
        why = _why_not(world, wanted, said[1])
        truth.check(
            why is None and said[0] != "True", f"{wanted} is asked for, {reached} serves: UpToDate={said}: {why}"
        )
    if reached and truth.is_convicted(reached):
        others = [r for r in truth.runnable() if not truth.is_convicted(r)]
        truth.check(not others, f"quarantined {reached} is reached for good though {others} served")
    if _is_anything_known(world):
        truth.check(reached is not None or wanted_none(world.program.spec), "callers reach nothing")


def _why_not(world: World, wanted: str, reason: str) -> str | None:
    """What is wrong with the reason that a condition gives for not serving what is asked for; None if nothing is."""
    spec = world.program.spec
    setting = world.truth.settings.get(PROMOTE)
    is_promoted = setting is not None and setting.value == wanted and not (setting.is_used or setting.is_uncertain)
    is_true = {
        "VersionQuarantined": bool(world.truth.entries),
        "AwaitingPromotion": spec.rollout.blue_green.auto_promotion == "Disabled" and not is_promoted,
        "Paused": spec.rollout.state == "Paused",
        "Suspended": wanted_none(spec),
    }
    return None if is_true.get(reason) else f"that is no reason (state {spec.rollout.state}, size {spec.replicas})"


def _edits(world: World) -> None:
    """The manifest as it is now is in effect."""
    truth, reached = world.truth, world.reached
    config = truth.configs.get(reached or "")
    status, reason = condition(world, "UpToDate")
    rollout = world.status.get("rollout") or {}
    is_told = status != "True" and (reason in ("Paused", "AwaitingPromotion") or asked(world) is None)
    is_told |= (
        rollout.get("step") in ("Paused", "AwaitPromotion")
        and rollout.get("id") == revision_of(world.program, config.model).hash
        if config
        else False
    )
    if config is None or wanted_none(world.program.spec) or is_told:
        return
    meant = revision_of(world.program, config.model).hash
    failed = any(
        e.get("revision") in (meant, None) and e["version"] == config.model.version for e in truth.entries.values()
    )
    truth.check(meant == reached or failed, f"the manifest was edited ({meant}), and {reached} serves as before")


def _size(world: World) -> None:
    spec, truth = world.program.spec, world.truth
    deployment = world.deployment_of(world.active)
    size = deployment["spec"].get("replicas", 1) if deployment else 0
    if wanted_none(spec):
        running = sorted(name for name, pod in world.api.of("Pod").items() if pod["status"]["phase"] not in ENDED)
        truth.check(not running, f"nothing shall run, but {running} do")
    elif deployment:
        least, most = (
            (spec.autoscaling.min_replicas, spec.autoscaling.max_replicas) if spec.autoscaling else (spec.replicas,) * 2
        )
        truth.check(least <= size <= most, f"{size} pods, not {least} to {most}")
        config = truth.configs.get(world.reached or "")
        is_able = config is not None and not world.nature_of(config.model).broken
        truth.check(
            world.ready(world.active) == size or not is_able, f"{world.ready(world.active)} of {size} pods are ready"
        )
        truth.check(
            (condition(world, "Available")[0] == "True") == (world.ready(world.active) > 0), "Available is wrong"
        )


def _pods(world: World) -> None:
    for pod in world.pods_of(world.active):
        runtime = world.runtimes.get(pod["metadata"]["name"])
        if runtime is None or not runtime.trusts(world.defaults.order_keys):
            continue
        name, serves = pod["metadata"]["name"], runtime.config.revision
        world.truth.check(serves == world.reached, f"{name} serves {serves}, not {world.reached}")
        spare = runtime.held.keys() - {world.reached, (world.status.get("candidate") or {}).get("revision")}
        is_known = not (world.operators[1].observed or world.truth.has_refused)
        world.truth.check(not spare or not is_known, f"{name} still holds {sorted(spare)}")


def _asked_restart(world: World) -> None:
    """Whoever asked for a restart got it, or pods that are younger anyway."""
    setting, active = world.truth.settings.get(RESTART), world.deployment_of(world.active)
    if (
        setting
        and active
        and not (setting.is_used or setting.is_uncertain)
        and not wanted_none(world.program.spec)
        and not world.status.get("candidate")
    ):
        world.truth.check(False, f"{RESTART}={setting.value} did nothing")


def _leftovers(world: World) -> None:
    """Nothing runs that nobody needs, and nothing is missing."""
    truth, active = world.truth, world.deployment_of(world.active)
    name = active["metadata"]["name"] if active else ""
    candidate = (world.status.get("candidate") or {}).get("deployment")
    idle = [
        n for n, d in world.api.of("Deployment").items() if d["spec"].get("replicas", 1) and n not in (name, candidate)
    ]
    truth.check(not idle or active is None, f"{idle} run for nobody")
    spec = world.program.spec
    scaled = sorted(world.api.of("HorizontalPodAutoscaler"))
    truth.check(
        not (active or _is_anything_known(world))
        or scaled == ([name] if spec.autoscaling and name and not wanted_none(spec) else []),
        f"autoscalers: {scaled}",
    )
    truth.check(not active or NAME in world.api.of("PodDisruptionBudget"), "there is no budget")
    running = [n for n, j in world.api.of("Job").items() if not j.get("status")]
    truth.check(not running, f"{running} run for nobody")

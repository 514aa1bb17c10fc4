"""The Jobs of a program: evaluations and optimisations, with what their pods say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from despina.api.program import Program
from despina.api.runs import MOST_CALLS, OptimizationRun
from despina.cluster.client import Cluster, Document
from despina.cluster.pods import ended, trouble_of
from despina.cluster.reading import (
    as_far_as_readable,
    condition,
    entries,
    labels_of,
    mapping,
    names_owner,
    notes_of,
    parsed,
    text,
)
from despina.decide.observed import JobView, OptimizationJobView
from despina.decide.quarantine import LAST_MOMENT, parse_timestamp
from despina.desired.labels import EVALUATION, OPTIMIZATION, REVISION, RUN
from despina.desired.optimization import optimization_prefix
from despina.desired.overlay import CONTAINER
from despina.wire import OPTIMIZATION_ENV, TERMINATED, EvaluationResult, OptimizationConfig, OptimizationResult

NOTES, CONFIGS = TypeAdapter(Document), TypeAdapter(OptimizationConfig)


@dataclass(frozen=True)
class _Words:
    """What a kind of Job's pods leave as their last words."""

    kind: TypeAdapter[Any]
    trusted: tuple[int, ...]
    """The codes with which a container ends whose words are what came of it."""
    erring: tuple[int, ...] | None
    """Those with which one ends that says why nothing did; None for any."""
    goes_on: str
    """What becomes of the work when a pod is taken from its node."""


SCORES = _Words(TypeAdapter(EvaluationResult), (0,), None, ", and another one follows")
FINDINGS = _Words(TypeAdapter(OptimizationResult), (0, TERMINATED), (1,), "")


async def jobs_of(
    cluster: Cluster, program: Program, found: list[Document]
) -> tuple[tuple[JobView, ...], tuple[OptimizationJobView, ...]]:
    """Evaluations and optimisations, told apart by their names, which nobody can change."""
    prefix = optimization_prefix(program)
    searching = [job for job in found if job["metadata"]["name"].startswith(prefix)]
    scoring = [job for job in found if not job["metadata"]["name"].startswith(prefix)]
    return (
        tuple(map(job_view, scoring, await _pods_of(cluster, program, scoring, EVALUATION))),
        tuple(map(optimization_view, searching, await _pods_of(cluster, program, searching, OPTIMIZATION))),
    )


async def _pods_of(cluster: Cluster, program: Program, jobs: list[Document], label: str) -> list[list[Document]]:
    """Each Job's own pods. Ended Jobs stay for a day, so that all of their pods are asked for at once."""
    pods = await cluster.list("Pod", program.namespace, {label: None}) if jobs else []
    return [_made_by(job, pods) for job in jobs]


def _made_by(job: Document, pods: list[Document]) -> list[Document]:
    """Of the pods with a Job's label, which anybody may put on a pod, those that the Job's controller made."""
    return [pod for pod in pods if names_owner(pod, job["metadata"]["uid"])]


def job_view(item: Document, pods: list[Document]) -> JobView:
    """An evaluation as decisions see it. A drained node leaves it several pods, one after the other."""
    return JobView(name=item["metadata"]["name"], **_outcome(item, pods, SCORES))


def optimization_view(item: Document, pods: list[Document]) -> OptimizationJobView:
    """An optimisation as decisions see it. It has one pod, which says what it has found also when it is told to end."""
    moments = [parse_timestamp(text(one.get("lastTransitionTime")), -1.0) for one in _endings(item)]
    return OptimizationJobView(
        name=item["metadata"]["name"],
        run=_run(item),
        finished_at=next((moment for moment in moments if moment >= 0), None),
        **_outcome(item, pods, FINDINGS),
    )


def _outcome(item: Document, pods: list[Document], words: _Words) -> dict[str, Any]:
    """What the views of Jobs have in common."""
    endings = _endings(item)
    newest_first = sorted(pods, key=lambda pod: text(pod["metadata"].get("creationTimestamp")), reverse=True)
    results = [r for r in (_result(pod, words) for pod in newest_first) if r]
    troubles = (*(_job_trouble(pod, words) for pod in newest_first[:1]), *map(_ending, endings))
    return {
        "ended": bool(endings),
        "result": results[0] if results else None,
        "ip": next((ip for ip in map(_address, newest_first) if ip), None),
        "trouble": next((trouble for trouble in troubles if trouble), ""),
    }


def _endings(item: Document) -> list[Document]:
    return [found for kind in ("Complete", "Failed") if (found := condition(item, kind))]


def _run(item: Document) -> OptimizationRun:
    """What was noted on a Job when it was made. Where somebody damaged that, it is still a run, with a budget."""
    name = item["metadata"]["name"]
    noted = as_far_as_readable(OptimizationRun, parsed(NOTES, notes_of(item).get(RUN)))
    return noted.model_copy(update={"job": name}) if noted else _run_as_told(item)


def _run_as_told(item: Document) -> OptimizationRun:
    """A run by what its pod was told, which nobody can change; zeros, where that is another operator's."""
    meta = item["metadata"]
    config = parsed(CONFIGS, _variable(item, OPTIMIZATION_ENV))
    until = config.labels.until or 0.0 if config else 0.0
    return OptimizationRun(
        job=meta["name"],
        trigger="unknown: what was noted on the Job cannot be read",
        base_version=config.base.model.version if config else "",
        base_revision=config.base.revision if config else labels_of(item).get(REVISION, ""),
        labels_until=int(1000 * until) if 0 <= until <= LAST_MOMENT else 0,
        budget_lm_calls=min(max(config.budget.max_lm_calls, 0), MOST_CALLS) if config else 0,
        started_at=text(meta.get("creationTimestamp")),
    )


def _variable(item: Document, name: str) -> str:
    """A variable of the program's container in a Job's pods."""
    spec = mapping(mapping(mapping(item.get("spec")).get("template")).get("spec"))
    containers = (c for c in entries(spec.get("containers")) if c.get("name") == CONTAINER)
    found = (text(one.get("value")) for c in containers for one in entries(c.get("env")) if one.get("name") == name)
    return next(found, "")


def _address(pod: Document) -> str | None:
    """Where a pod can be asked that runs and is not about to end."""
    status = mapping(pod.get("status"))
    runs = status.get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    return text(status.get("podIP")) or None if runs else None


def _result(pod: Document, words: _Words) -> Any:
    """A pod's last words.

    What was found counts only from a process that ended well, or when it was told to: the model's code runs beside it
    and can write where last words stand, but not end the process so. An error counts unless the pod was taken from its
    node, or the process did not end by itself, where it matters what was spent.
    """
    end = _program_ended(pod)
    found, code = parsed(words.kind, text(end.get("message"))), end.get("exitCode")
    if found is None or code in words.trusted:
        return found
    is_its_own = words.erring is None or code in words.erring
    return found if found.error is not None and is_its_own and not _is_disrupted(pod) else None


def _program_ended(pod: Document) -> Document:
    """How the program's container ended."""
    containers = entries(mapping(pod.get("status")).get("containerStatuses"))
    return next((ended(c, "state") for c in containers if c.get("name") == CONTAINER), {})


def _is_disrupted(pod: Document) -> bool:
    return condition(pod, "DisruptionTarget") is not None


def _job_trouble(pod: Document, words: _Words) -> str:
    """What keeps a pod from starting, or how it ended."""
    trouble, end = trouble_of(mapping(pod.get("status"))), _program_ended(pod)
    if trouble:
        return f"{trouble.reason}: {trouble.message}"
    if _is_disrupted(pod):
        return f"its pod was taken from its node{words.goes_on}"
    if end.get("exitCode"):
        return f"{end.get('reason') or 'Error'}: container {CONTAINER} ended with code {end['exitCode']}"
    return ""


def _ending(said: Document) -> str:
    return f"{said.get('reason', '')}: {said.get('message', '')}" if said["type"] == "Failed" else ""

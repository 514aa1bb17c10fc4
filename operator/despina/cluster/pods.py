"""What a pod's status says."""

from __future__ import annotations

from despina.api.conditions import Reason
from despina.cluster.client import Document
from despina.cluster.reading import condition, entries, labels_of, mapping, text
from despina.decide.observed import PodView, Trouble
from despina.desired.labels import REVISION
from despina.wire import Failure

IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}


def pod_view(item: Document) -> PodView:
    """A pod as decisions see it."""
    meta, status = item["metadata"], mapping(item.get("status"))
    ready = condition(item, "Ready") is not None
    failure = None if ready else _failure(status)
    return PodView(
        name=meta["name"],
        revision=labels_of(item).get(REVISION, ""),
        ready=ready,
        ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=text(status.get("podIP")) or None,
        failure=failure,
        failures=max((_failures(c) for c in _containers(status)), default=0),
        trouble=None if ready or failure else trouble_of(status),
    )


def _containers(status: Document) -> list[Document]:
    return [*entries(status.get("initContainerStatuses")), *entries(status.get("containerStatuses"))]


def ended(container: Document, state: str) -> Document:
    """How a container ended that stands in this state."""
    return mapping(mapping(container.get(state)).get("terminated"))


def _failures(container: Document) -> int:
    """How often it has ended, this time included: a restart is counted only when it begins, after a wait."""
    count, state = container.get("restartCount"), mapping(container.get("state"))
    has_ended = "terminated" in state or "terminated" in mapping(container.get("lastState"))
    return (count if isinstance(count, int) else 0) + (has_ended and "running" not in state)


def _failure(status: Document) -> Failure | None:
    """What the program's container said when it last gave up."""
    endings = (ended(container, state) for container in _containers(status) for state in ("state", "lastState"))
    said = (Failure.parse(text(end.get("message"))) for end in endings)
    return next((failure for failure in said if failure), None)


def trouble_of(status: Document) -> Trouble | None:
    """What the scheduler or the kubelet says."""
    unscheduled = condition({"status": status}, "PodScheduled", "False")
    if unscheduled:
        return Trouble(Reason.UNSCHEDULABLE, text(unscheduled.get("message")))
    return next((t for t in map(_container_trouble, _containers(status)) if t), None)


def _container_trouble(container: Document) -> Trouble | None:
    waiting = mapping(mapping(container.get("state")).get("waiting"))
    reason, message = text(waiting.get("reason")), text(waiting.get("message"))
    if reason in IMAGE_REASONS:
        return Trouble(Reason.IMAGE_NOT_PULLED, f"{container.get('image')}: {message}")
    if reason == "CreateContainerConfigError":
        return Trouble(Reason.SECRET_NOT_FOUND, message)
    if reason == "CrashLoopBackOff":
        code = ended(container, "lastState").get("exitCode")
        return Trouble(Reason.CRASHED, f"container {container.get('name')} ended with code {code}; see its log")
    return None

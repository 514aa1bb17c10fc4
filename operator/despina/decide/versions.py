"""Which model version is meant, as a whole identity: server, model, number, and when it was made.

A number alone is none: another registry has the same numbers, and a model made anew counts from one again.
"""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.credentials import server_of
from despina.api.revision import revision_of, source_digest
from despina.api.status import HistoryEntry, RevisionStatus
from despina.decide.observed import DeploymentView, Observed
from despina.wire import ModelRef

ENDED = ("Done", "Failed", "RolledBack", "Abandoned")
"""Steps of rollouts that are over; their status stays to be looked at."""


def asked_model(o: Observed) -> ModelRef | None:
    """What is asked for; None when that cannot be known. While the registry is silent, what is under way goes on, and
    else what runs."""
    pinned = o.program.spec.rollout.rollback_to
    if pinned is not None:
        return _pinned(o, str(pinned))
    if o.model.version is not None:
        return ref_of(o, o.model.version)
    return (_under_way(o) or served_model(o)) if o.model.is_unknown else None


def _pinned(o: Observed, number: str) -> ModelRef | None:
    found, going = ref_of(o, number), _under_way(o)
    if o.model.version is not None or number in o.model.created or found in known(o):
        return found
    return going if going and going.version == number else None


def ref_of(o: Observed, number: str, created: int | None = None) -> ModelRef:
    """A number of the spec's model as a version; the very one that pods know by it, if there is one."""
    ref = _named(o, number, o.model.created.get(number, created))
    return next((one for one in known(o) if is_same(one, ref)), ref)


def _named(o: Observed, number: str, created: int | None) -> ModelRef:
    source = o.program.spec.source.mlflow
    server = o.model.server or server_of(source.tracking_uri or o.defaults.tracking_uri or "")
    return ModelRef(name=source.model, version=number, tracking_uri=server, created_at=created)


def is_same(one: ModelRef, other: ModelRef) -> bool:
    """Whether two names mean one version. When it was made is not known to everybody."""
    made = {one.created_at, other.created_at} - {None}
    return len(made) < 2 and one.model_copy(update={"created_at": other.created_at}) == other


def known(o: Observed) -> tuple[ModelRef, ...]:
    """The versions that configurations of the program name."""
    return tuple(_known(o))


def _known(o: Observed) -> Iterator[ModelRef]:
    for view in o.deployments:
        loading = view.loading
        configs = (loading and loading.config, view.config, loading and loading.previous)
        yield from (config.model for config in configs if config)
    yield from (config.model for config in o.configs.values())


def model_of(o: Observed, view: DeploymentView) -> ModelRef:
    """The version that a Deployment's pods serve."""
    return view.model or ref_of(o, view.version)


def served_model(o: Observed) -> ModelRef | None:
    """The version that callers reach, or reached last: off its Deployment, its configuration, or the record of it."""
    view = o.deployment(o.active)
    if view:
        return model_of(o, view)
    config = o.configs.get(f"{o.program.name}-{o.active}")
    if config:
        return config.model
    entries = [o.status.active, *reversed(o.status.history)]
    found = next((e for e in entries if e and o.active in (None, e.revision)), None)
    return _recorded(o, found) if found else None


def served_models(o: Observed) -> list[ModelRef]:
    """What callers reach, and what they reached before, the latest first."""
    first = served_model(o)
    left = sorted((v for v in o.deployments if v.activated_at), key=lambda v: v.activated_at or 0.0, reverse=True)
    past = [model for entry in reversed(o.status.history) if (model := _recorded(o, entry))]
    return list(dict.fromkeys([*([first] if first else []), *(model_of(o, v) for v in left), *past]))


def _recorded(o: Observed, entry: RevisionStatus | HistoryEntry) -> ModelRef | None:
    """The version that a record is about; None where that was one of another server or model, or is made anew."""
    was, now = _named(o, entry.version, entry.created_at), ref_of(o, entry.version, entry.created_at)
    return now if source_digest(was) == entry.source and is_same(was, now) else None


def _under_way(o: Observed) -> ModelRef | None:
    """The version that is being released, as the status has it."""
    rollout, candidate = o.status.rollout, o.status.candidate
    if rollout and candidate and rollout.step not in ENDED and candidate.revision == rollout.id:
        ref = ref_of(o, candidate.version, candidate.created_at)
        # Of another server by now, or another spec: then it is not the one that was meant.
        return ref if revision_of(o.program, ref).hash == candidate.revision else None
    return None

"""What callers reach, kept as the spec wants it: Services, identity, tools, budget, size."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.revision import Revision, revision_of
from despina.decide.drift import applied
from despina.decide.observed import DeploymentView, Observed
from despina.decide.plan import Action, Annotate, Create, Delete, Step, Tell
from despina.decide.prepare import config_of, made, profile_of, put_to_sleep
from despina.decide.situation import Situation
from despina.decide.sizing import sized
from despina.decide.versions import model_of
from despina.desired.config import build_config
from despina.desired.identity import build_service_account, service_account_name
from despina.desired.labels import ACTIVATED_AT, program_labels, selector
from despina.desired.network import build_service, preview_name
from despina.desired.scaling import build_hpa, build_pdb
from despina.desired.toolbox import build_toolbox, digests_in, toolbox_name
from despina.wire import RuntimeConfig


def lead(r: Situation, current: Revision) -> Iterator[Action]:
    """Callers are led to what they shall reach, and what must not be forgotten stands there, too."""
    name = r.o.program.name
    addresses = () if ("Service", name) in r.o.objects else r.o.status.cluster_ips
    yield from applied(r.o.objects, build_service(r.o.program, name, current.base, r.memory, addresses))


def identity(r: Situation) -> Iterator[Action]:
    """The account that pods run as, and what they know of their tools."""
    program = r.o.program
    account = program.spec.service_account
    labels, name = program_labels(program), service_account_name(program)
    document = build_service_account(program, account, name, labels, profile_of(r.o))
    if document:
        yield from applied(r.o.objects, document)
    yield from _toolbox(r.o)


def _toolbox(o: Observed) -> Iterator[Action]:
    """What pods know of their tools, of their Redis and of what they shall load, and nothing that no revision needs."""
    wanted = {d["kind"]: d for d in build_toolbox(o.program, o.tools, o.redis_seal, digests_of(o))}
    for document in wanted.values():
        yield from applied(o.objects, document)
    name, spare = toolbox_name(o.program), [kind for kind in ("Secret", "ConfigMap") if kind not in wanted]
    yield from (Delete((kind, name)) for kind in spare if (kind, name) in o.objects)


def digests_of(o: Observed) -> dict[str, str]:
    """What each revision that is around was when it was first loaded, as the first pod said: what a server gives for it
    later, and is something else, is no longer that version."""
    around = {view.revision for view in o.deployments}
    around |= {config.revision for view in o.deployments for config in view.configs}
    said = {
        name: held.digest
        for pod in reversed(o.pods)
        if pod.report
        for name, held in pod.report.held.items()
        if held.digest
    }
    return {name: digest for name, digest in (said | digests_in(o.objects, o.program)).items() if name in around}


def keep(r: Situation, current: Revision, step: Step | None) -> Iterator[Action]:
    """Keep the revision that callers reach as the spec wants it."""
    program, is_wanted = r.o.program, r.wanted is not None and current.hash == r.wanted.hash
    if r.active is None or (is_wanted and r.size > 0):  # at size 0, too: it says what served
        yield from made(r, current)
    if is_wanted:
        yield from applied(r.o.objects, build_service(program, preview_name(program), current.base))
    budget = build_pdb(program, program.name, program_labels(program), selector(program, current.base))
    yield from applied(r.o.objects, budget)
    if not (r.candidate and r.recreates) or step in ("Paused", "Suspended", "AwaitPromotion", "Refused"):
        yield from _sized(r, current)
    yield from _activated(r, current)
    yield from _configured(r)


def _sized(r: Situation, current: Revision) -> Iterator[Action]:
    program, autoscaling = r.o.program, r.o.program.spec.autoscaling
    labels = program_labels(program)
    hpa = build_hpa(program, autoscaling, current.deployment, labels) if autoscaling else None
    view = r.o.deployment(current.base)
    if view and r.size == 0:
        yield from put_to_sleep(r, view)
    else:
        yield from sized(r.o.objects, current.deployment, view.replicas if view else None, r.size, hpa)


def _activated(r: Situation, current: Revision) -> Iterator[Action]:
    """Note since when callers are answered there, and take back an order to retire."""
    view = r.o.deployment(current.base)
    if view is None:
        return
    is_new = view.activated_at is None and r.o.ready(view.revision) > 0
    if r.o.active == current.base and (is_new or view.is_retired):
        later = max(r.now, (view.retired_at or 0.0) + 0.001)  # a clock may have been set back since
        yield Annotate(view.name, {ACTIVATED_AT: repr(later)})
    if view.retired_at is not None:
        yield from (Tell(p, "Activate") for p in r.o.pods_of(current.base) if not p.has_been_told("Activate"))


def _configured(r: Situation) -> Iterator[Action]:
    """Make a revision's configuration again that somebody deleted: without it, no further pod would start."""
    for view in r.o.deployments:
        config = _made_with(r, view) if view.replicas and view.name not in r.o.configs else None
        if config:
            revision = Revision(hash=view.revision, model=config.model, deployment=view.name, base=view.revision)
            yield Create(build_config(r.o.program, revision, config))


def _made_with(r: Situation, view: DeploymentView) -> RuntimeConfig | None:
    """What a Deployment's pods were made to run: as noted on it, or as the spec is now, if that comes to the same."""
    if view.config and view.config.revision == view.revision:
        return view.config
    again = revision_of(r.o.program, model_of(r.o, view))
    return config_of(r, again) if again.hash == view.revision else None

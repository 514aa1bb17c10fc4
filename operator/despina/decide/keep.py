"""What callers reach, kept as the spec wants it: identity, tools, Services, budget, size."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.revision import Revision
from despina.decide.drift import applied
from despina.decide.observed import Observed
from despina.decide.plan import Action, Annotate, Delete, Tell
from despina.decide.prepare import made, profile_of
from despina.decide.situation import Situation
from despina.decide.sizing import sized
from despina.desired.identity import build_service_account, service_account_name
from despina.desired.labels import (
    ACTIVATED_AT,
    program_labels,
    selector,
)
from despina.desired.network import build_service, preview_name
from despina.desired.scaling import build_pdb
from despina.desired.toolbox import build_toolbox, toolbox_name


def identity(r: Situation) -> Iterator[Action]:
    program = r.o.program
    account = program.spec.service_account
    labels, name = program_labels(program), service_account_name(program)
    yield from applied(r.o, build_service_account(program, account, name, labels, profile_of(r.o)))
    yield from _toolbox(r.o)


def _toolbox(o: Observed) -> Iterator[Action]:
    """What pods know of their tools, and nothing once no revision uses any."""
    for document in build_toolbox(o.program, o.tools):
        yield from applied(o, document)
    name = toolbox_name(o.program)
    yield from (Delete((kind, name)) for kind in ("Secret", "ConfigMap") if not o.tools and (kind, name) in o.objects)


def serve(r: Situation, current: Revision) -> Iterator[Action]:
    """Keep the revision that callers reach as the spec wants it."""
    program = r.o.program
    if r.wanted and current.hash == r.wanted.hash:
        if r.size > 0 or r.o.active is None:
            yield from made(r, current)
        yield from applied(r.o, build_service(program, preview_name(program), current.base))
    yield from applied(r.o, build_service(program, program.name, current.base))
    yield from applied(r.o, build_pdb(program, program.name, program_labels(program), selector(program, current.base)))
    if not _is_stopped_for_recreate(r):
        yield from sized(r, current)
    yield from _activated(r, current)


def _activated(r: Situation, current: Revision) -> Iterator[Action]:
    """Note since when callers are sent there, and take back an order to retire."""
    view = r.o.deployment(current.base)
    if view and r.o.active == current.base and (view.activated_at is None or view.is_retired):
        yield Annotate(view.name, {ACTIVATED_AT: repr(r.now)})
    if view and view.retired_at is not None:
        yield from (Tell(p, "Activate") for p in r.o.pods_of(current.base) if not p.has_been_told("Activate"))


def _is_stopped_for_recreate(r: Situation) -> bool:
    return r.candidate is not None and r.recreates

"""Several workers' states as their pod's."""

from __future__ import annotations

from collections.abc import Sequence

from despina.wire import Counts, HeldRevision, PodState, ShadowReport, added


def merged(states: Sequence[PodState], uptime_seconds: float, wanted_workers: int) -> PodState:
    """What a pod holds is what all of its workers hold; what it counted is what they counted together."""
    serving = {s.revision for s in states}
    counted = dict.fromkeys(name for s in states for name in s.counts)
    return PodState(
        revision=serving.pop() if len(serving) == 1 else "",
        held=_held(states),
        counts={name: Counts.total(s.counts[name] for s in states if name in s.counts) for name in counted},
        breakers=tuple(b for s in states for b in s.breakers),
        tries={k: v for s in states for k, v in s.tries.items()},
        shadow=_shadow([s.shadow for s in states if s.shadow]),
        uptime_seconds=round(uptime_seconds, 1),
        workers=len(states),
        wanted_workers=wanted_workers,
    )


def _held(states: Sequence[PodState]) -> dict[str, HeldRevision]:
    """Failed if it failed anywhere, Ready when it is ready everywhere."""
    names = dict.fromkeys(name for s in states for name in s.held)
    return {name: _phase([s.held.get(name) for s in states]) for name in names}


def _phase(found: list[HeldRevision | None]) -> HeldRevision:
    known = [h for h in found if h]
    failed = next((h for h in known if h.phase == "Failed"), None)
    is_ready = len(known) == len(found) and all(h.phase == "Ready" for h in known)
    told = next((h for h in known if h.remark), known[0] if known else None)
    return failed or (told if told and is_ready else HeldRevision(phase="Preparing"))


def _shadow(reports: Sequence[ShadowReport]) -> ShadowReport | None:
    if not reports:
        return None
    sums = {f: sum(getattr(r, f) for r in reports) for f in ("mirrored", "dropped", "failed", "agreed")}
    return ShadowReport(
        revision=reports[0].revision,
        **sums,
        live_seconds=added([r.live_seconds for r in reports]),
        seconds=added([r.seconds for r in reports]),
    )

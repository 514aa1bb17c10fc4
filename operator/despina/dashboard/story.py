"""What a program's page tells: versions, gates, rollbacks, the breaker and runs as lanes, what its parts do (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from despina.api.runs import OptimizationRun
from despina.api.status import ProgramStatus, RevisionStatus
from despina.cluster.reading import entries, mapping
from despina.dashboard import words
from despina.dashboard.facts import Note, score_of
from despina.dashboard.flat import ASKED, CALLERS, Sums
from despina.dashboard.rates import quantile, timed
from despina.dashboard.rows import BAD, BUSY, ICONS, OK, WARN
from despina.decide.quarantine import parse_timestamp

SPANS = {"15m": 900.0, "1h": 3600.0, "24h": 86400.0}
LEVELS = {"Passed": OK, "Failed": BAD, "Running": BUSY}
GOOD_RUNS, BAD_RUNS = ("Better",), ("Failed", "GoldenWorse", "Lost", "TakenBack")
LEAST_PERCENT = 0.6
"""Of a lane's width: what took a moment only is seen all the same."""


class Mark(NamedTuple):
    """Something in a lane, placed in percent of its width."""

    start: float
    width: float
    level: str
    word: str
    when: str
    text: str

    @property
    def icon(self) -> str:
        """What tells its level without a colour."""
        return ICONS[self.level]


class Lane(NamedTuple):
    """One line under the curves."""

    title: str
    marks: list[Mark]


class Side(NamedTuple):
    """A version beside another one."""

    name: str
    version: str
    figures: dict[str, str]


class Part(NamedTuple):
    """One line of a table."""

    words: tuple[str, ...]
    level: str = ""

    @property
    def icon(self) -> str:
        """What tells its level without a colour."""
        return ICONS.get(self.level, "")


def lanes(status: ProgramStatus, notes: Sequence[Note], span: str, now: float) -> list[Lane]:
    """All lanes of a time span that ends now; those in which nothing ever happened are left out."""
    view = _View(now - SPANS[span], now)
    found = {
        "Versions": _versions(status, view),
        "Gates": _gates(status, notes, view),
        "Rollbacks": _noted(notes, ("RolledBack",), BAD, view),
        "Breaker": _breaker(status, notes, view),
        "Optimisation": _runs(status, view),
    }
    return [Lane(title, marks) for title, marks in ((t, list(m)) for t, m in found.items()) if marks]


class _View(NamedTuple):
    start: float
    end: float

    def mark(self, since: float, until: float, level: str, word: str, text: str) -> Iterator[Mark]:
        """Placed within the view; nothing where it is outside."""
        if not since or until < self.start or since > self.end:
            return
        length = self.end - self.start
        left = max(0.0, (since - self.start) / length) * 100
        right = min(1.0, (until - self.start) / length) * 100
        width = max(LEAST_PERCENT, right - left)
        yield Mark(min(left, 100 - width), width, level, words.shown(word, 40), words.clock(since), words.shown(text))


def _versions(status: ProgramStatus, view: _View) -> Iterator[Mark]:
    begins = [parse_timestamp(entry.activated_at) for entry in status.history]
    for entry, since, until in zip(status.history, begins, [*begins[1:], view.end], strict=False):
        level = BAD if entry.outcome == "RolledBack" else OK if entry.outcome == "Serving" else BUSY
        text = f"Version {entry.version} from {words.clock(since)} ({entry.trigger}): {entry.outcome}"
        yield from view.mark(since, until, level, f"v{entry.version}", text)


def _gates(status: ProgramStatus, notes: Sequence[Note], view: _View) -> Iterator[Mark]:
    yield from _noted(notes, ("GatePassed",), OK, view)
    for gate in status.rollout.gates if status.rollout else ():
        if gate.result == "Passed":
            continue  # an Event tells of it
        since, level = parse_timestamp(gate.started_at), LEVELS[gate.result]
        until = parse_timestamp(gate.finished_at) if gate.finished_at else view.end
        yield from view.mark(since, until, level, gate.name, f"{gate.name}: {gate.result}. {gate.message}")
    for entry in status.model.quarantined:
        at = parse_timestamp(entry.at)
        text = f"Version {entry.version} quarantined: {entry.reason}. {entry.message}"
        yield from view.mark(at, at, BAD, f"v{entry.version}", text)


def _noted(notes: Iterable[Note], reasons: tuple[str, ...], level: str, view: _View) -> Iterator[Mark]:
    for note in notes:
        if note.reason in reasons:
            yield from view.mark(note.at, note.at, level, note.reason, note.message)


def _breaker(status: ProgramStatus, notes: Sequence[Note], view: _View) -> Iterator[Mark]:
    breaker, opened = status.breaker, 0.0
    for note in sorted(notes):
        if note.reason == "BreakerOpened":
            opened = opened or note.at
        elif note.reason == "BreakerClosed" and opened:
            yield from view.mark(opened, note.at, BAD, "Open", f"Open until {words.clock(note.at)}")
            opened = 0.0
    if breaker and breaker.state != "Closed":
        since = parse_timestamp(breaker.since) or opened
        yield from view.mark(since, view.end, BAD, breaker.state, f"{breaker.state}: {breaker.reason}")


def _runs(status: ProgramStatus, view: _View) -> Iterator[Mark]:
    for run in runs_of(status):
        since = parse_timestamp(run.started_at)
        until = parse_timestamp(run.finished_at) if run.finished_at else view.end
        yield from view.mark(since, until, _level(run), run.reason or "Running", f"{run.trigger}. {run.message}")


def runs_of(status: ProgramStatus) -> list[OptimizationRun]:
    """Optimisation runs, the latest first."""
    found = status.optimization
    return [*([found.run] if found.run else []), *found.earlier] if found else []


def _level(run: OptimizationRun) -> str:
    if run.reason is None:
        return BUSY
    return OK if run.reason in GOOD_RUNS else BAD if run.reason in BAD_RUNS else WARN


def sides(status: ProgramStatus, sums: Sums) -> list[Side]:
    """The active version, and the candidate where there is one."""
    both = (("Active", status.active), ("Candidate", status.candidate))
    return [_side(name, revision, status, sums) for name, revision in both if revision]


def _side(name: str, revision: RevisionStatus, status: ProgramStatus, sums: Sums) -> Side:
    version = revision.version
    requests = sum(n for k, n in sums.items() if k[0] == "requests" and k[1] == version)
    errors = sum(n for k, n in sums.items() if k[0] == "errors" and k[1] == version and k[2] != CALLERS)
    spent = {what: sums.get(("spent", version, what), 0.0) for what in ("input", "output", "cost")}
    tokens = spent["input"] + spent["output"]
    latency = timed(sums, "latency", lambda between: between == (version,))
    return Side(
        name,
        words.shown(version, 20),
        {
            "Score": score_of(status, revision.revision) or words.NOTHING,
            "Requests": words.number(requests),
            "Errors": words.share(words.ratio(errors, requests)),
            "Median": words.seconds(quantile(latency, 0.5)),
            "95th percentile": words.seconds(quantile(latency, 0.95)),
            "Tokens a request": words.number(words.ratio(tokens, requests)),
            "Cost of 1,000 requests": words.dollars(1000 * words.ratio(spent["cost"], requests)),
            "Ready pods": revision.loaded or str(revision.ready_replicas),
            "Revision": words.shown(revision.revision, 20),
        },
    )


def modules(sums: Sums) -> list[Part]:
    """What each module asked of each LM: calls, failures, tokens, cost; the dearest first."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, count in sums.items():
        if name[0] == "lm":
            counts = found.setdefault((name[2], name[3]), dict.fromkeys(ASKED, 0.0))
            counts[name[4]] += count
    dearest = sorted(found.items(), key=lambda item: (-item[1]["cost"], item[0]))
    return [_module(*module, counts, sums) for module, counts in dearest]


def _module(lm: str, module: str, counts: Mapping[str, float], sums: Sums) -> Part:
    calls, failed, given, made, cost = (counts[what] for what in ASKED)
    middle = quantile(timed(sums, "lm_seconds", lambda between: between == (lm,)), 0.5)
    figures = (words.number(calls), words.share(words.ratio(failed, calls)), words.seconds(middle))
    return Part((_named(module), _named(lm), *figures, words.number(given + made), words.dollars(cost)))


def _named(text: str) -> str:
    return words.shown(text, 100) or "(whole program)"


def cache(sums: Sums) -> list[Part]:
    """Answers by the cache's tier, with their share."""
    tiers = {name[1]: count for name, count in sums.items() if name[0] == "cache"}
    total = sum(tiers.values())
    shares = sorted(tiers.items(), key=lambda item: -item[1])
    return [Part((_named(tier), words.number(n), words.share(words.ratio(n, total)))) for tier, n in shares]


def failures(sums: Sums) -> list[Part]:
    """Errors by class, and answers of a fallback by what had failed."""
    found: dict[str, float] = {}
    for name, count in sums.items():
        if name[0] in ("errors", "degraded"):
            word = name[-1] if name[0] == "errors" else f"degraded: {name[-1]}"
            found[word] = found.get(word, 0) + count
    return [Part((_named(word), words.number(n))) for word, n in sorted(found.items(), key=lambda item: -item[1])]


def feedback(sums: Sums) -> list[Part]:
    """What callers said, by version."""
    found = [(name, n) for name, n in sums.items() if name[0] == "feedback"]
    return [Part((f"v{_named(name[1])}", _named(name[2]), words.number(n))) for name, n in sorted(found)]


TOOL_LEVELS = {"Available": OK, "Healthy": OK, "Slow": WARN, "Unknown": BUSY}


def tools(status: ProgramStatus, documents: Mapping[str, dict[str, Any]], sums: Sums) -> list[Part]:
    """The program's tools, each with its backends: state, what to do, calls and how many of them failed."""
    found: list[Part] = []
    for use in status.tools:
        calls = {n[2]: 0.0 for n in sums if n[0] == "tool" and n[1] == use.name}
        found.append(_tool(use.name, "", use.state, use.message, math.nan, math.nan))
        backends = entries(mapping(mapping(documents.get(use.name)).get("status")).get("backends"))
        for backend in backends:
            name = str(backend.get("name", ""))
            calls.pop(name, None)
            state, message = str(backend.get("state", "Unknown")), str(backend.get("message", ""))
            found.append(_tool("", name, state, message, *_called(use.name, name, sums)))
        found.extend(_tool("", name, "Unknown", "", *_called(use.name, name, sums)) for name in calls)
    return found


def _called(tool: str, backend: str, sums: Sums) -> tuple[float, float]:
    fates = {name[3]: n for name, n in sums.items() if name[:3] == ("tool", tool, backend)}
    return sum(fates.values()), sum(n for fate, n in fates.items() if fate != "ok")


def _tool(tool: str, backend: str, state: str, message: str, calls: float, failed: float) -> Part:
    said = (words.shown(tool, 63), words.shown(backend, 63), words.shown(state, 20), words.shown(message))
    figures = (words.number(calls), words.share(words.ratio(failed, calls)))
    return Part((*said, *figures), TOOL_LEVELS.get(state, BAD))


def runs(status: ProgramStatus) -> list[Part]:
    """Optimisation runs: when, why, what they found, and what they cost."""
    return [
        Part(
            (
                words.clock(parse_timestamp(run.started_at)),
                words.shown(run.trigger),
                run.reason or f"Running {words.shown(run.progress, 40)}",
                words.shown(run.message),
                f"v{words.shown(run.candidate_version, 20)}" if run.candidate_version else words.NOTHING,
                f"${words.shown(run.cost_usd, 12)}" if run.cost_usd else words.NOTHING,
            ),
            _level(run),
        )
        for run in runs_of(status)
    ]


def gates(status: ProgramStatus) -> list[Part]:
    """The gates of the rollout under way, or of the last one."""
    found = status.rollout.gates if status.rollout else ()
    return [
        Part((words.shown(g.name, 63), words.shown(g.type, 30), g.result, words.shown(g.message)), LEVELS[g.result])
        for g in found
    ]


def conditions(status: ProgramStatus) -> list[Part]:
    """What the operator says of the program; what is not well first."""
    found = [
        Part((words.shown(c.type, 40), c.status.value, words.shown(c.reason, 60), words.shown(c.message, 600)), level)
        for c in status.conditions
        for level in [{"True": OK, "False": BAD}.get(c.status.value, BUSY)]
    ]
    return sorted(found, key=lambda part: part.level == OK)


def events(notes: Sequence[Note]) -> list[Part]:
    """What the operator wrote down, the latest first."""
    latest = sorted(notes, reverse=True)
    return [Part((words.clock(n.at), n.reason, n.message), WARN if n.kind == "Warning" else OK) for n in latest]

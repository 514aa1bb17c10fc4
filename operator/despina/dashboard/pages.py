"""What the templates are given: everything of a page, from the world as its viewer may see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from despina.dashboard import promql, story, words
from despina.dashboard.access import Viewer
from despina.dashboard.acts import acts_of
from despina.dashboard.curves import RANGES
from despina.dashboard.facts import serving, status_of
from despina.dashboard.rows import Row, in_order
from despina.dashboard.stream import shape_of, shape_of_page
from despina.dashboard.world import Known, World

GROUP_ROWS = 50
COLUMNS = (
    ("requests", "req/s", "Requests a second"),
    ("p50", "p50", "Median latency"),
    ("p95", "p95", "95th percentile of latency"),
    ("errors", "errors", "Share of requests that failed"),
    ("cached", "cache", "Share of answers from the cache"),
    ("tokens", "tok/min", "Tokens a minute"),
    ("cost", "cost/h", "Cost an hour"),
    ("score", "score", "Score of the version that serves"),
)
HEADS = tuple((name, hint) for name, _, hint in COLUMNS)
SPARKED = {"requests", "p95"}


def local(path: str | None) -> str:
    """Where to go after the form: nowhere but here."""
    is_here = path and path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if path and is_here and not path.startswith("/login") else "/"


def logged(viewer: Viewer) -> str:
    """Who it is, in one word of the log."""
    return words.shown(viewer.person.name, 100)


def listed(world: World, viewer: Viewer, namespaces: Sequence[str], asked: Mapping[str, str]) -> dict[str, Any]:
    """The list of programs. `find` makes its rows, which takes as long as there are many: what stands above them is
    sent before."""
    chosen, search, only = asked.get("namespace", ""), words.shown(asked.get("q", ""), 100), "problems" in asked
    return common(world, viewer) | {
        "find": partial(_found, world, namespaces, chosen, search.lower(), only),
        "sparks": partial(_sparks, world),
        "namespaces": namespaces,
        "chosen": chosen,
        "search": search,
        "only": only,
        "columns": COLUMNS,
        "sparked": SPARKED,
        "queries": promql.of_list(chosen if chosen in namespaces else "", HEADS),
    }


class Found(NamedTuple):
    """The rows of a list."""

    groups: list[list[Row]]
    needing: list[Row]
    needing_count: int
    total: int
    shape: str


def _found(world: World, namespaces: Sequence[str], chosen: str, search: str, only: bool) -> Found:
    """Searching and filtering leave rows out, and nothing else."""
    everything = in_order(world.rows(namespaces))
    rows = [
        row
        for row in everything
        if (not chosen or row.key[0] == chosen)
        and (not search or search in "/".join(row.key).lower())
        and (not only or row.needs)
    ]
    groups = [rows[i : i + GROUP_ROWS] for i in range(0, len(rows), GROUP_ROWS)]
    needing = [row for row in everything if row.needs]
    return Found(groups, needing[:20], len(needing), len(everything), shape_of(everything))


def _sparks(world: World, row: Row) -> Mapping[str, str]:
    """A row's small curves, drawn when its turn comes; its program may be gone by then."""
    known = world.programs.get(row.key)
    return world.encoded(known).sparks if known else dict.fromkeys(SPARKED, "")


def span_of(asked: Mapping[str, str]) -> str:
    """The time span that is asked for."""
    return asked["range"] if asked.get("range") in RANGES else "15m"


def told(world: World, viewer: Viewer, known: Known, acts: bool, asked: Mapping[str, str]) -> dict[str, Any]:
    """One program's page."""
    now, document = world.clock(), known.facts.document
    status, sums, key = status_of(document), known.meter.total(), known.facts.key
    span = span_of(asked)
    notes, served = list(known.notes.values()), serving(status)
    tools = {name: tool for (namespace, name), tool in world.tools.items() if namespace == key[0]}
    return common(world, viewer) | {
        "row": world.row(known),
        "facts": known.facts,
        "trigger": words.shown(served.trigger, 40) if served else "",
        "acts": acts_of(document, status) if acts else [],
        "asked": words.shown(asked.get("asked", ""), 20),
        "span": span,
        "spans": list(RANGES),
        "charts": world.charts(known, span),
        "past_silent": words.clock(world.past.silent_since) if world.past.silent_since else "",
        "lanes": story.lanes(status, notes, span, now),
        "sides": story.sides(status, sums),
        "columns": COLUMNS,
        "tables": _tables(story.tools(status, tools, sums), known, status, sums, notes),
        "pods": [_pod(pod) for pod in sorted(known.pods.values(), key=lambda pod: pod.name)],
        "gauges": known.meter.gauges(),
        "answered": known.answered,
        "shape": shape_of_page(known, now),
        "queries": promql.of_program(key, span, HEADS),
    }


class Table(NamedTuple):
    """Rows under a heading, or what to do where there are none."""

    name: str
    title: str
    heads: tuple[str, ...]
    parts: list[story.Part]
    empty: str


def _tables(tools: list[story.Part], known: Known, status: Any, sums: Any, notes: Any) -> list[Table]:
    return [
        Table("conditions", "Conditions", ("Condition", "Status", "Reason", "Message"), story.conditions(status),
              "The operator has said nothing yet: is it running, and does it watch this namespace?"),
        Table("gates", "Gates", ("Gate", "Type", "Result", "Figures"), story.gates(status),
              "No gate: add some under spec.rollout.gates, and versions are tried before callers reach them."),
        Table("modules", "Modules and LMs",
              ("Module", "LM", "Calls", "Failed", "Median", "Tokens", "Cost"), story.modules(sums),
              "No LM was asked yet: send the program a request."),
        Table("errors", "Errors by class", ("Class", "Answers"), story.failures(sums), "Nothing failed."),
        Table("cache", "Cache", ("Tier", "Answers", "Share"), story.cache(sums),
              "No answer was looked up: spec.cache turns the cache on."),
        Table("tools", "Tools", ("Tool", "Backend", "State", "What to do", "Calls", "Failed"), tools,
              "This program calls no tools: spec.tools names those that it may call."),
        Table("feedback", "Feedback", ("Version", "Label", "Count"), story.feedback(sums),
              "Nobody said anything yet: spec.feedback records predictions, and POST /feedback labels them."),
        Table("runs", "Optimisation runs", ("Begun", "Why", "Result", "Figures", "Version", "Cost"),
              story.runs(status), "No run yet: spec.optimization begins them when labels say so."),
        Table("events", "Events", ("When", "Reason", "Message"), story.events(notes),
              "Nothing happened within the last hour: Kubernetes keeps Events no longer."),
    ]  # fmt: skip


def _pod(pod: Any) -> dict[str, str]:
    told = pod.state
    return {
        "name": words.shown(pod.name, 80),
        "state": "Ready" if pod.ready else "Not ready",
        "icon": "✓" if pod.ready else "◐",
        "workers": told.workers if told else words.NOTHING,
        "held": (told and told.held) or words.NOTHING,
        "trouble": told.trouble if told else "",
    }


def common(world: World, viewer: Viewer) -> dict[str, Any]:
    """What every page shows."""
    silent = min(world.silent_since.values(), default=0.0)
    return {
        "who": words.shown(viewer.person.name, 100),
        "can_leave": bool(viewer.token),
        "silent_since": words.clock(silent) if silent else "",
        "now": world.clock(),
    }

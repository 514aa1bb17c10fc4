"""Adding figures up (pure). They come from workers, which run a model's code: whatever these say, there are so many
names and no more, and none is long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from despina.wire import (
    MOST_MODULES,
    OTHER,
    Figures,
    LMFigures,
    Timing,
    ToolFigures,
    VersionFigures,
    added,
)

LONGEST_NAME = 128
MOST_NAMES = 64
"""Of statuses, errors, tools, LMs and the like; those that come later are counted as `other`."""
MOST_OUTCOMES = 16
MOST_LMS, MOST_TOOLS = 512, 256
"""Modules by LM, and tools by backend; each has outcomes of its own."""
T = TypeVar("T")


def added_version(a: VersionFigures, b: VersionFigures) -> VersionFigures:
    """What a version did, and what it did since."""
    return VersionFigures(
        requests=counted(a.requests, b.requests),
        errors=counted(a.errors, b.errors),
        latency=timed(a.latency, b.latency),
        exemplars=a.exemplars | b.exemplars,
        first_token=timed(a.first_token, b.first_token),
        queue=timed(a.queue, b.queue),
        lms=_lms(a.lms, b.lms),
        feedback=counted(a.feedback, b.feedback),
    )


def added_figures(a: Figures, b: Figures) -> Figures:
    """What a pod counted of no version, and what one of its workers did since. What is now is not added up."""
    return Figures(
        boot=a.boot,
        cache=counted(a.cache, b.cache),
        degraded=counted(a.degraded, b.degraded),
        lm_seconds=_by_name(a.lm_seconds, b.lm_seconds, timed, Timing()),
        lm_tokens=_by_name(a.lm_tokens, b.lm_tokens, counted, {}),
        tools=_tools(a.tools, b.tools),
        tool_seconds=_by_name(a.tool_seconds, b.tool_seconds, timed, Timing()),
        other_feedback=counted(a.other_feedback, b.other_feedback),
        cache_failures=_by_name(a.cache_failures, b.cache_failures, counted, {}),
        dropped=_by_name(a.dropped, b.dropped, counted, {}),
    )


def tokens_by_lm(versions: Iterable[VersionFigures]) -> dict[str, dict[str, int]]:
    """What providers counted, as `Figures.lm_tokens`."""
    found: dict[str, dict[str, int]] = {}
    for one in (one for version in versions for one in version.lms):
        tokens = {"input": one.input_tokens, "output": one.output_tokens}
        found[one.lm] = counted(found.get(one.lm, {}), tokens)
    return found


def counted(a: Mapping[str, int], b: Mapping[str, int], most: int = MOST_NAMES) -> dict[str, int]:
    """Counts by names, of which there are so many and `other`."""
    return _by_name(a, b, lambda x, y: x + y, 0, most)


def timed(a: Timing, b: Timing) -> Timing:
    """How long some took, and some others."""
    return Timing(buckets=added([a.buckets, b.buckets]), seconds=a.seconds + b.seconds)


def _by_name(
    a: Mapping[str, T], b: Mapping[str, T], together: Callable[[T, T], T], nothing: T, most: int = MOST_NAMES
) -> dict[str, T]:
    found = dict(a)
    for given, value in b.items():
        name = _name(given)
        if name not in found and len(found) >= most:
            name = OTHER
        found[name] = together(found.get(name, nothing), value)
    return found


def _name(given: str) -> str:
    """What can be written: half a character of two, as JSON may have it, cannot."""
    return given[:LONGEST_NAME].encode(errors="replace").decode()


def _lms(before: Iterable[LMFigures], new: Iterable[LMFigures]) -> tuple[LMFigures, ...]:
    found = {(one.lm, one.module): one for one in before}
    modules = {module for _, module in found} - {OTHER}
    for one in new:
        module = _name(one.module)
        if module not in modules and module != OTHER and len(modules) >= MOST_MODULES:
            module = OTHER
        modules |= {module} - {OTHER}
        key = _name(one.lm), module
        if key not in found and len(found) >= MOST_LMS:
            key = OTHER, OTHER
        found[key] = _asked(found.get(key) or LMFigures(lm=key[0], module=key[1]), one)
    return tuple(found.values())


def _asked(a: LMFigures, b: LMFigures) -> LMFigures:
    return LMFigures(
        lm=a.lm,
        module=a.module,
        outcomes=counted(a.outcomes, b.outcomes, MOST_OUTCOMES),
        input_tokens=a.input_tokens + b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cost_usd=a.cost_usd + b.cost_usd,
    )


def _tools(before: Iterable[ToolFigures], new: Iterable[ToolFigures]) -> tuple[ToolFigures, ...]:
    found = {(one.tool, one.backend): one for one in before}
    for one in new:
        key = _name(one.tool), _name(one.backend)
        if key not in found and len(found) >= MOST_TOOLS:
            key = OTHER, OTHER
        outcomes = found[key].outcomes if key in found else {}
        outcomes = counted(outcomes, one.outcomes, MOST_OUTCOMES)
        found[key] = ToolFigures(tool=key[0], backend=key[1], outcomes=outcomes)
    return tuple(found.values())

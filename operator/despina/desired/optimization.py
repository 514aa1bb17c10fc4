"""The Job that looks for a better version."""

from __future__ import annotations

from typing import Any

from despina.api.gates import ConfigMapKey
from despina.api.optimization import Optimization
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import digest, source_digest, without_first_defaults
from despina.api.runs import OptimizationRun
from despina.desired.job import Work, build_job, examples_file, job_template
from despina.desired.labels import OPTIMIZATION, REVISION, RUN
from despina.wire import OPTIMIZATION_ENV, OptimizationConfig, RuntimeConfig

START_SECONDS = 1800
"""For a node to be found and images to be pulled, and for all that asks no LM: reading labels, registering."""
WORD_SECONDS = 120
"""What a pod has at least that is told to end: so long it may take to register the best program so far."""


def optimization_prefix(program: Program) -> str:
    """What the names of its optimisations' Jobs begin with, and those of no other."""
    return f"{program.name}-opt-"


def optimization_name(program: Program, base: RuntimeConfig, modules: tuple[str, ...], until: int, again: str) -> str:
    """One Job for all that is computed alike, whatever asked for it: for the modules that may change, and with the
    labels until a moment, in milliseconds since the epoch. `again` makes a second try another run."""
    settings = _computed_with(program.spec.optimization) if program.spec.optimization else {}
    said = [program.uid, source_digest(base.model), base.revision, settings, sorted(modules), until, again]
    return f"{optimization_prefix(program)}{digest(said)}"


def _computed_with(optimization: Optimization) -> dict[str, Any]:
    """The settings that change what is found; not what begins a run, and what becomes of a better version."""
    parts = {
        "modules": (),  # of a run, those that were asked for count
        "triggers": (),
        "cooldown_seconds": Optimization.model_fields["cooldown_seconds"].default,
        "requests": "Disabled",
        "budget": optimization.budget.model_copy(update={"max_lm_calls_per_day": None}),
        "promotion": optimization.promotion.model_copy(update={"mode": "Propose"}),
    }
    return without_first_defaults(optimization.model_copy(update=parts))


def golden_file(program: Program) -> str:
    """Where the pod finds the golden set; empty where that is no ConfigMap's."""
    source = _golden(program)
    return examples_file(source) if source else ""


def build_optimization(
    program: Program, run: OptimizationRun, config: OptimizationConfig, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    """Its pod is the program's, but for its labels, and there is one: a second one would have the whole budget again.

    So a pod that is lost ends the run. The Job has not failed before the pod has ended, which may take a while: it says
    what it has found by then. What the run is for is noted on the Job, for the status may not have been written.
    """
    work = Work(
        name=run.job,
        label=OPTIMIZATION,
        command="optimize",
        variable=OPTIMIZATION_ENV,
        config=config,
        serving=config.base,
        examples=_golden(program),
    )
    spec = {
        "podReplacementPolicy": "Failed",
        "activeDeadlineSeconds": config.budget.seconds + 2 * config.base.request_timeout_seconds + START_SECONDS,
        "template": _with_last_words(job_template(program, profile, default_image, work)),
    }
    job = build_job(program, run.job, {OPTIMIZATION: run.job, REVISION: config.base.revision}, spec)
    job["metadata"]["annotations"] = {RUN: run.model_dump_json(by_alias=True, exclude_none=True)}
    return job


def _golden(program: Program) -> ConfigMapKey | None:
    ref = program.spec.optimization.dataset.golden_ref if program.spec.optimization else None
    return ref.config_map if ref else None


def _with_last_words(template: dict[str, Any]) -> dict[str, Any]:
    """The template with time to end; a podTemplate may give it more, and not less."""
    name, spec = "terminationGracePeriodSeconds", template["spec"]
    asked = spec[name]
    return template | {"spec": spec | {name: max(asked, WORD_SECONDS) if isinstance(asked, int) else asked}}

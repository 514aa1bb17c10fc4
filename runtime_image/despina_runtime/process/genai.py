"""What LMs were asked, by the names of OpenTelemetry's conventions for generative AI, for dashboards that know these.

The conventions are in development: these names may change, and those of `despina_*` do not. So nobody has them who has
not asked for them. All that is known of them stands in `telemetry/semconv.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from despina.wire import Figures, LMConfig, Timing
from despina_runtime.process.exposition import buckets_of
from despina_runtime.telemetry.figures import timed
from despina_runtime.telemetry.semconv import DURATION, MODEL_LABELS, TOKEN_LABELS, USAGE, provider_and_model

ENABLED_ENV = "DESPINA_GENAI_METRICS"
"""A program's container has it as `1` by its `podTemplate`."""
Model = tuple[str, str, str]
"""Values of MODEL_LABELS."""


def genai(lms: Callable[[], Sequence[LMConfig]], figures: Figures) -> Iterator[Metric]:
    """Durations and tokens by model, whichever entry of `spec.lms` names it."""
    models = {lm.name: _model(lm.model) for lm in lms()}
    yield _durations(figures, models)
    yield _tokens(figures, models, "input")
    yield _tokens(figures, models, "output")


def _model(name: str) -> Model:
    return "chat", *provider_and_model(name)


def _durations(figures: Figures, models: dict[str, Model]) -> Metric:
    times: dict[Model, Timing] = {}
    for lm, timing in figures.lm_seconds.items():
        model = models.get(lm) or _model(lm)
        times[model] = timed(times.get(model, Timing()), timing)
    found = HistogramMetricFamily(DURATION, "GenAI inference duration.", labels=MODEL_LABELS)
    for model, timing in times.items():
        found.add_metric(model, buckets_of(timing), timing.seconds)
    return found


def _tokens(figures: Figures, models: dict[str, Model], kind: str) -> Metric:
    """Of all versions, those among them that are not told of any more: no counter goes back."""
    counts: dict[Model, int] = {}
    for lm, tokens in figures.lm_tokens.items():
        model = models.get(lm) or _model(lm)
        counts[model] = counts.get(model, 0) + tokens.get(kind, 0)
    found = CounterMetricFamily(USAGE.format(kind), f"GenAI {kind} tokens used.", labels=TOKEN_LABELS)
    for model, count in counts.items():
        found.add_metric((*model, "text"), count)
    return found

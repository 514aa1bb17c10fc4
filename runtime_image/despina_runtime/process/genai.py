"""What LMs were asked, by the names of OpenTelemetry's conventions for generative AI, for dashboards that know these.

All that is known of the conventions stands here. It is `docs/gen-ai/client-inference.md` of semantic-conventions-genai
(https://github.com/open-telemetry/semantic-conventions-genai) after v0.1.0, all of which is in development: these names
may change, and those of `despina_*` do not. So nobody has them who has not asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from despina.wire import Figures, LMConfig, Timing
from despina_runtime.process.exposition import buckets_of
from despina_runtime.telemetry.figures import timed

ENABLED_ENV = "DESPINA_GENAI_METRICS"
"""A program's container has it as `1` by its `podTemplate`."""
LABELS = "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"
TOKEN_LABELS = *LABELS, "gen_ai_token_modality"
DURATION = "gen_ai_client_inference_duration_seconds"
USAGE = "gen_ai_client_inference_usage_{}_tokens"
Model = tuple[str, str, str]
"""Values of LABELS."""


class GenAI(Collector):
    """The figures of LMs, as they are when somebody asks."""

    def __init__(self, figures: Callable[[], Figures], lms: Callable[[], Sequence[LMConfig]]) -> None:
        self._figures, self._lms = figures, lms

    def collect(self) -> Iterator[Metric]:
        """Durations and tokens by model, whichever entry of `spec.lms` names it."""
        figures, models = self._figures(), {lm.name: _model(lm.model) for lm in self._lms()}
        yield _durations(figures, models)
        yield _tokens(figures, models, "input")
        yield _tokens(figures, models, "output")

    def describe(self) -> tuple[Metric, ...]:
        """Nothing beforehand."""
        return ()


def _model(name: str) -> Model:
    provider, _, model = name.rpartition("/")
    return "chat", provider, model


def _durations(figures: Figures, models: dict[str, Model]) -> Metric:
    times: dict[Model, Timing] = {}
    for lm, timing in figures.lm_seconds.items():
        model = models.get(lm) or _model(lm)
        times[model] = timed(times.get(model, Timing()), timing)
    found = HistogramMetricFamily(DURATION, "GenAI inference duration.", labels=LABELS)
    for model, timing in times.items():
        found.add_metric(model, buckets_of(timing), timing.seconds)
    return found


def _tokens(figures: Figures, models: dict[str, Model], kind: str) -> Metric:
    counts: dict[Model, int] = {}
    for one in (one for version in figures.versions.values() for one in version.lms):
        model = models.get(one.lm) or _model(one.lm)
        counts[model] = counts.get(model, 0) + getattr(one, f"{kind}_tokens")
    found = CounterMetricFamily(USAGE.format(kind), f"GenAI {kind} tokens used.", labels=TOKEN_LABELS)
    for model, count in counts.items():
        found.add_metric((*model, "text"), count)
    return found

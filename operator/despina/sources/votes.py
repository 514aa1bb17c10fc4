"""What MLflow's answers say of labels, read entry by entry: anybody may have written them (pure).

The runtime writes each label as an assessment of its prediction's trace (`despina_runtime/feedback/sink.py`), with
the moment and the prediction among its metadata. One that somebody gave in MLflow's own pages has neither. A run counts
labels of people only (`despina_runtime/optimization/labels.py`), so these are counted here.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from despina.decide.observed import Vote
from despina.decide.quarantine import LAST_MOMENT, parse_timestamp

LABEL = "label"
SUCCESS, FAILURE = "success", "failure"
PEOPLE = "HUMAN"
AT, PREDICTION = "despina.at", "despina.prediction"
HIT = "~"
"""In the name of an answer that was given again from the cache: it shares its trace with others."""
NEVER = -1.0
AHEAD_SECONDS = 3600.0
"""How far a pod's clock may be ahead of MLflow's. A label from the years to come would be the latest for as long."""
Read = TypeVar("Read", bound=BaseModel)


class _ExperimentId(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    experiment_id: Annotated[str, Field(min_length=1, max_length=64)]


class _Experiment(BaseModel):
    experiment: _ExperimentId


class _DataPoint(BaseModel):
    dimensions: dict[str, str]
    values: dict[str, float]


class _Counts(BaseModel):
    data_points: list[_DataPoint] = []
    next_page_token: str = ""


class _Page(BaseModel):
    traces: list[Any] = []
    next_page_token: Annotated[str, Field(max_length=4096)] = ""


class _Trace(BaseModel):
    trace_id: str
    assessments: list[Any] = []


class _Feedback(BaseModel):
    value: Any = None


class _Source(BaseModel):
    source_type: str


class _Assessment(BaseModel):
    assessment_name: str
    source: _Source
    feedback: _Feedback
    valid: bool | None = None
    create_time: str | None = None
    last_update_time: str | None = None
    metadata: dict[str, Any] = {}


def experiment_id_of(answer: bytes) -> str:
    """Of the answer to `experiments/get-by-name`; raises ValidationError."""
    return _Experiment.model_validate_json(answer).experiment.experiment_id


def counts_question(experiment_id: str) -> dict[str, Any]:
    """What to send to `traces/metrics`: how many labels of each value there are."""
    return {
        "experiment_ids": [experiment_id],
        "view_type": "ASSESSMENTS",
        "metric_name": "assessment_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
        "dimensions": ["assessment_value"],
        "filters": [f'assessment.name = "{LABEL}"'],
    }


def counts_of(answer: bytes) -> tuple[Any, ...] | None:
    """Its answer, in one order; None where it does not tell all."""
    try:
        found = _Counts.model_validate_json(answer)
    except ValidationError:
        return None
    said = [(sorted(point.dimensions.items()), sorted(point.values.items())) for point in found.data_points]
    return None if found.next_page_token else tuple(sorted(said))


def page_question(experiment_id: str, size: int, token: str) -> dict[str, Any]:
    """What to send to `traces/search`: labelled traces, the newest first, as MLflow has it by itself."""
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
    asked = {"locations": [location], "filter": f"feedback.{LABEL} IS NOT NULL", "max_results": size}
    return asked | ({"page_token": token} if token else {})


def token_after(traces: int) -> str:
    """A page's token as MLflow makes it: for what comes behind a trace that is too long to be read at all."""
    return base64.b64encode(json.dumps({"offset": traces}).encode()).decode()


def page_of(answer: bytes) -> tuple[int, dict[str, Vote], str]:
    """How many traces a page has, the votes by their predictions, and the next page's token, which is empty after the
    last one; raises ValidationError."""
    page = _Page.model_validate_json(answer)
    votes: dict[str, Vote] = {}
    for trace in _readable(_Trace, page.traces):
        add(votes, _votes(trace))
    return len(page.traces), votes, page.next_page_token if page.traces else ""


def add(votes: dict[str, Vote], more: Mapping[str, Vote] | Iterable[tuple[str, Vote]]) -> None:
    """Of two that are about the same prediction, the latest counts."""
    for prediction, vote in more.items() if isinstance(more, Mapping) else more:
        known = votes.get(prediction)
        if known is None or known.at <= vote.at:
            votes[prediction] = vote


def in_order(votes: Mapping[str, Vote], most: int) -> tuple[Vote, ...]:
    """The latest last, and no more than so many of the latest."""
    return tuple(sorted(votes.values(), key=lambda vote: (vote.at, vote.is_failure))[-most:])


def _votes(trace: _Trace) -> Iterator[tuple[str, Vote]]:
    for found in _readable(_Assessment, trace.assessments):
        at = _moment(found)
        is_label = found.assessment_name == LABEL and found.valid is not False
        if is_label and found.source.source_type == PEOPLE and found.feedback.value in (SUCCESS, FAILURE) and at >= 0:
            yield _prediction(found, trace), Vote(at, found.feedback.value == FAILURE)


def _prediction(found: _Assessment, trace: _Trace) -> str:
    """By what its votes are known, whether they came by way of the program or not."""
    name = found.metadata.get(PREDICTION)
    return name if isinstance(name, str) and HIT in name else trace.trace_id


def _moment(found: _Assessment) -> float:
    """When it was given: as whoever took it noted, or else as MLflow did."""
    noted = _as_moment(parse_timestamp(found.last_update_time or found.create_time, NEVER))
    try:
        given = _as_moment(float(found.metadata.get(AT, NEVER)))
    except (TypeError, ValueError, OverflowError):
        return noted
    is_ahead = noted != NEVER and given > noted + AHEAD_SECONDS
    return noted if given == NEVER or is_ahead else given


def _as_moment(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and 0 <= seconds <= LAST_MOMENT else NEVER


def _readable(kind: type[Read], entries: Iterable[Any]) -> Iterator[Read]:
    """The entries that are such."""
    for entry in entries:
        try:
            yield kind.model_validate(entry)
        except ValidationError:
            continue

"""Labelled predictions, as the program's MLflow has them: traces of its experiment, and what people said of them.

Most of it was written by `feedback/sink.py`, and whatever else is there was not: whoever may write to the server can
add a trace or an assessment, by MLflow's own pages as well. So each is read by itself, and what cannot be is left out
and counted. Of a label that does not come by way of the program nobody showed a credential: it is not trusted.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, ValidationError

from despina.wire import ModelRef, Report
from despina.wire.labels import is_deep
from despina.wire.predictions import unsigned
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.feedback.sink import EXPECTED, LABEL
from despina_runtime.optimization.datasets import LabelledPrediction
from despina_runtime.tracking import Lacking, told

API = "/api/3.0/mlflow/traces"
PAGE, SPANS_AT_ONCE = 200, 100
INPUTS, OUTPUTS = "mlflow.spanInputs", "mlflow.spanOutputs"
MOST_BYTES = 2**28
"""Of inputs and outputs. Where there is more, the latest predictions count."""
RETRIES, BUSY = 4, (408, 429, 502, 503, 504)
"""Of each request, by MLflow's client, after ever longer pauses: about half a minute."""


class Own(Report):
    """What the program notes beside a label."""

    at: Annotated[float, Field(alias="despina.at", allow_inf_nan=False)]
    prediction: Annotated[str, Field(alias="despina.prediction")]
    trusted: Annotated[Literal["true", "false"], Field(alias="despina.trusted")]


class Source(Report):
    """Who says so."""

    source_type: str
    source_id: str = ""


class Serialized(Report):
    """A value as JSON."""

    value: str


class Expectation(Report):
    """A value, in one of two ways."""

    value: Any = None
    serialized_value: Serialized | None = None


class Value(Report):
    """A value."""

    value: Any = None


class Assessment(Report):
    """What somebody said of a trace."""

    assessment_name: str
    source: Source
    last_update_time: datetime
    rationale: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    feedback: Value | None = None
    expectation: Expectation | None = None
    span_id: str | None = None
    valid: bool | None = None
    """False where a later one overrides it."""

    @property
    def own(self) -> Own | None:
        """None where it does not come by way of the program."""
        try:
            return Own.model_validate(self.metadata)
        except ValidationError:
            return None

    @property
    def at(self) -> float:
        """When it was said, in seconds since the epoch."""
        return self.own.at if self.own else self.last_update_time.timestamp()

    @property
    def belongs_to(self) -> tuple[str, float] | None:
        """The same for a label of the program's and what was expected with it; None for all that people add."""
        return (self.own.prediction, self.own.at) if self.own else None


@dataclass(frozen=True)
class Vote:
    """A label, and what was expected with it."""

    label: Assessment
    expected: dict[str, Any] | None


@dataclass(frozen=True)
class Labels:
    """What was read."""

    predictions: tuple[LabelledPrediction, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many labels give none, by why: Unreadable, NotHuman, Unrecorded (inputs or outputs are not kept), OfModule
    (it is not the whole program that answered), NotGiven (MLflow has a trace that it cannot show), TooMuch."""


class Unreadable(Exception):
    """Something that somebody wrote is not what it should be."""


def votes(assessments: Iterable[Any], until: float | None, left_out: Counter[str]) -> list[Vote]:
    """Labels of one trace that count; the others are counted in `left_out`."""
    read = [_assessment(one, left_out) for one in assessments]
    known = [one for one in read if one and one.valid is not False and (until is None or one.at <= until)]
    found = []
    for label in (one for one in known if one.assessment_name == LABEL and one.feedback):
        try:
            found.append(_vote(label, [one for one in known if one.assessment_name == EXPECTED]))
        except Unreadable as exc:
            left_out[str(exc)] += 1
    return found


def _assessment(document: Any, left_out: Counter[str]) -> Assessment | None:
    try:
        return Assessment.model_validate(document)
    except ValidationError:
        name = document.get("assessment_name") if isinstance(document, dict) else None
        left_out["Unreadable"] += name in (LABEL, EXPECTED)
        return None


def _vote(label: Assessment, expected: Sequence[Assessment]) -> Vote:
    """Raises Unreadable."""
    if label.source.source_type != "HUMAN":
        raise Unreadable("NotHuman")
    if label.feedback is None or label.feedback.value not in ("success", "failure"):
        raise Unreadable("Unreadable")
    own = [one for one in expected if one.belongs_to == label.belongs_to and one.expectation]
    last = max(own, key=lambda one: one.at, default=None)
    return Vote(label, _fields(_value(last.expectation)) if last and last.expectation else None)


def _value(expectation: Expectation) -> Any:
    return expectation.serialized_value.value if expectation.serialized_value else expectation.value


def _fields(value: Any) -> dict[str, Any]:
    """Named values, or their JSON, which may have been written as a text once more; raises Unreadable."""
    try:
        for _ in range(2):
            value = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        raise Unreadable("Unreadable") from None
    if not isinstance(value, dict) or is_deep(value):
        raise Unreadable("Unreadable")
    return value


def root_of(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a trace's first span, and its `span_id`; raises Unreadable."""
    try:
        (root,) = (span for span in trace["spans"] if not span.get("parent_span_id"))
        facts = {one["key"]: plain(one["value"]) for one in root.get("attributes", ()) if one.get("value")}
        return facts | {"span_id": base64.b64decode(root["span_id"]).hex()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Unreadable("Unreadable") from None


def plain(value: Mapping[str, Any]) -> Any:
    """A value of OTLP's as what it means."""
    ((kind, own),) = value.items()
    if kind == "kvlist_value":
        return {one["key"]: plain(one["value"]) if one.get("value") else None for one in own.get("values", ())}
    if kind == "array_value":
        return [plain(one) if one else None for one in own.get("values", ())]
    return int(own) if kind == "int_value" else own  # JSON has long integers as texts


def labelled(vote: Vote, trace_id: str, root: Mapping[str, Any]) -> LabelledPrediction:
    """What is known of one answer; raises Unreadable."""
    label, own = vote.label, vote.label.own
    if root.get("despina.module") or label.span_id not in (None, "", root["span_id"]):
        raise Unreadable("OfModule")  # it takes and gives something else than the program
    if root.get(INPUTS) is None or root.get(OUTPUTS) is None:
        raise Unreadable("Unrecorded")
    try:
        return LabelledPrediction(
            prediction_id=unsigned(own.prediction) if own else root.get("despina.prediction") or trace_id,
            inputs=root[INPUTS],
            outputs=root[OUTPUTS],
            label=label.feedback.value if label.feedback else None,
            reason=label.rationale or None,
            expected=vote.expected,
            source=label.source.source_id,
            trusted=own is not None and own.trusted == "true",
            at=label.at,
        )
    except ValidationError:
        raise Unreadable("Unreadable") from None


class Experiment:
    """One experiment of a tracking server, asked with the program's own credentials."""

    def __init__(self, model: ModelRef, secret: str | None, name: str) -> None:
        self._server, self._secret, self._name = model.tracking_uri, secret, name

    def read(self, until: float | None) -> Labels:
        """Its labelled predictions, by labels that were given until then; raises Unusable.

        Page by page, so that of what gives no row there is never more than a page.
        """
        reading = Reading(until)
        try:
            with told(self._server, self._secret):
                for page in self._pages(self._id()):
                    reading.meet(self._traces(reading.take(page)))
        except Lacking as exc:
            raise Unusable(str(exc)) from exc
        return reading.labels

    def _id(self) -> str:
        asked = {"experiment_name": self._name}
        answer = self._ask("GET", "/api/2.0/mlflow/experiments/get-by-name", params=asked, none_if=404)
        if answer is None:
            raise Unusable(
                f"MLflow has no experiment {self._name}: the program makes it when it delivers the first prediction"
            )
        return str(answer.get("experiment", {}).get("experiment_id"))

    def _pages(self, number: str) -> Iterator[list[Any]]:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": number}}
        asked = {"locations": [place], "filter": f"feedback.{LABEL} IS NOT NULL", "max_results": PAGE}
        while True:
            page = self._ask("POST", f"{API}/search", json=asked) or {}
            yield page.get("traces") or []
            if not page.get("next_page_token"):
                return
            asked["page_token"] = page["next_page_token"]

    def _traces(self, ids: Sequence[str]) -> Iterator[Any]:
        for first in range(0, len(ids), SPANS_AT_ONCE):
            yield from self._together(ids[first : first + SPANS_AT_ONCE])

    def _together(self, ids: Sequence[str]) -> list[Any]:
        """Traces; MLflow fails over all of them for one that holds what it cannot write, such as very long integers."""
        answer = self._ask("GET", f"{API}/batchGet", params={"trace_ids": list(ids)}, none_if=500)
        if answer is not None:
            return answer.get("traces") or []
        half = len(ids) // 2
        return [*self._together(ids[:half]), *self._together(ids[half:])] if half else []

    def _ask(self, method: str, path: str, none_if: int = 0, **what: Any) -> dict[str, Any] | None:
        """What MLflow answers; None if it is this status. Raises Unusable."""
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        own = get_default_host_creds(self._server)
        try:
            answer = http_request(
                own, path, method, max_retries=RETRIES, retry_codes=BUSY, raise_on_status=False, **what
            )
            if answer.status_code in (200, none_if):
                return dict(answer.json()) if answer.status_code == 200 else None
        except (MlflowException, OSError, TypeError, ValueError) as exc:
            raise Unusable(self._away(type(exc).__name__)) from exc
        if answer.status_code in (401, 403):
            raise Unusable(
                f"MLflow does not show the experiment {self._name} ({answer.status_code}): let the program's"
                " credentials read it"
            )
        raise Unusable(self._away(str(answer.status_code)))

    def _away(self, why: str) -> str:
        return f"MLflow does not give the labels of {self._name} ({why}): begin the run again when it answers"


class Reading:
    """What has been read so far."""

    def __init__(self, until: float | None) -> None:
        self._until = until
        self._left_out: Counter[str] = Counter()
        self._found: list[LabelledPrediction] = []
        self._votes: dict[str, list[Vote]] = {}
        self._size = 0

    def take(self, page: Iterable[Any]) -> list[str]:
        """Take in what was said of some traces; the ids of those whose spans are wanted for it."""
        given = ((one["trace_id"], one.get("assessments") or []) for one in page)
        self._votes = {name: own for name, said in given if (own := votes(said, self._until, self._left_out))}
        if self._size > MOST_BYTES:
            self._leave_out("TooMuch")
        return list(self._votes)

    def meet(self, traces: Iterable[Any]) -> None:
        """Take in what it was said of."""
        for trace in traces:
            trace_id = trace["trace_info"]["trace_id"]
            self._join(self._votes.pop(trace_id, []), trace_id, trace)
        self._leave_out("NotGiven")

    def _leave_out(self, why: str) -> None:
        self._left_out[why] += sum(map(len, self._votes.values()))
        self._votes = {}

    def _join(self, said: Sequence[Vote], trace_id: str, trace: Mapping[str, Any]) -> None:
        """A trace's inputs and outputs are read once for all votes on it: a cached answer may have many."""
        try:
            root = root_of(trace)
            words = {name: _fields(root[name]) for name in (INPUTS, OUTPUTS) if root.get(name) is not None}
        except Unreadable as exc:
            self._left_out[str(exc)] += len(said)
            return
        for vote in said:
            self._add(vote, trace_id, root | words)
        self._size += len(canonical(words))

    def _add(self, vote: Vote, trace_id: str, root: Mapping[str, Any]) -> None:
        if self._size > MOST_BYTES:
            self._left_out["TooMuch"] += 1
            return
        try:
            found = labelled(vote, trace_id, root)
        except Unreadable as exc:
            self._left_out[str(exc)] += 1
        else:
            self._found.append(found)
            self._size += len(canonical(found.expected)) + len(found.reason or "")

    @property
    def labels(self) -> Labels:
        """All of it."""
        return Labels(tuple(self._found), {why: n for why, n in self._left_out.items() if n})

"""`POST /feedback`: what callers say of answers, one label or a list of them."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from despina.wire import FeedbackConfig
from despina.wire.labels import DEEPEST, LONGEST_LABEL, Label, Reply, is_deep
from despina.wire.predictions import Foreign, Prediction
from despina_runtime.feedback.label import MOST_LABELS, Given
from despina_runtime.feedback.line import Line
from despina_runtime.http.asgi import read_body
from despina_runtime.http.mcp_server import Offer, Refusal, Told
from despina_runtime.lm.target import KeyFile
from despina_runtime.messages import Receive
from despina_runtime.problem import Problem, invalid_input
from despina_runtime.program.interface import Interface
from despina_runtime.telemetry.prediction import Names

TRUST_HEADER = b"despina-feedback-token"
LONGEST_BODY = 2**20
UNFIT = "The label does not fit"


class Feedback:
    """Takes labels of one revision's callers, also on predictions that other revisions made."""

    def __init__(
        self,
        interface: Interface,
        config: FeedbackConfig,
        names: Names,
        line: Line,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._interface, self._config, self._names, self._line, self._clock = interface, config, names, line, clock
        self._token = KeyFile(config.trusted_token_file)

    async def answer(self, request: Request) -> Response:
        """202 when all are on the disk; of a list, what became of each stands there."""
        body = await read_body(request.receive, LONGEST_BODY)
        document = _read(body)
        is_trusted = self._is_trusted(dict(request.scope["headers"]))
        replies = await self.take(document, is_trusted)
        return Response(orjson.dumps(replies), 202, media_type="application/json")

    def offer(self, program: str) -> Offer:
        """The same as a tool of the Model Context Protocol."""

        async def call(arguments: dict[str, Any], headers: dict[bytes, bytes], _: Receive | None) -> Told:
            try:
                return orjson.dumps(await self.take(arguments, self._is_trusted(headers))), {}
            except Problem as problem:
                raise Refusal(f"{problem.title}: {problem.detail}".removesuffix(": ")) from None

        text = f"Say whether an answer of {program} was right; its name is in the answer's _meta."
        return Offer(f"{program}-feedback", text, Given.model_json_schema(), Reply.model_json_schema(), call)

    async def take(self, document: Any, is_trusted: bool) -> Any:
        """One label or a list of them as JSON; what became of it. Raises Problem."""
        if not isinstance(document, list):
            (reply,) = await self._line.store([self._label(document, is_trusted)])
            _check(reply, self._config.label_within_seconds)
            return reply.model_dump()
        if not 1 <= len(document) <= MOST_LABELS:
            raise _unfit("(body)", f"a list has 1 to {MOST_LABELS} labels")
        labels, problems = self._readable(document, is_trusted)
        replies = iter(await self._line.store(labels)) if labels else iter(())
        return {"results": [problem.document() if problem else next(replies).model_dump() for problem in problems]}

    def _readable(self, document: Sequence[Any], is_trusted: bool) -> tuple[list[Label], list[Problem | None]]:
        """The labels that can be read, and for each that was given why it cannot."""
        labels, problems = list[Label](), list[Problem | None]()
        for one in document:
            try:
                labels.append(self._label(one, is_trusted))
                problems.append(None)
            except Problem as problem:
                problems.append(problem)
        return labels, problems

    def _label(self, document: Any, is_trusted: bool) -> Label:
        try:
            given = Given.model_validate(document)
        except ValidationError as exc:
            raise invalid_input(exc, UNFIT) from None
        if is_deep(given.expected):
            raise _unfit("expected", f"at most {DEEPEST} levels")
        if len(to_json(given)) > LONGEST_LABEL:
            raise _unfit("expected", f"a label has at most {LONGEST_LABEL} bytes")
        prediction = self._prediction(given.prediction_id)
        self._check_expected(given.expected, prediction)
        return given.on(prediction, self._clock(), is_trusted)

    def _prediction(self, name: str) -> Prediction:
        kept = self._config.label_within_seconds
        try:
            found = self._names.read(name)
        except Foreign:
            raise _unfit("prediction_id", "no prediction of this program has this name") from None
        if found is None:
            raise Problem(
                404, "unknown-prediction", "There is no such prediction", f"Predictions are kept for {kept} seconds"
            )
        if found.at < self._clock() - kept:
            raise _gone(kept)
        return found

    def _check_expected(self, expected: Mapping[str, Any] | None, prediction: Prediction) -> None:
        """Held to the outputs as far as they are known: another revision's may be others."""
        if expected is None or prediction.revision != self._names.revision:
            return
        fields = self._interface.outputs.model_fields
        if not expected:
            raise _unfit("expected", "at least one output")
        if unknown := expected.keys() - fields.keys():
            raise _unfit(f"expected.{min(unknown)}", f"is no output; outputs are {', '.join(fields)}")
        try:
            self._interface.outputs.model_validate_json(to_json(expected))
        except ValidationError as exc:
            wrong = [e for e in exc.errors() if e["loc"] and e["loc"][0] in expected]
            if wrong:
                raise _unfit(".".join(("expected", *map(str, wrong[0]["loc"]))), wrong[0]["msg"]) from None

    def _is_trusted(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the program's credential for labels was shown; a wrong one is refused, for its bearer believes that
        it counts."""
        given, token = headers.get(TRUST_HEADER), self._token.read()
        if given is None:
            return False
        if not token or not hmac.compare_digest(given, token.encode()):
            raise Problem(401, "unauthorized", f"The header {TRUST_HEADER.decode()} holds another token")
        return True


def _read(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        raise _unfit("(body)", "is not JSON") from None


def _check(reply: Reply, kept_seconds: int) -> None:
    if reply.status == "Gone":
        raise _gone(kept_seconds)
    if reply.status == "Failed":
        raise Problem(503, "feedback-not-stored", "The label could not be stored", "Send it again", retry_after=5)


def _gone(kept_seconds: int) -> Problem:
    detail = (
        f"Predictions are kept for {kept_seconds} seconds, and as long as their pod lives where they were not delivered"
    )
    return Problem(410, "prediction-gone", "What this label is about is not kept any more", detail)


def _unfit(field: str, message: str) -> Problem:
    return Problem(422, "invalid-label", UNFIT, f"{field}: {message}", ({"field": field, "message": message},))

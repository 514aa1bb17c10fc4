"""`POST /optimize` and `POST /modules/PATH/optimize`: callers ask for a better version, if the manifest lets them."""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from despina.wire import RuntimeConfig
from despina_runtime.feedback.line import Line, Unwished
from despina_runtime.http.asgi import read_body
from despina_runtime.http.modules import Modules
from despina_runtime.problem import Problem, invalid_input

LONGEST_BODY = 4096


class Nothing(BaseModel):
    """The body: there is nothing to say."""

    model_config = ConfigDict(extra="forbid")


class Wishing:
    """Takes requests of one revision's callers. The pod only notes them: it has no rights in the cluster."""

    def __init__(self, modules: Modules, config: RuntimeConfig, line: Line) -> None:
        self._modules, self._line = modules, line
        self._is_enabled = config.optimize_requests
        place = f"-n {config.namespace} {config.program}"
        self._watch = f"kubectl get dspy {place} -o jsonpath='{{.status.optimization}}'"

    async def answer(self, request: Request) -> Response:
        """202 with the request's number when the pod has noted it."""
        if not self._is_enabled:
            detail = "spec.optimization.requests: Enabled in the manifest offers this"
            raise Problem(404, "requests-disabled", "Callers may not ask for an optimisation", detail)
        module = request.path_params.get("path")
        if module is not None:
            self._modules.check_predicts(module)
        _check_empty(await read_body(request.receive, LONGEST_BODY))
        number = await self._line.wish(module or "")
        if not isinstance(number, int):
            raise _refused(number)
        told = {"request": number, "module": module or "", "watch": self._watch}
        return Response(orjson.dumps(told), 202, media_type="application/json")


def _check_empty(body: bytes) -> None:
    try:
        Nothing.model_validate_json(body.strip() or b"{}")
    except ValidationError as exc:
        raise invalid_input(exc, "Nothing is to be said in the body") from None


def _refused(why: Unwished) -> Problem:
    if why == "NoOperator":
        detail = "`despina-runtime optimize -f MANIFEST` makes a better version without a cluster"
        return Problem(501, "no-operator", "There is no operator here that could begin one", detail)
    if why == "TooMany":
        return Problem(429, "rate-limited", "Too many modules are asked for at once", retry_after=1)
    return Problem(503, "request-not-noted", "The request could not be noted", "Send it again", retry_after=5)

"""Questions by hand on the admin port: whether one counts, who answers it, and what prompts are told of.

Anybody may send one, so nothing is read of what is not signed in form, and nothing is done for what is not signed in
fact, is for another pod or another life of it, or was there before.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from despina.wire import (
    ASK_PATH,
    LONGEST_QUESTION,
    PROMPTS_PATH,
    SIGNATURE_HEADER,
    Answered,
    OrdersReport,
    Question,
)
from despina_runtime.http.traces import UNREADABLE
from despina_runtime.lines import Intake
from despina_runtime.process.admin import NotNew, OrderRefused, is_signature, read_key, read_order

FORM = re.compile(r"[A-Za-z0-9+/]{86}==(, [A-Za-z0-9+/]{86}==){0,3}")
MOST_AT_ONCE = 2
"""Questions that are worked on in a pod."""
MOST_READ = 4 * LONGEST_QUESTION
"""Bytes of questions that are read at the same time."""
Answering = Callable[[Question], Awaitable[Answered | None]]


class QuestionDesk:
    """Decides whether a question counts."""

    def __init__(self, namespace: str, pod: str, key: str, boot: str) -> None:
        """`key`: base64 of the public half; without one, no question counts."""
        self._address, self._key = (namespace, pod), read_key(key) if key else None
        self.last = OrdersReport(boot=boot)

    def accept(self, body: bytes, signatures: str) -> Question:
        """The question, verified; raises OrderRefused, and NotNew for one that must be numbered anew."""
        if not (key := self._key) or not any(is_signature(key, one.strip(), body) for one in signatures.split(",")):
            raise OrderRefused(403, "the question is not signed with a key that this pod knows")
        try:
            question = Question.model_validate_json(body)
        except ValidationError:
            raise OrderRefused(400, "the question says what this pod does not understand") from None
        if (question.namespace, question.pod) != self._address:
            raise OrderRefused(421, "the question is for another pod")
        if question.boot != self.last.boot or question.number <= self.last.number:
            raise NotNew(self.last)
        self.last = OrdersReport(boot=self.last.boot, number=question.number)
        return question


class Questions:
    """Takes questions in, and has them answered; so many at once."""

    def __init__(self, desk: QuestionDesk, answer: Answering) -> None:
        self._desk, self._answer = desk, answer
        self._intake, self._at_once = Intake(MOST_READ), 0

    async def take(self, request: Request) -> Response:
        """One question."""
        try:
            return await self._answered(await self._taken(request))
        except NotNew as exc:
            return Response(exc.report.model_dump_json(), exc.status, media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except OrderRefused as exc:
            return PlainTextResponse(f"{exc}\n", exc.status)

    async def _taken(self, request: Request) -> Question:
        signatures = request.headers.get(SIGNATURE_HEADER, "")
        if not FORM.fullmatch(signatures):
            raise OrderRefused(403, "the question is not signed")
        body = await read_order(self._intake, request, LONGEST_QUESTION)
        question = self._desk.accept(body, signatures)  # first, so that whoever heard it cannot bring it again later
        if self._at_once >= MOST_AT_ONCE:
            raise OrderRefused(503, "others ask by hand at this moment")
        return question

    async def _answered(self, question: Question) -> Response:
        self._at_once += 1
        try:
            found = await self._answer(question)
        finally:
            self._at_once -= 1
        if found is None:
            return PlainTextResponse("no worker that holds this revision has answered\n", 504)
        return Response(found.model_dump_json(exclude_defaults=True), media_type="application/json")


def asking_routes(
    questions: Questions, prompts: Callable[[str], bytes | None], is_reader: Callable[[str], bool]
) -> list[Route]:
    """Asking, and reading what a revision's prompts are made of."""

    async def told(request: Request) -> Response:
        if not is_reader(request.headers.get(SIGNATURE_HEADER, "")):
            return PlainTextResponse(UNREADABLE, 403)
        found = prompts(request.path_params["revision"])
        return Response(found or b"{}", 200 if found else 404, media_type="application/json")

    return [Route(ASK_PATH, questions.take, methods=["POST"]), Route(f"{PROMPTS_PATH}/{{revision}}", told)]

"""The admin port: probes, metrics, and the operator's signed orders. The supervisor serves it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from despina.wire import (
    FIGURES_PATH,
    INTERFACE_PATH,
    LABELS_PATH,
    LONGEST_WAIT,
    MAX_ORDER_BYTES,
    ORDERS_PATH,
    SIGNATURE_HEADER,
    STATE_PATH,
    Figures,
    Order,
    OrdersReport,
    PodState,
)
from despina.wire.labels import LONGEST_FORWARDED
from despina_runtime.feedback.counts import REGISTRY
from despina_runtime.http.prometheus import metrics
from despina_runtime.http.traces import UNREADABLE, Held, trace_routes
from despina_runtime.lines import GaveWay, Intake, TooLong
from despina_runtime.process.exposition import View, registry_of
from despina_runtime.process.news import News

if TYPE_CHECKING:
    from despina_runtime.feedback.desk import FeedbackDesk

MOST_SIGNATURES = 4
PEERS_SIGNATURE = re.compile(r"[0-9a-f]{64}")
NOT_FOR_THIS_POD = "not for this pod\n"
MOST_AT_ONCE = 2**24
"""Bytes of orders that are read at the same time, and as many of labels: anybody may send them."""
TOO_MANY = "there is too much at once\n"


class Waiting(BaseModel):
    """How long an answer may wait, and for what."""

    after: int = Field(default=0, ge=0)
    wait: float = Field(default=0.0, ge=0, le=LONGEST_WAIT)


class OrderRefused(Exception):
    """An order that does not count; the status says which kind of refusal it is."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotNew(OrderRefused):
    """An order for another life of this pod, or one that comes late: numbered anew it may be accepted."""

    def __init__(self, report: OrdersReport) -> None:
        super().__init__(409, "the order is not newer than the last one")
        self.report = report


class OrderDesk:
    """Decides whether an order counts."""

    def __init__(self, namespace: str, pod: str, public_keys: Iterable[str], boot: str) -> None:
        self._address = namespace, pod
        self._keys = [key for text in public_keys if (key := read_key(text))]
        self.report = OrdersReport(boot=boot)

    def accept(self, body: bytes, signatures: str) -> Order:
        """The order, verified; raises OrderRefused."""
        if not self._is_signed(body, signatures):
            raise OrderRefused(403, "the order is not signed with a key that this pod knows")
        try:
            order = Order.model_validate_json(body)
        except ValidationError:
            raise OrderRefused(400, "the order says what this pod does not understand") from None
        if (order.namespace, order.pod) != self._address:
            raise OrderRefused(421, "the order is for another pod")
        last = self.report
        if order.boot != last.boot or (order.term, order.number) <= (last.term, last.number):
            raise NotNew(last)
        self.report = OrdersReport(boot=last.boot, term=order.term, number=order.number)
        return order

    def _is_signed(self, body: bytes, signatures: str) -> bool:
        given = [s.strip() for s in signatures.split(",")[:MOST_SIGNATURES]]
        return any(is_signature(key, signature, body) for key in self._keys for signature in given)


async def read_order(intake: Intake, request: Request, most: int = MAX_ORDER_BYTES) -> bytes:
    """An order's bytes, or a question's; raises OrderRefused for what is too long, or too slow among many."""
    try:
        return await intake.read(request.stream(), most)
    except TooLong:
        raise OrderRefused(413, "it may not be that long") from None
    except GaveWay:
        raise OrderRefused(503, TOO_MANY.strip()) from None


def read_key(text: str) -> Ed25519PublicKey | None:
    """A public key; None for what is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text))
    except ValueError:
        return None


def is_signature(key: Ed25519PublicKey, signature: str, body: bytes) -> bool:
    """Whether somebody with the private half has signed this body."""
    try:
        key.verify(base64.b64decode(signature, validate=True), body)
    except (InvalidSignature, ValueError):
        return False
    return True


def build_admin(
    is_ready: Callable[[], bool],
    desk: OrderDesk,
    obey: Callable[[Order], Awaitable[bool]],
    state: Callable[[], PodState],
    news: News,
    interface: Callable[[str], bytes | None],
    is_reader: Callable[[str], bool] = lambda _: True,
    feedback: FeedbackDesk | None = None,
    figures: Callable[[], Figures] = Figures,
    views: Iterable[View] = (),
    traces: Held | None = None,
    more: Iterable[BaseRoute] = (),
) -> Starlette:
    """The admin application. What can be read holds no secret, and of callers' words only traces have any, and prompts
    that were made of them; `is_reader` says of a signature whether it lets its bearer read; `views` are what Prometheus
    is told beside the figures."""

    def readyz(_: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503)

    reading = _Reading(desk, state, news, interface, figures, is_reader)
    return Starlette(
        routes=[
            Route(LABELS_PATH, partial(_take_labels, feedback, Intake(MOST_AT_ONCE)), methods=["POST"]),
            Route(STATE_PATH, reading.state),
            Route(FIGURES_PATH, reading.figures),
            Route(f"{INTERFACE_PATH}/{{revision}}", reading.interface),
            *(trace_routes(traces, is_reader) if traces else ()),
            *more,
            Route("/healthz", lambda _: PlainTextResponse("ok")),
            Route("/readyz", readyz),
            Route("/metrics", partial(_metrics, figures, views)),
            Route(ORDERS_PATH, partial(_take_order, desk, obey, news, Intake(MOST_AT_ONCE)), methods=["POST"]),
        ]
    )


async def _metrics(figures: Callable[[], Figures], views: Iterable[View], request: Request) -> Response:
    """Taken on the loop, on which they are counted; written in a thread, for that takes a while."""
    return await asyncio.to_thread(metrics, request, registry_of(figures(), views, REGISTRY))


async def _take_order(
    desk: OrderDesk, obey: Callable[[Order], Awaitable[bool]], news: News, intake: Intake, request: Request
) -> Response:
    try:
        body = await read_order(intake, request)
        order = desk.accept(body, request.headers.get(SIGNATURE_HEADER, ""))
    except NotNew as exc:
        return Response(exc.report.model_dump_json(), exc.status, media_type="application/json")
    except ClientDisconnect:
        return Response(status_code=400)  # which nobody reads
    except OrderRefused as exc:
        return PlainTextResponse(f"{exc}\n", exc.status)
    obeyed = await obey(order)
    news.tell()
    if not obeyed:
        return PlainTextResponse("not all workers have obeyed\n", 503)
    return PlainTextResponse("ok")


async def _take_labels(feedback: FeedbackDesk | None, intake: Intake, request: Request) -> Response:
    """Nothing is read of what cannot be for this pod, for anybody may send it."""
    signature = request.headers.get(SIGNATURE_HEADER, "")
    if feedback is None or not PEERS_SIGNATURE.fullmatch(signature):
        return PlainTextResponse(NOT_FOR_THIS_POD, 421)
    try:
        body = await intake.read(request.stream(), LONGEST_FORWARDED)
    except TooLong:
        return PlainTextResponse("labels are not that long\n", 413)
    except GaveWay:
        return PlainTextResponse(TOO_MANY, 503)
    except ClientDisconnect:
        return Response(status_code=400)  # which nobody reads
    try:
        replied = await feedback.from_peer(body, signature)
    except ValueError:  # of another version of this pod
        return PlainTextResponse("no labels\n", 400)
    if replied is None:
        return PlainTextResponse(NOT_FOR_THIS_POD, 421)
    reply, signed = replied
    return Response(reply, headers={SIGNATURE_HEADER: signed}, media_type="application/json")


class _Reading:
    """What those are told who may read."""

    def __init__(
        self, desk: OrderDesk, state: Callable[[], PodState], news: News, interface: Callable[[str], bytes | None],
        figures: Callable[[], Figures], is_reader: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._desk, self._state, self._news, self._interface = desk, state, news, interface
        self._figures, self._is_reader = figures, is_reader

    async def state(self, request: Request) -> Response:
        if not self._may_read(request):
            return PlainTextResponse(UNREADABLE, 403)
        try:
            waiting = Waiting.model_validate(dict(request.query_params))
        except ValidationError:
            return PlainTextResponse(f"after is a number from 0 on, wait are up to {LONGEST_WAIT} seconds\n", 400)
        await self._news.after(waiting.after, waiting.wait)
        told = self._state().model_copy(update={"orders": self._desk.report, "number": self._news.number})
        return Response(told.model_dump_json(exclude_defaults=True), media_type="application/json")

    async def figures(self, request: Request) -> Response:
        if not self._may_read(request):
            return PlainTextResponse(UNREADABLE, 403)
        body = self._figures().model_dump_json(exclude_defaults=True).encode()
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'  # of a pod that does nothing, nothing is read
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return Response(body, headers={"etag": tag}, media_type="application/json")

    async def interface(self, request: Request) -> Response:
        if not self._may_read(request):
            return PlainTextResponse(UNREADABLE, 403)
        found = self._interface(request.path_params["revision"])
        return Response(found or b"{}", 200 if found else 404, media_type="application/json")

    def _may_read(self, request: Request) -> bool:
        return self._is_reader(request.headers.get(SIGNATURE_HEADER, ""))

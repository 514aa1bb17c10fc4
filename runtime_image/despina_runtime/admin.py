"""The admin port: probes, metrics, and the operator's signed orders. The supervisor serves it."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Awaitable, Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from despina.wire import INTERFACE_PATH, MAX_ORDER_BYTES, ORDERS_PATH, SIGNATURE_HEADER, STATE_PATH, Order, PodState


class OrderRefused(Exception):
    """An order that is not the operator's, not for this pod, or not new."""


class OrderDesk:
    """Decides whether an order counts."""

    def __init__(self, namespace: str, pod: str, public_key: str | None) -> None:
        self._namespace = namespace
        self._pod = pod
        self._key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)) if public_key else None
        self._last = 0.0

    def accept(self, body: bytes, signature: str) -> Order:
        """The order, verified; raises OrderRefused."""
        if self._key is None:
            raise OrderRefused("this process takes no orders")
        try:
            self._key.verify(base64.b64decode(signature, validate=True), body)
            order = Order.model_validate_json(body)
        except (InvalidSignature, binascii.Error, ValidationError):
            raise OrderRefused("the order is not signed by this cluster's operator") from None
        if (order.namespace, order.pod) != (self._namespace, self._pod):
            raise OrderRefused("the order is for another pod")
        if order.issued_at <= self._last:
            raise OrderRefused("the order is not newer than the last one")
        self._last = order.issued_at
        return order


def metrics(_: Request) -> Response:
    """All processes' metrics in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def build_admin(
    is_ready: Callable[[], bool],
    desk: OrderDesk,
    obey: Callable[[Order], Awaitable[bool]],
    state: Callable[[], PodState],
    interface: Callable[[str], bytes | None],
) -> Starlette:
    """The admin application. What can be read holds no secret and no caller's words."""

    def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    def readyz(_: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503)

    async def orders(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_ORDER_BYTES:
                return PlainTextResponse("an order is not that long\n", 413)
        try:
            order = desk.accept(body, request.headers.get(SIGNATURE_HEADER, ""))
        except OrderRefused as exc:
            return PlainTextResponse(f"{exc}\n", 403)
        if not await obey(order):
            return PlainTextResponse("not all workers have obeyed\n", 503)
        return PlainTextResponse("ok")

    async def tell_state(_: Request) -> Response:
        return Response(state().model_dump_json(exclude_defaults=True), media_type="application/json")

    async def tell_interface(request: Request) -> Response:
        found = interface(request.path_params["revision"])
        return Response(found or b"{}", 200 if found else 404, media_type="application/json")

    return Starlette(
        routes=[
            Route(STATE_PATH, tell_state),
            Route(f"{INTERFACE_PATH}/{{revision}}", tell_interface),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route(ORDERS_PATH, orders, methods=["POST"]),
        ]
    )

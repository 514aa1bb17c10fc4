"""The pods' admin ports: signed orders down, and what the pods say of themselves up.

The private key stays in the operator's namespace and each pod's configuration holds the public half, so no
secret of ours is needed in anyone's namespace and a stolen pod can order nothing.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.decide.observed import PodView, kind_of
from despina.decide.plan import Tell
from despina.wire import ADMIN_PORT, ORDERS_PATH, SIGNATURE_HEADER, Order

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name of a program."""
LASTING = {"Retire": 3, "Activate": 3, "Invalidate": 60}
"""Attempts for orders that no report shows, so that they are given once. The others are given again while they are
missing from the reports."""
RETRY_SECONDS = 1.0
FORGET_SECONDS = 3.0


@dataclass(frozen=True)
class Told:
    """One order that a pod was given."""

    what: str
    at: float


class Orders:
    """Gives orders and remembers, for the life of this process, who was told what."""

    def __init__(self, client: httpx.AsyncClient, key: Ed25519PrivateKey, clock: Callable[[], float]) -> None:
        self._client = client
        self._key = key
        self._clock = clock
        self._told: dict[Key, dict[str, dict[str, Told]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def public_key(self) -> str:
        """Base64 of the public half."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def told(self, program: Key, pods: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """The last order of each kind given to a program's pods; what is remembered of any other pods is dropped."""
        present = set(pods)
        before = self._told.pop(program, {})
        for gone in before.keys() - present:
            self._turns.pop(gone, None)
        kept = {pod: self._recent(orders) for pod, orders in before.items() if pod in present}
        if kept:
            self._told[program] = kept
        return {pod: {kind: told.what for kind, told in orders.items()} for pod, orders in kept.items()}

    def _recent(self, orders: dict[str, Told]) -> dict[str, Told]:
        oldest = self._clock() - FORGET_SECONDS
        return {kind: told for kind, told in orders.items() if kind in LASTING or told.at > oldest}

    def tell(self, program: Key, tell: Tell) -> None:
        """Send an order without waiting for it."""
        pod = tell.pod
        if pod.ip is None:
            return
        orders = self._told.setdefault(program, {}).setdefault(pod.name, {})
        orders[kind_of(tell.order)] = Told(f"{tell.order} {tell.subject}", self._clock())
        task = asyncio.create_task(self._send(program, tell))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, program: Key, tell: Tell) -> None:
        for _ in range(LASTING.get(tell.order, 1)):
            if tell.pod.name not in self._told.get(program, {}):
                return  # it has gone
            try:
                async with self._turns[tell.pod.name]:  # a pod takes no order that is older than its last
                    await self._post(tell.pod, self._order(program, tell))
            except httpx.HTTPError as exc:
                log.info("Order was not taken pod=%s/%s error=%s", program[0], tell.pod.name, type(exc).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _order(self, program: Key, tell: Tell) -> Order:
        return Order(
            order=tell.order,
            subject=tell.subject,
            config=tell.config,
            inputs=dict(tell.inputs) if tell.inputs is not None else None,
            shadow=tell.shadow,
            namespace=program[0],
            pod=tell.pod.name,
            issued_at=self._clock(),
        )

    async def _post(self, pod: PodView, order: Order) -> None:
        content = order.model_dump_json(exclude_defaults=True).encode()
        signature = base64.b64encode(self._key.sign(content)).decode()
        headers = {SIGNATURE_HEADER: signature}
        response = await self._client.post(f"{address(pod)}{ORDERS_PATH}", content=content, headers=headers)
        response.raise_for_status()


def address(pod: PodView, port: int = ADMIN_PORT) -> str:
    """A pod's admin port, or another one."""
    host = f"[{pod.ip}]" if ":" in (pod.ip or "") else pod.ip
    return f"http://{host}:{port}"

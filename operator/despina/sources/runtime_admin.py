"""Signed orders to the pods' admin ports.

The private key stays in the operator's namespace and each pod's configuration holds the public half, so no
secret of ours is needed in anyone's namespace and a stolen pod can order nothing.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.decide.observed import PodView
from despina.wire import ADMIN_PORT, ORDERS_PATH, SIGNATURE_HEADER, Order

log = logging.getLogger(__name__)
Name = Literal["Retire", "Activate", "Invalidate"]
Key = tuple[str, str]
"""Namespace and name of a program."""
ATTEMPTS = {"Retire": 3, "Activate": 3, "Invalidate": 60}
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Told:
    """The last orders that one pod was given."""

    told: Literal["Retire", "Activate"] | None = None
    forgot: str | None = None


class Orders:
    """Gives orders and remembers, for the life of this process, who was told what."""

    def __init__(self, client: httpx.AsyncClient, key: Ed25519PrivateKey, clock: Callable[[], float]) -> None:
        self._client = client
        self._key = key
        self._clock = clock
        self._told: dict[Key, dict[str, Told]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def public_key(self) -> str:
        """Base64 of the public half."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def told(self, program: Key, pods: Iterable[str]) -> Mapping[str, Told]:
        """The last orders given to a program's pods; what is remembered of any other pods of it is dropped."""
        present = set(pods)
        kept = {pod: order for pod, order in self._told.pop(program, {}).items() if pod in present}
        if kept:
            self._told[program] = kept
        return kept

    def tell(self, program: Key, pod: PodView, order: Name, subject: str = "") -> None:
        """Send an order without waiting: nothing depends on it but that callers move over or see news sooner."""
        if pod.ip is None:
            return
        pods = self._told.setdefault(program, {})
        last = pods.get(pod.name, Told())
        pods[pod.name] = replace(last, forgot=subject) if order == "Invalidate" else replace(last, told=order)
        task = asyncio.create_task(self._send(program, pod, order, subject))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, program: Key, pod: PodView, order: Name, subject: str) -> None:
        for _ in range(ATTEMPTS[order]):
            if pod.name not in self._told.get(program, {}):
                return  # it has gone
            body = Order(order=order, subject=subject, namespace=program[0], pod=pod.name, issued_at=self._clock())
            try:
                await self._post(pod.ip or "", body)
            except httpx.HTTPError as exc:
                log.info("Order was not taken pod=%s/%s error=%s", program[0], pod.name, type(exc).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _post(self, ip: str, order: Order) -> None:
        content = order.model_dump_json().encode()
        host = f"[{ip}]" if ":" in ip else ip
        signature = base64.b64encode(self._key.sign(content)).decode()
        response = await self._client.post(
            f"http://{host}:{ADMIN_PORT}{ORDERS_PATH}", content=content, headers={SIGNATURE_HEADER: signature}
        )
        response.raise_for_status()

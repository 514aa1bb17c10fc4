"""Orders to pods, by their admin ports: signed, and numbered as each pod asks for.

The private keys stay in the operator's namespace and each pod's configuration holds the public halves, so no
secret of ours is needed in anyone's namespace and a stolen pod can order nothing. While a key is replaced there are
two, and each order is signed with both.

A pod accepts what is later than the last order that it took in its present life. What that was, its report says, or
else its refusal of an order that has no or the wrong number. So neither a clock nor the memory of this process
matters, nor another operator's orders.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from despina.decide.observed import JobView, OptimizationJobView, PodView, kind_of
from despina.decide.plan import Tell
from despina.sources.answers import body_of
from despina.sources.outbox import ATTEMPTS, Letter, Outbox
from despina.wire import ADMIN_PORT, ORDERS_PATH, SIGNATURE_HEADER, Order, OrdersReport

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name of a program."""
ORDER_SECONDS = 6.0
"""For a whole answer."""
RETRY_SECONDS = 1.0
FORGET_SECONDS = 3.0
RENUMBERINGS = 3
"""The first order to a pod may need one, and so does each that comes upon another operator's."""
TAKEN, UNSENT, NOT_NEW, NOT_OBEYED = 200, 0, 409, 503
REFUSALS = {
    400: "it does not understand this operator's orders",
    403: "it knows none of this operator's keys",
    NOT_NEW: "another operator orders it, too",
    413: "the order is too long for it",
}
SETTLED = {TAKEN, *REFUSALS} - {NOT_NEW}
"""Answers after which another attempt at once is of no use."""


@dataclass
class Told:
    """One order that a pod was given."""

    what: str
    at: float
    lasts: bool
    """Whether it need not be given again, though no report shows it."""


@dataclass
class _Pod:
    """What is known of one pod's orders."""

    outbox: Outbox
    told: dict[str, Told] = field(default_factory=dict)
    last: OrdersReport = field(default_factory=OrdersReport)
    refusal: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Orders:
    """Gives orders and remembers, for the life of this process, who was told what and who refused."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        keys: Sequence[Ed25519PrivateKey],
        wake: Callable[[Key], None],
        clock: Callable[[], float],
    ) -> None:
        """`wake` is called when a program's pod begins or ends to refuse."""
        self._client = client
        self._keys = keys
        self._wake = wake
        self._clock = clock
        self._pods: dict[Key, dict[str, _Pod]] = {}

    @property
    def public_keys(self) -> tuple[str, ...]:
        """Base64 of the public halves, the current one first."""
        return tuple(base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in self._keys)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that have something to send."""
        return [pod.task for pods in self._pods.values() for pod in pods.values() if pod.task]

    def told(self, program: Key, pods: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """The last order of each kind given to a program's pods; what is remembered of any other pods is dropped."""
        present, known = set(pods), self._pods.get(program, {})
        for gone in known.keys() - present:
            if task := known.pop(gone).task:
                task.cancel()
        if not known:
            self._pods.pop(program, None)
        return {name: self._recent(pod) for name, pod in known.items()}

    def _recent(self, pod: _Pod) -> Mapping[str, str]:
        return {kind: told.what for kind, told in pod.told.items() if told.lasts or self._left(told) > 0}

    def _left(self, told: Told) -> float:
        return told.at + FORGET_SECONDS - self._clock()

    def again(self, program: Key) -> float | None:
        """Seconds until an order counts as told no more: one that was lost on its way wakes nobody, and is given again
        by the pass at that time. Whoever refused it would refuse it again."""
        pods = [pod for pod in self._pods.get(program, {}).values() if not pod.refusal]
        left = [self._left(told) for pod in pods for told in pod.told.values() if not told.lasts]
        return min((seconds for seconds in left if seconds > 0), default=None)

    def refusals(self, program: Key) -> Mapping[str, str]:
        """Why pods took no order, by their names."""
        return {name: pod.refusal for name, pod in self._pods.get(program, {}).items() if pod.refusal}

    def tell(self, program: Key, tell: Tell) -> None:
        """Send an order without waiting for it."""
        if tell.pod.ip is None:
            return
        pods = self._pods.setdefault(program, {})
        pod = pods.setdefault(tell.pod.name, _Pod(Outbox(RETRY_SECONDS)))
        now = self._clock()
        pod.told[kind_of(tell.order)] = Told(f"{tell.order} {tell.subject}", now, tell.order in ATTEMPTS)
        pod.outbox.put(tell, now)
        pod.news.set()
        if pod.task is None:
            pod.task = asyncio.create_task(self._deliver(program, pod), name=f"orders {tell.pod.name}")

    async def _deliver(self, program: Key, pod: _Pod) -> None:
        """One order after the other: a pod takes none that is older than its last."""
        while pod.outbox:
            pod.news.clear()
            if letter := pod.outbox.due(self._clock()):
                status = await self._send(program, pod, letter.tell)
                is_kept = pod.outbox.tried(letter, status in SETTLED, self._clock())
                if status != TAKEN and not is_kept:
                    self._forget(pod, letter)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pod.outbox.wait(self._clock())):
                    await pod.news.wait()
        pod.task = None

    def _forget(self, pod: _Pod, letter: Letter) -> None:
        """What was given up counts as told for a moment only, so that a later pass gives it again."""
        told = pod.told.get(kind_of(letter.tell.order))
        if told and told.what == f"{letter.tell.order} {letter.tell.subject}":
            told.lasts = False

    async def _send(self, program: Key, pod: _Pod, tell: Tell) -> int:
        """One attempt, and the status of the answer."""
        try:
            status = await self._numbered(program, pod, tell)
        except Exception as exc:  # whatever a pod answers, or an order that cannot even be written down
            log.info("Order was not taken pod=%s/%s error=%s", program[0], tell.pod.name, type(exc).__name__)
            return UNSENT
        self._note(program, pod, tell.pod, status)
        return status

    def _note(self, program: Key, pod: _Pod, view: PodView, status: int) -> None:
        """Remember a refusal, or that there is none any more; an address that is another pod's by now says nothing."""
        if status not in (TAKEN, NOT_OBEYED, *REFUSALS):
            return
        before, pod.refusal = pod.refusal, REFUSALS.get(status, "")
        if before != pod.refusal:
            log.info("Pod refuses orders pod=%s/%s reason=%s", program[0], view.name, pod.refusal or "no longer")
            self._wake(program)

    async def _numbered(self, program: Key, pod: _Pod, tell: Tell) -> int:
        """The status of the answer. A pod that says that the number is wrong says which one is right."""
        if not pod.last.boot and tell.pod.report:
            pod.last = tell.pod.report.orders
        for _ in range(RENUMBERINGS):
            status, body = await self._post(program, pod, tell)
            if status != NOT_NEW:
                return status
            try:
                pod.last = OrdersReport.model_validate_json(body)
            except ValidationError:
                return NOT_NEW
        return (await self._post(program, pod, tell))[0]

    async def _post(self, program: Key, pod: _Pod, tell: Tell) -> tuple[int, bytes]:
        pod.last = OrdersReport(boot=pod.last.boot, number=pod.last.number + 1)
        content = order_of(program, tell, pod.last).model_dump_json(exclude_defaults=True).encode()
        signatures = ", ".join(base64.b64encode(key.sign(content)).decode() for key in self._keys)
        headers, url = {SIGNATURE_HEADER: signatures}, f"{address(tell.pod)}{ORDERS_PATH}"
        async with (
            asyncio.timeout(ORDER_SECONDS),
            self._client.stream("POST", url, content=content, headers=headers) as response,
        ):
            return response.status_code, await body_of(response)

    async def close(self) -> None:
        """Send nothing any more."""
        for task in self.tasks:
            task.cancel()
        await self._client.aclose()


def order_of(program: Key, tell: Tell, number: OrdersReport) -> Order:
    """What is sent, to this pod and in this life of it alone."""
    return Order(
        order=tell.order,
        subject=tell.subject,
        config=tell.config,
        inputs=dict(tell.inputs) if tell.inputs is not None else None,
        tools=tell.tools,
        shadow=tell.shadow,
        namespace=program[0],
        pod=tell.pod.name,
        boot=number.boot,
        number=number.number,
    )


def address(pod: PodView | JobView | OptimizationJobView, port: int = ADMIN_PORT) -> str:
    """A pod's admin port, or another one."""
    host = f"[{pod.ip}]" if ":" in (pod.ip or "") else pod.ip
    return f"http://{host}:{port}"

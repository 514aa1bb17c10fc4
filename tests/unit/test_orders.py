"""Orders on their way: what a pod accepts, how the operator numbers them, and what is remembered of a refusal."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from despina.decide.observed import PodView
from despina.decide.plan import Tell
from despina.sources import runtime_admin
from despina.sources.outbox import ATTEMPTS, Outbox
from despina.sources.runtime_admin import FORGET_SECONDS, Orders
from despina.wire import ORDERS_PATH, Order, OrdersReport, PodState
from despina_runtime.process.admin import NotNew, OrderDesk, OrderRefused, build_admin
from despina_runtime.process.news import News
from tests.support.drip import Drip
from tests.support.pods import public_half, signature_of

KEY = ("ns", "qa")
OURS, THEIRS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def an_order(number: int, boot: str, **changes) -> Order:
    return Order(**{"order": "Retire", "namespace": "ns", "pod": "qa-1", "number": number, "boot": boot} | changes)


class Sender:
    """One operator process, as a pod sees it."""

    def __init__(self) -> None:
        self.last = OrdersReport()

    def give(self, desk: OrderDesk) -> bytes:
        """One order, renumbered once where the pod asks for that."""
        try:
            return self._give(desk)
        except NotNew as exc:
            self.last = exc.report
            return self._give(desk)

    def _give(self, desk: OrderDesk) -> bytes:
        body = an_order(self.last.number + 1, self.last.boot).model_dump_json().encode()
        desk.accept(body, signature_of(OURS, body))
        self.last = OrdersReport(boot=self.last.boot, number=self.last.number + 1)
        return body


class Desk(RuleBasedStateMachine):
    """A pod that restarts now and then, two operators that know nothing of each other, and somebody who listens in."""

    def __init__(self) -> None:
        super().__init__()
        self.boots = 0
        self.senders = (Sender(), Sender())
        self.heard: list[bytes] = []
        self.numbers: list[tuple[int, int]] = []
        self.reboot()

    @rule()
    def reboot(self) -> None:
        self.boots += 1
        self.desk = OrderDesk("ns", "qa-1", (public_half(OURS),), f"boot-{self.boots}")
        self.numbers = []

    @rule(who=st.integers(0, 1))
    def give(self, who: int) -> None:
        self.heard.append(self.senders[who].give(self.desk))
        self.numbers.append((self.desk.report.term, self.desk.report.number))

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(self.heard))
        with pytest.raises(NotNew):
            self.desk.accept(body, signature_of(OURS, body))

    @rule(number=st.integers(0, 100))
    def forge(self, number: int) -> None:
        body = an_order(number, self.desk.report.boot).model_dump_json().encode()
        with pytest.raises(OrderRefused) as refused:
            self.desk.accept(body, signature_of(THEIRS, body))
        assert refused.value.status == 403

    @invariant()
    def numbers_only_grow(self) -> None:
        assert self.numbers == sorted(set(self.numbers))


TestDesk = Desk.TestCase


def test_a_later_term_counts_whatever_its_number():
    desk = OrderDesk("ns", "qa-1", (public_half(OURS),), "b")
    for number, term, is_new in ((5, 0, True), (1, 1, True), (6, 0, False), (1, 1, False), (2, 1, True)):
        body = an_order(number, "b", term=term).model_dump_json().encode()
        if is_new:
            desk.accept(body, signature_of(OURS, body))
            assert (desk.report.term, desk.report.number) == (term, number)
        else:
            with pytest.raises(NotNew):
                desk.accept(body, signature_of(OURS, body))


REFUSALS = {
    "not signed": (an_order(1, "b"), "", 403),
    "not base64": (an_order(1, "b"), "é", 403),
    "another pod's": (an_order(1, "b", pod="qa-2"), None, 421),
    "another namespace's": (an_order(1, "b", namespace="other"), None, 421),
    "another life's": (an_order(1, "a"), None, 409),
    "not new": (an_order(0, "b"), None, 409),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_which_kind_it_is(case):
    order, signature, status = REFUSALS[case]
    body = order.model_dump_json().encode()
    desk = OrderDesk("ns", "qa-1", (public_half(OURS),), "b")
    with pytest.raises(OrderRefused) as refused:
        desk.accept(body, signature_of(OURS, body) if signature is None else signature)
    assert refused.value.status == status
    assert desk.report == OrdersReport(boot="b"), "what is refused changes nothing"


def test_a_signed_order_of_an_operator_that_knows_more_is_not_called_unsigned():
    body = b'{"order": "Dance", "namespace": "ns", "pod": "qa-1", "number": 1, "boot": "b"}'
    with pytest.raises(OrderRefused) as refused:
        OrderDesk("ns", "qa-1", (public_half(OURS),), "b").accept(body, signature_of(OURS, body))
    assert refused.value.status == 400


def test_one_of_several_keys_and_one_of_several_signatures_is_enough():
    body = an_order(1, "b").model_dump_json().encode()
    both = f"{signature_of(THEIRS, body)}, {signature_of(OURS, body)}"
    for keys in ((OURS,), (THEIRS, OURS)):
        OrderDesk("ns", "qa-1", tuple(map(public_half, keys)), "b").accept(body, both)


async def test_who_leaves_in_the_midst_of_an_order_is_no_error():
    app = build_admin(lambda: True, OrderDesk("ns", "pod", [], "boot"), None, PodState, News(PodState), lambda _: None)
    said = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(said)

    async def send(message):
        return None

    scope = {"type": "http", "method": "POST", "path": ORDERS_PATH, "headers": [], "query_string": b""}
    await app(scope, receive, send)


def test_a_key_that_cannot_be_read_is_none():
    with pytest.raises(OrderRefused) as refused:
        OrderDesk("ns", "qa-1", ("a2V5", "é"), "b").accept(b"{}", signature_of(OURS, b"{}"))
    assert refused.value.status == 403


class Pods:
    """Real admin ports, one for each address, without sockets."""

    def __init__(self, *keys: Ed25519PrivateKey) -> None:
        self.obeyed: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.is_down = False
        self.obeys = True
        self.keys = tuple(map(public_half, keys or (OURS,)))
        self.boots = 0
        self.reboot()

    def reboot(self) -> None:
        self.boots += 1
        self.desk = OrderDesk("ns", "qa-1", self.keys, f"boot-{self.boots}")
        app = build_admin(lambda: True, self.desk, self._obey, PodState, News(PodState), lambda _: None)
        self._transport = httpx.ASGITransport(app)

    async def _obey(self, order: Order) -> bool:
        self.obeyed.append((order.order, order.subject))
        return self.obeys

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("no")
        self.bodies.append(await request.aread())
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        pass


POD = PodView("qa-1", "abc", ready=True, ip="10.0.0.1")


class Operator:
    """The operator's side, with its clock in hand."""

    def __init__(self, pods: Pods, *keys: Ed25519PrivateKey) -> None:
        self.now, self.woken = 1000.0, 0
        client = httpx.AsyncClient(transport=pods)  # type: ignore[arg-type]
        self.orders = Orders(client, keys or (OURS,), self._wake, lambda: self.now)

    def _wake(self, key) -> None:
        assert key == KEY
        self.woken += 1

    async def tell(self, order: str, subject: str = "", pod: PodView = POD) -> None:
        """Until it was taken, or given up for now."""
        self.orders.tell(KEY, Tell(pod, order, subject))
        await self.settled()

    async def settled(self) -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.orders.tasks)

    def has_told(self, order: str, subject: str = "") -> bool:
        told = self.orders.told(KEY, ["qa-1"]).get("qa-1", {})
        return PodView("qa-1", "abc", told=told).has_been_told(order, subject)

    @property
    def refusal(self) -> str:
        return self.orders.refusals(KEY).get("qa-1", "")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(runtime_admin, "RETRY_SECONDS", 0.0)


async def test_orders_are_counted_on_from_what_the_pod_says():
    pods = Pods()
    operator = Operator(pods)
    for subject in ("a", "b", "c"):
        await operator.tell("Commit", subject)
    assert pods.obeyed == [("Commit", "a"), ("Commit", "b"), ("Commit", "c")]
    assert len(pods.bodies) == 4, "the first one was asked to be numbered, and no other"
    order = Order.model_validate_json(pods.bodies[-1])
    assert (order.namespace, order.pod, order.term, order.number) == ("ns", "qa-1", 0, 3)
    known = PodView(**{**POD.__dict__, "report": PodState(orders=pods.desk.report)})
    again = Operator(pods)
    await again.tell("Commit", "d", known)
    assert pods.obeyed[-1] == ("Commit", "d")
    assert len(pods.bodies) == 5, "a report had said it"


async def test_a_pod_that_began_anew_and_an_operator_that_did_lose_no_order():
    pods = Pods()
    operator = Operator(pods)
    await operator.tell("Commit", "a")
    pods.reboot()
    await operator.tell("Commit", "b")
    operator = Operator(pods)
    await operator.tell("Commit", "c")
    assert [s for _, s in pods.obeyed] == ["a", "b", "c"]
    assert operator.refusal == ""


async def test_two_operators_lose_no_order():
    pods = Pods()
    first, second = Operator(pods), Operator(pods)
    for number in range(10):
        for name, operator in (("first", first), ("second", second)):
            operator.orders.tell(KEY, Tell(POD, "Prepare", f"{name}-{number}"))
    await asyncio.gather(first.settled(), second.settled())
    assert sorted(s for _, s in pods.obeyed) == sorted(f"{w}-{n}" for w in ("first", "second") for n in range(10))


async def test_a_refused_order_is_remembered_until_one_is_accepted_and_counts_as_told_for_a_moment_only():
    pods = Pods(THEIRS)
    operator = Operator(pods)
    for order in ("Retire", "Invalidate"):
        await operator.tell(order, "x")
        assert operator.has_told(order, "x")
        operator.now += FORGET_SECONDS + 1
        assert not operator.has_told(order, "x")
    assert len(pods.bodies) == 2, "asking again at once changes nothing"
    assert "key" in operator.refusal
    assert operator.woken == 1, "that is news once"
    pods.keys = (public_half(OURS),)
    pods.reboot()
    await operator.tell("Retire")
    assert operator.refusal == ""
    assert operator.woken == 2
    operator.now += FORGET_SECONDS + 1
    assert operator.has_told("Retire"), "no report shows it"


async def test_an_operator_of_an_earlier_term_gives_up_and_says_so():
    pods = Pods()
    body = an_order(1, pods.desk.report.boot, term=1).model_dump_json().encode()
    pods.desk.accept(body, signature_of(OURS, body))
    operator = Operator(pods)
    await operator.tell("Retire")
    assert pods.obeyed == []
    assert "another operator" in operator.refusal
    assert len(pods.bodies) <= ATTEMPTS["Retire"] * (runtime_admin.RENUMBERINGS + 1)


async def test_an_order_that_cannot_be_carried_out_is_not_refused_and_is_given_again():
    pods = Pods()
    pods.obeys = False
    operator = Operator(pods)
    await operator.tell("Retire")
    assert pods.obeyed == [("Retire", "")] * ATTEMPTS["Retire"]
    assert operator.refusal == ""
    operator.now += FORGET_SECONDS + 1
    assert not operator.has_told("Retire")


@pytest.mark.parametrize("odd", ["a redirect to what is no address of a server", "a byte now and then"])
async def test_an_odd_answer_keeps_no_later_order_from_its_pod(odd, monkeypatch):
    monkeypatch.setattr(runtime_admin, "ORDER_SECONDS", 0.05)
    pods = Pods()
    answers = [
        httpx.Response(200, stream=Drip()) if "byte" in odd else httpx.Response(302, headers={"location": "mailto:x"})
    ]
    right = pods.handle_async_request

    async def once(request: httpx.Request) -> httpx.Response:
        return answers.pop() if answers else await right(request)

    pods.handle_async_request = once  # type: ignore[method-assign]
    operator = Operator(pods)
    operator.orders.tell(KEY, Tell(POD, "Commit", "a"))
    await operator.settled()
    assert not operator.has_told("Commit", "b")
    await operator.tell("Commit", "b")
    assert pods.obeyed == [("Commit", "b")]


async def test_a_pod_that_cannot_be_reached_has_refused_nothing():
    pods = Pods()
    pods.is_down = True
    operator = Operator(pods)
    await operator.tell("Commit", "a")
    assert (operator.refusal, operator.woken) == ("", 0)
    assert operator.orders.again(KEY) == FORGET_SECONDS, "nobody else wakes the program to give it again"
    operator.now += FORGET_SECONDS
    assert not operator.has_told("Commit", "a")
    assert operator.orders.again(KEY) is None
    await operator.tell("Retire")
    assert (operator.refusal, operator.woken) == ("", 0)


async def test_what_was_taken_though_no_report_shows_it_and_what_was_refused_is_not_given_again_soon():
    taken, refused = Operator(Pods()), Operator(Pods(THEIRS))
    await taken.tell("Retire")
    await refused.tell("Commit", "a")
    assert (taken.orders.again(KEY), refused.orders.again(KEY)) == (None, None)


async def test_an_address_that_is_another_pods_by_now_has_refused_nothing():
    pods = Pods()
    operator = Operator(pods)
    await operator.tell("Commit", "a", PodView("qa-0", "abc", ready=True, ip="10.0.0.1"))
    assert pods.obeyed == []
    assert operator.orders.refusals(KEY) == {}


async def test_nothing_is_sent_to_a_pod_that_has_gone():
    pods = Pods()
    pods.is_down = True
    operator = Operator(pods)
    operator.orders.tell(KEY, Tell(POD, "Invalidate", "x"))
    await asyncio.sleep(0)
    assert operator.orders.told(KEY, []) == {}
    with suppress(asyncio.CancelledError):
        await operator.settled()
    assert not operator.orders.tasks


async def test_while_a_key_is_replaced_pods_of_either_key_take_orders():
    for keys in ((OURS,), (THEIRS,), (OURS, THEIRS)):
        pods = Pods(*keys)
        operator = Operator(pods, THEIRS, OURS)
        await operator.tell("Commit", "a")
        assert pods.obeyed == [("Commit", "a")], "one signature is enough"
    assert operator.orders.public_keys == (public_half(THEIRS), public_half(OURS))
    assert base64.b64decode(operator.orders.public_keys[0]) == THEIRS.public_key().public_bytes_raw()


async def test_a_retire_is_not_tried_again_after_an_activate():
    pods = Pods()
    pods.obeys = False
    operator = Operator(pods)
    operator.orders.tell(KEY, Tell(POD, "Retire"))
    await until(lambda: pods.obeyed)
    pods.obeys = True
    await operator.tell("Activate")
    assert pods.obeyed[-1] == ("Activate", "")
    assert ("Retire", "") not in pods.obeyed[pods.obeyed.index(("Activate", "")) :]


async def until(check) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0)


TELLS = st.sampled_from(
    [
        ("Retire", ""),
        ("Activate", ""),
        ("Invalidate", "monday"),
        ("Invalidate", "tuesday"),
        ("Invalidate", "key:1"),
        ("Invalidate", "key:2"),
        ("Prepare", "a"),
        ("Prepare", "b"),
        ("Commit", "a"),
        ("Commit", "b"),
        ("OpenBreaker", "1"),
        ("CloseBreaker", "2"),
    ]
)
OPPOSED = [{"Retire", "Activate"}, {"OpenBreaker", "CloseBreaker"}]


def takes_back(later: Tell, earlier: Tell) -> bool:
    """Whether the earlier order must not arrive after the later one."""
    return any({later.order, earlier.order} <= pair for pair in OPPOSED) or (later.order == earlier.order == "Commit")


@given(st.lists(st.one_of(TELLS, st.booleans(), st.just(1.0)), max_size=60))
def test_a_later_order_is_never_followed_by_one_that_it_takes_back(events):
    """Orders come in, attempts succeed or fail, time passes."""
    outbox, now, put, sent = Outbox(1.0), 0.0, [], []
    for event in events:
        if isinstance(event, tuple):
            put.append(Tell(POD, *event))
            outbox.put(put[-1], now)
        elif isinstance(event, bool):
            letter = outbox.due(now)
            if letter:
                sent.append((len(put), letter.tell, event))
                outbox.tried(letter, event, now)
        else:
            now += event
    for at, tell, _ in sent:
        position = max(i for i, t in enumerate(put[:at]) if t is tell)
        assert not any(takes_back(later, tell) for later in put[position + 1 : at])
    for tell in put:
        tries = [was_taken for _, t, was_taken in sent if t is tell]
        assert len(tries) <= ATTEMPTS.get(tell.order, 1)
        assert not any(tries[:-1]), "what was taken is not sent again"
    while outbox:
        if letter := outbox.due(now):
            sent.append((len(put), letter.tell, True))
            outbox.tried(letter, True, now)
        now += 1.0
    last = {tell.subject: tell for tell in put if tell.order == "Prepare"}
    assert all(any(t is tell for _, t, _ in sent) for tell in last.values()), (
        "orders of two subjects keep each other off"
    )

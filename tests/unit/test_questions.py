"""Whether a question by hand counts, before anything is done for it; and what programs' prompts are told to be made of."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from despina.sources.keys import ask_key, asking_key, minter, read_roots
from despina.wire import (
    LONGEST_PROMPTS,
    MOST_PROMPTS,
    SIGNATURE_HEADER,
    Answered,
    ModelRef,
    ModuleConfig,
    OrdersReport,
    PodState,
    Question,
    RuntimeConfig,
)
from despina_runtime.process.admin import NotNew, OrderDesk, OrderRefused, build_admin
from despina_runtime.process.asking import QuestionDesk, Questions, asking_routes
from despina_runtime.process.news import News
from despina_runtime.program.prompts import prompts_of
from tests.support.pods import KEY, public_half, signature_of

OURS, THEIRS = asking_key("root", "uid", "ns"), asking_key("root", "another", "ns")


def a_question(**changes) -> bytes:
    base = {"namespace": "ns", "pod": "qa-1", "boot": "b", "number": 1, "revision": "rev7", "inputs": "{}"}
    return Question(**base | changes).model_dump_json().encode()


def desk(key: str = public_half(OURS)) -> QuestionDesk:
    return QuestionDesk("ns", "qa-1", key, "b")


REFUSED = {
    "unsigned": (a_question(), "", 403),
    "by another program's key": (a_question(), signature_of(THEIRS, a_question()), 403),
    "another question's signature": (a_question(), signature_of(OURS, a_question(number=2)), 403),
    "what is no signature": (a_question(), "é", 403),
    "what is no question": (b"{}", signature_of(OURS, b"{}"), 400),
    "what says more than a question": (b'{"a": 1}', signature_of(OURS, b'{"a": 1}'), 400),
    "for another pod": (a_question(pod="qa-2"), signature_of(OURS, a_question(pod="qa-2")), 421),
    "for another namespace": (a_question(namespace="x"), signature_of(OURS, a_question(namespace="x")), 421),
    "for another life": (a_question(boot="c"), signature_of(OURS, a_question(boot="c")), 409),
    "not numbered": (a_question(number=0), signature_of(OURS, a_question(number=0)), 409),
}


@pytest.mark.parametrize(("body", "signature", "status"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_count_changes_nothing(body, signature, status):
    taking = desk()
    with pytest.raises(OrderRefused) as refused:
        taking.accept(body, signature)
    assert refused.value.status == status
    assert taking.last == OrdersReport(boot="b")


def test_a_question_counts_once_and_an_earlier_one_never_again():
    taking, late, soon = desk(), a_question(number=1), a_question(number=5)
    assert taking.accept(soon, f"{signature_of(THEIRS, soon)}, {signature_of(OURS, soon)}").number == 5
    for body in (late, soon):
        with pytest.raises(NotNew):
            taking.accept(body, signature_of(OURS, body))


@pytest.mark.parametrize("key", ["", "nonsense", "a2V5"])
def test_a_pod_without_a_key_is_asked_by_nobody(key):
    with pytest.raises(OrderRefused):
        desk(key).accept(a_question(), signature_of(OURS, a_question()))


def test_the_operator_and_the_page_make_the_same_key():
    mint = minter([KEY])
    root = read_roots(mint)["root"].decode()
    assert ask_key(mint, "uid", "ns") == public_half(asking_key(root, "uid", "ns"))
    assert len({ask_key(mint, uid, ns) for uid, ns in (("uid", "ns"), ("uid", "n2"), ("u2", "ns"))}) == 3


class Port:
    """An admin port whose questions wait until they are let go."""

    def __init__(self) -> None:
        self.free, self.asked = asyncio.Event(), 0
        questions = Questions(desk(), self._answer)
        routes = asking_routes(questions, lambda _: None, lambda signature: signature == "reader")
        news = News(PodState)
        app = build_admin(
            lambda: True, OrderDesk("ns", "qa-1", [], "b"), None, PodState, news, lambda _: None, more=routes
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod")

    async def _answer(self, _: Question) -> Answered:
        self.asked += 1
        await self.free.wait()
        return Answered(status=200)

    async def ask(self, number: int) -> int:
        body = a_question(number=number)
        headers = {SIGNATURE_HEADER: signature_of(OURS, body)}
        return (await self.client.post("/ask", content=body, headers=headers)).status_code


async def test_a_pod_takes_two_questions_at_once():
    port = Port()
    first = [asyncio.create_task(port.ask(number)) for number in (1, 2)]
    async with asyncio.timeout(10):
        while port.asked < sum(not one.done() for one in first) or not port.asked:
            await asyncio.sleep(0)
    assert await port.ask(9) == 503
    port.free.set()
    assert await asyncio.gather(*first) == [200, 200]
    assert await port.ask(9) == 409, "one that found no seat is not brought again by whoever heard it"
    assert await port.ask(10) == 200


async def test_of_what_is_not_signed_in_form_nothing_is_read():
    async def endless():
        yield b"x"
        raise AssertionError("it was read")

    port = Port()
    for signature in ("", "nonsense", "f" * 64):
        answer = await port.client.post("/ask", content=endless(), headers={SIGNATURE_HEADER: signature})
        assert answer.status_code == 403
    assert (await port.client.get("/prompts/rev7", headers={SIGNATURE_HEADER: "other"})).status_code == 403
    assert (await port.client.get("/prompts/rev7", headers={SIGNATURE_HEADER: "reader"})).status_code == 404


CONFIG = RuntimeConfig(
    namespace="ns", program="qa", revision="rev7", lm="main", modules=(ModuleConfig(path="deep", lm="big"),),
    model=ModelRef(name="qa", version="7", tracking_uri="http://mlflow"),
)  # fmt: skip


def program(*named):
    return SimpleNamespace(named_predictors=lambda: list(named))


def predictor(*demos, instructions="Do."):
    return SimpleNamespace(demos=demos, signature=SimpleNamespace(instructions=instructions))


def test_prompts_name_the_lm_that_is_asked():
    found = prompts_of(program(("self.plain", predictor({"a": 1})), ("deep.inner", predictor())), CONFIG)
    assert [(one.path, one.lm, one.demos) for one in found.modules] == [
        ("plain", "main", ('{"a":1}',)), ("deep.inner", "big", ())
    ]  # fmt: skip


def test_prompts_end_somewhere():
    many = [(f"p{n}", predictor(*({"a": "x" * 10_000},) * 1000, instructions="y" * 10**6)) for n in range(200)]
    found = prompts_of(program(*many), CONFIG)
    assert len(found.modules) == MOST_PROMPTS
    assert sum(len(demo) for one in found.modules for demo in one.demos) <= LONGEST_PROMPTS
    assert {one.demo_count for one in found.modules} == {1000}
    assert len(found.model_dump_json()) < 2**21


@pytest.mark.parametrize("broken", [predictor(5), predictor(None), SimpleNamespace(), predictor(instructions=None)])
def test_a_program_whose_prompts_cannot_be_read_is_served_all_the_same(broken):
    assert len(prompts_of(program(("p", broken)), CONFIG).modules) <= 1

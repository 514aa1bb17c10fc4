"""Who sees what of traces, who may say that an answer was wrong, and what pods can do to either."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from despina.cluster.errors import Unavailable
from despina.dashboard import trace_pages
from despina.dashboard.access import COOKIE, Door
from despina.dashboard.app import Site
from despina.dashboard.marks import Sent, Unfit, label_of
from despina.dashboard.traces import MOST_LISTED, MOST_PODS, Traces
from despina.dashboard.world import World
from despina.sources.traces import NoAnswer
from despina.wire import Trace
from despina.wire.labels import LONGEST_SOURCE
from despina.wire.predictions import Signer, key_of
from tests.support.page import HOSTILE, NOW, a_manifest, a_pod
from tests.support.page_site import ADMIN, LOOKER, READER, STRANGER, FakeApi
from tests.support.page_traces import KEY, TRACE_ID, FakeHolders, a_name, a_trace, hosted_span

NAME = a_name().rpartition("-")[0]
LIST, ONE = "/p/team-a/qa/traces", f"/p/team-a/qa/traces/{NAME}"
MARK = f"{ONE}/mark"
WRONG = {"label": "failure", "reason": "it was a refund", "expected": '{"answer": "refunds"}'}


class Around:
    """A page over one program with two pods, the first of which holds a trace."""

    def __init__(self) -> None:
        self.api, self.holders, self.world = FakeApi(), FakeHolders(), World(lambda: NOW)
        self.world.set_program(a_manifest(spec={"feedback": {}}))
        for number in (1, 2):
            self.world.set_pod(a_pod(f"qa-{number}", ip=f"10.0.0.{number}"))
        self.holders.held["qa-1"] = [a_trace()]
        self.holders.parts["10.0.0.9"] = hosted_span()
        self.traces = Traces(self.holders, self.api)  # type: ignore[arg-type]
        self.site = Site(self.world, Door(self.api, lambda: 1.0, "between us"), self.api, self.traces)

    @property
    def known(self):
        return self.world.programs["team-a", "qa"]


@pytest.fixture
def around():
    return Around()


@pytest.fixture
async def client(around):
    async with TestClient(TestServer(around.site.app())) as client:
        yield client


def bearing(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "text/html", **more}


async def page(client, path: str = ONE, token: str = ADMIN) -> str:
    answer = await client.get(path, headers=bearing(token))
    assert answer.status == 200
    return await answer.text()


SEEN = {
    "all of it": (ADMIN, True, True),
    "its words, without the right to mark": (READER, True, False),
    "only what it did": (LOOKER, False, False),
}


@pytest.mark.parametrize(("token", "words", "marks"), SEEN.values(), ids=SEEN)
async def test_what_is_seen_of_a_trace(client, token, words, marks):
    text = await page(client, token=token)
    assert "chat openai/gpt-4o-mini" in text
    assert "execute_tool search" in text  # the tool's own pod tells of it
    assert ("Which team?" in text) == words
    assert ("<code>payloads</code>" in text) == (not words)
    assert ('action="' + MARK in text) == marks
    assert ("the verb feedback on" in text) == (not marks)
    assert (a_name() in text) == marks, "whoever has the whole name can label the prediction"
    listed = await page(client, LIST, token)
    assert NAME in listed
    assert a_name() not in listed
    assert "billing" not in listed


async def test_a_trace_is_found_by_its_own_id_too(client, around):
    assert "invoke_workflow qa" in await page(client, f"{LIST}/{TRACE_ID}")
    assert around.holders.asked == ["qa-1"]  # found there, so nobody else is asked


UNSEEN = {
    "a stranger": (STRANGER, ONE, 404),
    "another program's": (ADMIN, f"/p/team-b/none/traces/{NAME}", 404),
    "one that nobody holds": (ADMIN, f"{LIST}/{a_name(5)}", 404),
    "a way out of the folder": (ADMIN, f"{LIST}/..%2F..%2Fstate", 404),
    "no name at all": (ADMIN, f"{LIST}/{'x' * 129}", 404),
    "a stranger's list": (STRANGER, LIST, 404),
}


@pytest.mark.parametrize(("token", "path", "status"), UNSEEN.values(), ids=UNSEEN)
async def test_what_is_not_there(client, token, path, status):
    assert (await client.get(path, headers=bearing(token))).status == status


async def test_pods_that_do_not_answer_are_told_of(client, around):
    around.holders.held["qa-1"] = None
    answer = await client.get(ONE, headers=bearing(ADMIN))
    assert (answer.status, "1 did not answer" in await answer.text()) == (503, True)
    assert "1 of 2 pods did not answer" in await page(client, LIST)


async def test_a_list_that_is_empty_says_what_to_do(client, around):
    around.holders.held = {}
    assert "despina-trace: keep" in await page(client, LIST)
    assert "No such trace is held" in await page(client, f"{LIST}?why=error")
    for number in (1, 2):
        around.world.drop_pod(a_pod(f"qa-{number}"))
    assert "No pod runs" in await page(client, LIST)


async def test_the_newest_of_all_pods_come_first_page_by_page(client, around):
    around.holders.held = {
        "qa-1": [a_trace(n) for n in range(1, 400, 2)],
        "qa-2": [a_trace(n, why="error") for n in range(2, 401, 2)],
    }
    found = await around.traces.latest(around.known)
    assert [line.at - NOW for line in found.lines[:3]] == [400, 399, 398]
    assert len(found.lines) == 400
    text = await page(client, LIST)
    assert text.count("<tr data-level") == 100
    assert f"before={NOW + 301}" in text
    older = await around.traces.latest(around.known, "error", NOW + 301)
    assert [line.at - NOW for line in older.lines[:2]] == [300, 298]


async def test_however_many_pods_there_are_so_many_are_asked_and_so_much_is_kept(around):
    held = [a_trace(n, spans=()) for n in range(50)]
    for number in range(3 * MOST_PODS):
        around.world.set_pod(a_pod(f"more-{number}", ip="10.0.1.1"))
        around.holders.held[f"more-{number}"] = held
    found = await around.traces.latest(around.known)
    assert (len(found.lines), found.asked, found.left_out) == (MOST_LISTED, MOST_PODS, 2 * MOST_PODS + 2)
    assert len(around.holders.asked) == MOST_PODS


async def test_the_pod_that_made_a_prediction_is_asked_first(around):
    around.holders.held = {"qa-2": [a_trace()], "qa-1": []}
    assert (await around.traces.find(around.known, NAME)).id == a_name()
    assert around.holders.asked[0] == "qa-1"  # 10.0.0.1, as the name says


async def test_only_hosts_of_tools_that_are_watched_are_asked(around):
    assert list(await around.traces.hosted(a_trace())) == ["search-1"]
    said = hosted_span()
    words = [span.model_copy(update={"inputs": "x" * 9, "outputs": "y"}) for span in said.spans]
    around.holders.parts["10.0.0.9"] = said.model_copy(update={"spans": tuple(words)})
    assert await around.traces.hosted(a_trace()) == {"search-1": list(said.spans)}, "which tell no words"
    assert await around.traces.hosted(a_trace(trace_id="x")) == {}
    assert await around.traces.hosted(a_trace(spans=())) == {}

    async def silent(namespace: str, tool: str) -> Any:
        raise Unavailable("no")

    around.api.hosts = silent
    assert await around.traces.hosted(a_trace()) == {}


async def test_a_pod_that_hangs_costs_its_own_answer(around, monkeypatch):
    monkeypatch.setattr("despina.dashboard.traces.LIST_SECONDS", 0.05)
    told = around.holders.listed

    async def slow(uid: str, namespace: str, pod: str, ip: str) -> Any:
        await asyncio.sleep(30 if pod == "qa-2" else 0)
        return await told(uid, namespace, pod, ip)

    around.holders.listed = slow
    found = await around.traces.latest(around.known)
    assert (len(found.lines), found.silent) == (1, 1)


async def test_one_namespaces_slow_pods_hold_up_nobody_elses_traces(client, around, monkeypatch):
    monkeypatch.setattr(trace_pages, "PATIENCE_SECONDS", 0.05)
    open_now, held = asyncio.Event(), []

    async def slow(*_: Any) -> Trace:
        held.append(1)
        await open_now.wait()
        return a_trace()

    around.holders.one = slow
    first = asyncio.create_task(client.get(ONE, headers=bearing(ADMIN)))
    async with asyncio.timeout(10):
        while not held:
            await asyncio.sleep(0)
    for path in (ONE, LIST):
        assert (await client.get(path, headers=bearing(ADMIN))).status == 503
    around.world.set_program(a_manifest("other", "team-b"))
    assert (await client.get("/p/team-b/other/traces", headers=bearing(ADMIN))).status == 200, "others do not wait"
    open_now.set()
    assert (await first).status == 200
    assert held == [1]


# Marking


async def mark(client, token: str = ADMIN, path: str = MARK, headers: Any = None, **sent: str) -> Any:
    said = {**WRONG, **sent}
    return await client.post(path, data=said, headers=bearing(token, **(headers or {})), allow_redirects=False)


async def test_marking_hands_over_a_label_in_that_persons_name(client, around, caplog):
    answer = await mark(client)
    assert (answer.status, answer.headers["Location"]) == (303, f"{ONE}?marked=failure")
    ((ip, label),) = around.holders.labels
    assert ip == "10.0.0.1"
    assert (label.prediction, label.origin, label.pod) == (a_name(), NAME, NAME.split("-")[1])
    assert (label.label, label.reason, label.expected) == ("failure", WRONG["reason"], {"answer": "refunds"})
    assert (label.source, label.is_trusted, label.at) == ("ada", True, NOW)
    assert "refund" not in caplog.text
    assert "Marked as failure" in await page(client, answer.headers["Location"])


REFUSED = {
    "without the verb": (LOOKER, {}, {}, 403),
    "with the verb for words alone": (READER, {}, {}, 403),
    "who may not even look": (STRANGER, {}, {}, 404),
    "from another page": (ADMIN, {"Origin": "https://evil"}, {}, 403),
    "by another page's script": (ADMIN, {"Cookie": f"{COOKIE}=x"}, {}, 403),
    "no word": (ADMIN, {}, {"label": "maybe"}, 422),
    "no JSON": (ADMIN, {}, {"expected": "{"}, 422),
    "no object": (ADMIN, {}, {"expected": "[1]"}, 422),
    "no output of the program": (ADMIN, {}, {"expected": '{"colour": 1}'}, 422),
    "nested without end": (ADMIN, {}, {"expected": '{"answer":' * 2000 + "1" + "}" * 2000}, 422),
    "deeper than is read": (ADMIN, {}, {"expected": '{"answer":' + "[" * 40 + "]" * 40 + "}"}, 422),
    "what is no number": (ADMIN, {}, {"expected": '{"answer": NaN}'}, 422),
    "a reason without end": (ADMIN, {}, {"reason": "x" * 5000}, 422),
    "more than a form holds": (ADMIN, {}, {"reason": "x" * 100_000}, 413),
}


@pytest.mark.parametrize(("token", "headers", "sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_mark(client, around, token, headers, sent, status):
    answer = await mark(client, token, headers=headers, **sent)
    assert (answer.status, around.holders.labels) == (status, [])
    if status == 422:
        text = await answer.text()
        assert 'id="unfit"' in text
        assert "it was a refund" in text or "reason" in sent, "what was filled in is there still"


async def test_a_proxys_person_marks_with_the_right_alone(client, around):
    said = {"X-Forwarded-User": "ada", "X-Despina-Proxy-Secret": "between us"}
    assert (await client.post(MARK, data=WRONG, headers=said, allow_redirects=False)).status == 303
    said["X-Forwarded-User"] = "lou"
    assert (await client.post(MARK, data=WRONG, headers=said, allow_redirects=False)).status == 403
    assert len(around.holders.labels) == 1


ANSWERS = {"Stored": 303, "Gone": 410, "Failed": 503, None: 502}


@pytest.mark.parametrize(("status", "answer"), ANSWERS.items(), ids=map(str, ANSWERS))
async def test_what_becomes_of_a_mark_is_told(client, around, status, answer):
    around.holders.status = status
    assert (await mark(client)).status == answer


async def test_a_program_that_takes_no_labels_has_no_form(client, around):
    around.world.set_program(a_manifest(spec={}))
    assert "set spec.feedback" in await page(client)
    assert (await mark(client)).status == 409
    assert around.holders.labels == []


LIARS = {
    "another program's prediction": a_trace(id=a_name(key=key_of("another"))),
    "another prediction than was asked for": a_trace(id=a_name(2)),
    "no prediction": a_trace(id="x"),
    "nothing": a_trace(id=""),
}


@pytest.mark.parametrize("told", LIARS.values(), ids=LIARS)
async def test_a_pod_that_lies_has_nobody_elses_prediction_labelled(client, around, told):
    async def lie(*_: Any) -> Trace:
        return told.model_copy(update={"trace_id": ""})

    around.holders.one = lie
    assert (await mark(client)).status == 409
    assert around.holders.labels == []
    assert 'action="' + MARK not in await page(client)


async def test_where_the_pod_is_gone_another_one_passes_it_on(around):
    around.world.drop_pod(a_pod("qa-1"))
    label = label_of(Sent("success"), Signer(KEY).read(a_name()), (), "ada", NOW)
    assert await around.traces.mark(around.known, label) == "Stored"
    assert [ip for ip, _ in around.holders.labels] == ["10.0.0.2"]
    around.world.drop_pod(a_pod("qa-2"))
    with pytest.raises(NoAnswer):
        await around.traces.mark(around.known, label)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_form_says_becomes_a_label_or_nothing(text):
    for sent in (Sent(text), Sent("failure", text), Sent("failure", "", text), Sent("failure", "", f'{{"{text}": 1}}')):
        with contextlib.suppress(Unfit):
            label = label_of(sent, Signer(KEY).read(a_name()), (), text, NOW)
            assert len(label.model_dump_json().encode()) <= 2**17
            assert len(label.source) <= LONGEST_SOURCE
            assert label.source.isprintable()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_traces_are_answered_with_a_page(client, around, text):
    said = text.encode(errors="replace").decode()
    around.holders.held["qa-1"] = [
        a_trace(problem=said, version=said, module=said, why=said, lm=said, trace_id=TRACE_ID)
    ]
    for path in (LIST, ONE, f"{ONE}?from={said[:50]}", f"{ONE}?span={said[:50]}", f"{LIST}?why={said[:50]}&before=nan"):
        answer = await client.get(path, headers=bearing(ADMIN))
        assert answer.status == 200
        assert "<script>window" not in await answer.text()

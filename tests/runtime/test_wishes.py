"""Callers ask for a better version: of whichever worker, and the pod's state says so for as long as its container lives."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from despina.wire import OptimizeRequest, PodState
from tests.support.pods import Pod, pods
from tests.support.world import eventually

AUTH = {"authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory, servers, version):
    """A pod of two workers that takes requests."""
    folder = tmp_path_factory.mktemp("asked")
    token = folder / "token"
    token.write_text("s3cret\n")
    with pods(folder, *servers[1:]) as start:
        running = start(version, workers=2, optimize_requests=True, auth_token_file=str(token))
        eventually("ready", running.is_ready, 90)
        yield running


def ask(pod: Pod, path: str = "/optimize", headers: dict | None = None, **body) -> httpx.Response:
    return httpx.post(f"{pod.url}{path}", headers=AUTH if headers is None else headers, timeout=30, **body)


def noted(pod: Pod, module: str = "") -> int:
    """The request's number, when the pod's state tells it."""
    answer = ask(pod, f"/modules/{module}/optimize" if module else "/optimize")
    assert answer.status_code == 202, answer.text
    told = answer.json()
    watch = "kubectl get dspy -n ns triage -o jsonpath='{.status.optimization}'"
    assert told == {"request": told["request"], "module": module, "watch": watch}
    wanted = OptimizeRequest(number=told["request"], module=module)
    eventually("told", lambda: wanted in pod.state().optimize, 10)
    return told["request"]


@contextmanager
def stopped(pid: int):
    """The kernel gives each connection to another worker meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def later(pod: Pod) -> int:
    """The number of what is asked now, once that is another wish than those before; none waits to be told then."""
    before = max((r.number for r in pod.state().optimize), default=0)
    return eventually("a second is over", lambda: (number := noted(pod)) > before and number, 10)


def test_both_workers_requests_are_numbered_by_their_pod_and_outlive_the_worker(asked):
    first, second = asked.workers()
    with stopped(first):
        whole = noted(asked)
    with stopped(second):
        module = noted(asked, "classify")
    assert module == whole + 1
    os.kill(second, signal.SIGKILL)
    eventually("replaced", lambda: asked.state().workers == 2 and second not in asked.workers(), 60)
    told = [(r.number, r.module) for r in asked.state().optimize]
    assert told == [(whole, ""), (module, "classify")]
    eventually("a wish of its own", lambda: noted(asked, "classify") == module + 1, 10)
    assert [r.module for r in asked.state().optimize] == ["", "classify"], "one wish a module"


def test_whoever_waits_for_the_next_state_is_woken(asked):
    later(asked)
    with ThreadPoolExecutor(1) as beside:
        query = {"after": asked.state().number, "wait": 20}
        waiting = beside.submit(httpx.get, f"{asked.admin}/state", params=query, timeout=30)
        number = noted(asked, "classify")
        told = PodState.model_validate(waiting.result(10).json())
    assert told.number == query["after"] + 1
    assert told.optimize[-1] == OptimizeRequest(number=number, module="classify")


def test_a_burst_is_a_wish_for_each_module_and_little_news(asked):
    later(asked)
    before = asked.state()
    with ThreadPoolExecutor(8) as beside, httpx.Client(base_url=asked.url, headers=AUTH, timeout=30) as client:
        answers = beside.map(client.post, ["/optimize", "/modules/classify/optimize"] * 100)
        numbers = {answer.json()["request"] for answer in answers}
    eventually("told", lambda: asked.state().optimize[-1].number == max(numbers), 10)
    after = asked.state()
    assert {r.module for r in after.optimize} == {"", "classify"}
    elapsed = after.uptime_seconds - before.uptime_seconds
    assert after.number - before.number <= elapsed + 2
    assert len(numbers) <= 2 * (elapsed + 2)


BODIES = {
    "none": (b"", 202, ""),
    "white space": (b" \n", 202, ""),
    "an empty one": (b"{}", 202, ""),
    "a field": (b'{"budget": 5}', 422, "budget"),
    "the module": (b'{"module": "classify"}', 422, "module"),
    "a list": (b"[]", 422, "(body)"),
    "nothing in words": (b"null", 422, "(body)"),
    "no JSON": (b"{", 422, "(body)"),
    "no text": (b"\xff", 422, "(body)"),
    "too much": (b"{" + b" " * 5000 + b"}", 413, ""),
}


@pytest.mark.parametrize("path", ["/optimize", "/modules/classify/optimize"])
def test_a_body_says_nothing(asked, path):
    for sentence, (body, status, field) in BODIES.items():
        answer = ask(asked, path, content=body)
        assert answer.status_code == status, (sentence, answer.text)
        assert [e["field"] for e in answer.json().get("errors", ())] == ([field] if field else []), sentence


def test_who_may_not_call_the_program_may_not_ask_for_a_better_one(asked):
    before = later(asked)
    for path in ("/optimize", "/modules/classify/optimize", "/modules/other/optimize"):
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert ask(asked, path, headers).status_code == 401
    assert later(asked) == before + 1


def test_what_is_no_module_is_refused_with_those_that_there_are(asked):
    before = later(asked)
    for path in ("other", "classify.predict", "", "classify/", "../classify", "x" * 300, "%00"):
        answer = ask(asked, f"/modules/{path}/optimize")
        assert answer.status_code == 404, path
        if "/" not in path:
            assert (answer.json()["type"], answer.json()["detail"]) == (
                "urn:despina:problem:unknown-module",
                "modules: classify",
            )
    assert later(asked) == before + 1
    assert httpx.get(f"{asked.url}/optimize", headers=AUTH, timeout=30).status_code == 405


def test_the_document_shows_both(asked):
    paths = httpx.get(f"{asked.url}/openapi.json", headers=AUTH, timeout=30).json()["paths"]
    assert "401" in paths["/optimize"]["post"]["responses"]
    (parameter,) = paths["/modules/{path}/optimize"]["post"]["parameters"]
    assert parameter["schema"]["enum"] == ["classify"]

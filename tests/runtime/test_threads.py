"""Programs without `aforward`: what runs in their threads, and for how long it counts."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.runtime.test_engine import at_once
from tests.support.pods import fresh
from tests.support.world import eventually

STREAM = {"accept": "text/event-stream"}


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["whole", "streamed"])
def test_what_a_thread_does_after_its_deadline_still_holds_its_slot(pod, log_model, tmp_path, headers):
    running = pod(log_model("lingering", "lingering"), "lingering", max_concurrency=2, request_timeout_seconds=1)
    eventually("ready", running.is_ready, 90)
    there = tmp_path / "there"
    there.touch()

    def turns() -> list[str]:
        """What became of two requests at once."""
        answers = asyncio.run(at_once(running, [{"ticket": str(there)}] * 2, headers))
        assert [a.status_code for a in answers] == [504, 504]
        return [a.json()["title"] for a in answers]

    assert turns() == ["The program took too long"] * 2
    assert turns() == ["The program is too busy"] * 2
    assert running.ask({"ticket": "t"}, headers=headers).json()["title"] == "The program is too busy"
    there.unlink()
    eventually("free again", lambda: running.ask({"ticket": "t"}, headers=headers).status_code == 200, 10)
    assert [a.status_code for a in asyncio.run(at_once(running, [{"ticket": "t"}] * 20, headers))] == [200] * 20


def test_as_many_are_streamed_at_a_time_as_may_run(pod, log_model, lm):
    running = pod(log_model("sync", "sync"), "sync", max_concurrency=12)
    eventually("ready", running.is_ready, 90)
    before = lm.calls
    lm.misbehave(delay_seconds=8)

    async def streams() -> list[httpx.Response]:
        waiting = asyncio.to_thread(eventually, "all twelve", lambda: lm.calls == before + 12, 7)
        return (await asyncio.gather(at_once(running, [fresh() for _ in range(12)], STREAM), waiting))[0]

    answers = asyncio.run(streams())
    assert [a.status_code for a in answers] == [200] * 12
    assert all("event: delta" in a.text and "event: done" in a.text for a in answers)

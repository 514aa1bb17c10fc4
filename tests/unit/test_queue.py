"""The work queue: once per key, again when woken meanwhile, later when asked, back-off after failures."""

from __future__ import annotations

import asyncio

import pytest

from despina.reconcile.queue import Queue, backoff

A, B = ("ns", "a"), ("ns", "b")


class Bench:
    """A queue whose work waits to be let go."""

    def __init__(self, workers: int = 2, results: list | None = None) -> None:
        self.started: list[tuple[str, str]] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.results = results or []
        self.queue = Queue(self.work, workers)
        self.task = asyncio.create_task(self.queue.run())

    async def work(self, key):
        self.started.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result

    async def until(self, check) -> None:
        async with asyncio.timeout(5):
            while not check():
                await asyncio.sleep(0)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_key_that_is_woken_often_before_its_turn_is_worked_on_once():
    bench = Bench(workers=1)
    for _ in range(10):
        bench.queue.add(A)
    bench.queue.add(B)
    await bench.until(lambda: bench.started == [A, B])
    assert bench.queue.depth == 0
    await bench.close()


async def test_a_key_that_is_woken_while_worked_on_is_worked_on_again_and_never_twice_at_once():
    bench = Bench(workers=4)
    bench.gate.clear()
    bench.queue.add(A)
    await bench.until(lambda: bench.started == [A])
    bench.queue.add(A)
    bench.queue.add(A)
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.started == [A]
    bench.gate.set()
    await bench.until(lambda: bench.started == [A, A])
    assert bench.most == 1
    await bench.close()


async def test_a_failure_is_tried_again_and_does_not_stop_the_others(caplog):
    bench = Bench(workers=1, results=[RuntimeError("boom")])
    bench.queue.add(A)
    bench.queue.add(B)
    await bench.until(lambda: bench.started == [A, B, A])
    assert "boom" in caplog.text
    await bench.close()


async def test_a_result_asks_for_another_turn():
    bench = Bench(results=[0.01])
    bench.queue.add(A)
    await bench.until(lambda: bench.started == [A, A])
    assert bench.queue.depth == 0
    await bench.close()


async def test_the_earliest_wish_counts_and_the_lag_tells_of_overdue_keys():
    now = [0.0]
    queue = Queue(lambda key: asyncio.sleep(0), clock=lambda: now[0])
    queue.add(A, after=100)
    queue.add(A, after=5)
    queue.add(A, after=50)
    assert queue.lag == 0
    now[0] = 15.0
    assert queue.lag == 10.0
    assert queue.depth == 1


async def test_only_keys_that_are_due_count_as_waiting():
    now = [0.0]
    queue = Queue(lambda key: asyncio.sleep(0), clock=lambda: now[0])
    queue.add(A, after=60)
    queue.add(B)
    assert queue.depth == 1
    now[0] = 60.0
    assert queue.depth == 2


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (8, 60.0), (400, 60.0), (2000, 60.0)])
def test_backoff_doubles_up_to_a_minute(failures, seconds):
    assert backoff(failures) == seconds


async def test_a_queue_that_is_ended_while_a_key_comes_ends():
    bench = Bench(workers=1)
    bench.queue.add(A, after=100)
    for _ in range(9):
        await asyncio.sleep(0)  # the worker waits for A by now
    bench.queue.add(B)
    async with asyncio.timeout(5):
        await bench.close()

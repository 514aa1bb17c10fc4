"""Labels from one pod to another: what the admin port reads of them, and what fits into one request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport
from starlette.applications import Starlette

from despina.wire import LABELS_PATH, ORDERS_PATH, SIGNATURE_HEADER, PodState
from despina.wire.labels import LABELS, LONGEST_FORWARDED, LONGEST_LABEL, REPLIES, Label, Reply, is_signed, sign
from despina.wire.predictions import key_of
from despina_runtime.feedback.delivery import Delivery
from despina_runtime.feedback.desk import FeedbackDesk
from despina_runtime.feedback.peers import Unreachable
from despina_runtime.feedback.spool import KeptLabel, Spool
from despina_runtime.lines import Intake, read_at_most
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.news import News
from despina_runtime.telemetry.redaction import HIDDEN
from tests.unit.test_delivery import Slow
from tests.unit.test_hostile_records import Desk, origin, said
from tests.unit.test_recording import POD

KEY = key_of("k")
OTHER = "1f900a0102ff"


def admin(feedback: FeedbackDesk | None) -> Starlette:
    orders, news = OrderDesk("ns", "qa-1", (), "boot"), News(PodState)
    return build_admin(lambda: True, orders, None, PodState, news, lambda _: None, feedback=feedback)


class Body(httpx.AsyncByteStream):
    """A long body that counts what is read of it."""

    def __init__(self, chunks: int) -> None:
        self._chunks, self.read = chunks, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._chunks):
            self.read += 2**16
            yield b" " * 2**16


async def post(feedback: FeedbackDesk | None, body: Any, signature: bytes | str) -> httpx.Response:
    async with httpx.AsyncClient(transport=ASGITransport(admin(feedback)), base_url="http://pod") as client:
        return await client.post(LABELS_PATH, content=body, headers={SIGNATURE_HEADER: signature})


STRANGERS = {
    "no signature": b"",
    "too short a signature": b"0" * 63,
    "too long a signature": b"0" * 65,
    "no digits": b"g" * 64,
    "no ASCII": b"\xe9" * 64,
}


@pytest.mark.parametrize("sentence", STRANGERS)
async def test_of_what_nobody_signed_nothing_is_read(tmp_path, sentence):
    body = Body(100)
    async with Desk(tmp_path) as own:
        assert (await post(own.desk, body, STRANGERS[sentence])).status_code == 421
    assert body.read == 0


async def test_nor_is_anything_where_nobody_wants_feedback():
    body = Body(100)
    assert (await post(None, body, "0" * 64)).status_code == 421
    assert body.read == 0


async def test_what_only_looks_signed_is_read_as_far_as_labels_can_be_long(tmp_path):
    body = Body(100)
    async with Desk(tmp_path) as own:
        assert (await post(own.desk, body, "0" * 64)).status_code == 413
        assert (await post(own.desk, b"[]", "0" * 64)).status_code == 421
    assert body.read <= LONGEST_FORWARDED + 2**16


async def slowly(pieces: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while piece := await pieces.get():
        yield piece


@pytest.mark.parametrize("path", [LABELS_PATH, ORDERS_PATH])
async def test_of_those_who_send_slowly_no_more_is_kept_than_there_is_room_for(tmp_path, monkeypatch, path):
    monkeypatch.setattr("despina_runtime.process.admin.MOST_AT_ONCE", 2**20)
    senders = [asyncio.Queue[bytes]() for _ in range(8)]
    for pieces in senders:
        pieces.put_nowait(b" " * 2**18)
    async with Desk(tmp_path) as own:
        app, headers = admin(own.desk), {SIGNATURE_HEADER: "0" * 64}
        async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://pod") as client:
            ways = [asyncio.ensure_future(client.post(path, content=slowly(p), headers=headers)) for p in senders]
            async with asyncio.timeout(10):  # what was taken is read before its sender waits again
                while not all(pieces.empty() for pieces in senders):
                    await asyncio.sleep(0)
            at_once = await client.post(path, content=b" " * 2**19, headers=headers)
            for pieces in senders:
                pieces.put_nowait(b" ")
                pieces.put_nowait(b"")
            slow = [answer.status_code for answer in await asyncio.gather(*ways)]
    refused = 421 if path == LABELS_PATH else 403
    assert at_once.status_code == refused, "it was read"
    assert slow == [503] * 6 + [refused] * 2


@pytest.mark.parametrize("read", [read_at_most, Intake(2**20).read], ids=["alone", "among others"])
async def test_a_body_in_the_smallest_pieces_costs_no_more_than_its_pieces(read):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(2**19):
            yield b"x"

    began = time.process_time()
    assert await read(pieces(), 2**20) == b"x" * 2**19
    assert time.process_time() - began < 2


async def test_labels_that_another_pod_signed_are_stored(tmp_path):
    body = LABELS.dump_json([said(origin("1"))])
    async with Desk(tmp_path) as own:
        answer = await post(own.desk, body, sign(KEY, POD, body))
    assert [one.status for one in REPLIES.validate_json(answer.content)] == ["Stored"]


async def test_what_another_pod_signed_and_is_no_label_is_refused(tmp_path):
    async with Desk(tmp_path) as own:
        for body in (b"{}", b"[1]", b"no json"):
            assert (await post(own.desk, body, sign(KEY, POD, body))).status_code == 400


async def test_who_leaves_in_the_midst_of_labels_is_no_error(tmp_path):
    heard = iter([{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(heard)

    async def send(_: Any) -> None:
        return None

    headers = [(SIGNATURE_HEADER.encode(), b"0" * 64)]
    scope = {"type": "http", "method": "POST", "path": LABELS_PATH, "headers": headers, "query_string": b""}
    async with Desk(tmp_path) as own:
        await admin(own.desk)(scope, receive, send)


@pytest.mark.parametrize("signature", ["\u00e9" * 64, "\udce9" * 64])
def test_a_signature_may_be_any_text_and_is_wrong(signature):
    assert not is_signed(b"key", POD, b"[]", signature)


class Other:
    """Another pod, which reads no more than it can, and goes after so many requests."""

    def __init__(self, requests: float = float("inf")) -> None:
        self._left = requests
        self.got: list[str] = []

    async def forward(self, pod: str, labels: Sequence[Label]) -> list[Reply]:
        self._left -= 1
        if self._left < 0 or len(LABELS.dump_json(list(labels))) > LONGEST_FORWARDED:
            raise Unreachable
        self.got += [one.origin for one in labels]
        return [Reply(prediction_id=one.prediction, status="Stored") for one in labels]


def forwarding(folder: Path, labels: Sequence[Label], other: Other, sink: Slow) -> tuple[Delivery, Spool]:
    """One pod's delivery with labels that are for another pod."""
    spool = Spool(folder / "spool.sqlite", 2**28, POD)
    spool.take(
        [], [KeptLabel(one.prediction, one.origin, OTHER, one.at, one.model_dump_json().encode()) for one in labels]
    )

    async def in_spool(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    return Delivery(POD, spool, in_spool, sink, other), spool


def long(number: int, expected: str) -> Label:
    name = origin(f"{number:x}", pod=OTHER)
    return said(name, pod=OTHER, expected={"a": expected})


async def test_however_long_labels_are_the_other_pod_gets_them_in_parts_that_it_reads(tmp_path):
    labels, other = [long(n, "x" * (LONGEST_LABEL - 100)) for n in range(100)], Other()
    delivery, spool = forwarding(tmp_path, labels, other, Slow())
    await delivery.round()
    assert sorted(other.got) == sorted(one.origin for one in labels)
    assert spool.fill().labels == 0
    spool.close()


async def test_the_longest_label_fits_also_where_each_letter_is_hidden(tmp_path):
    labels, other = [long(1, f"{HIDDEN}x" * LONGEST_LABEL)], Other()
    delivery, spool = forwarding(tmp_path, labels, other, Slow())
    await delivery.round()
    assert other.got == [labels[0].origin]
    spool.close()


async def test_what_the_other_pod_took_before_it_went_is_not_delivered_in_its_place(tmp_path):
    labels, other, sink = [long(n, "x" * (LONGEST_LABEL - 100)) for n in range(40)], Other(1), Slow()
    delivery, spool = forwarding(tmp_path, labels, other, sink)
    delivery.is_last = True
    async with asyncio.timeout(30):
        await delivery.round()
    assert 1 < len(other.got) < 40
    assert sorted(other.got + sink.labelled) == sorted(one.origin for one in labels)
    spool.close()

"""Names of predictions, what is hidden of them, and the spool."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina.wire.predictions import Foreign, key_of, pod_of, trace_id_of
from despina_runtime.feedback.spool import Kept, KeptLabel, Spool
from despina_runtime.telemetry.prediction import MOST_HIT, Names, address_of, made_at, place_of
from despina_runtime.telemetry.redaction import HIDDEN, Redactor

KEY, POD = key_of("a key"), pod_of("10.1.2.3", 8081)


def names(key: bytes = KEY, pod: str = POD) -> Names:
    return Names(key, "abcd1234", pod, lambda: 1_700_000_000.5)


def test_any_pod_of_the_program_reads_what_one_of_them_named():
    made = names()
    name = made.signed(made.origin())
    found = names(pod="").read(name)
    assert (found.revision, found.pod, found.at) == ("abcd1234", POD, 1_700_000_000)
    assert name.startswith(found.origin)


def test_a_cached_answer_is_called_by_its_origin_and_a_number_of_its_own():
    made, other = names(), names(pod=pod_of("10.1.2.4", 8081))
    origin = made.origin()
    hits = {other.hit(origin) for _ in range(20)}
    assert len(hits) == 20
    assert {made.read(hit).origin for hit in hits} == {origin}
    assert {made.read(hit).pod for hit in hits} == {POD}


def test_nobody_else_can_make_a_name():
    name = names(key_of("another key")).signed(names().origin())
    with pytest.raises(Foreign):
        names().read(name)
    own = names().signed(names().origin())
    with pytest.raises(Foreign):
        names().read(own.replace("abcd1234", "abcd1235"))


@pytest.mark.parametrize("digit", range(1, 16))
def test_a_cached_answers_name_is_not_another_ones_though_one_hash_is_for_both(digit):
    made = names()
    hit = made.hit(made.origin())
    number, _, mac = hit.rpartition("-")
    with pytest.raises(Foreign):
        names().read(f"{number[:-1]}{digit:x}-{mac}")
    assert names().signed(number) == hit


def test_what_is_kept_for_cached_answers_is_bounded():
    made = names()
    hits = {made.hit(made.origin()) for _ in range(3 * MOST_HIT)}
    assert len(hits) == 3 * MOST_HIT
    assert len(made._hit) <= MOST_HIT


@given(st.text() | st.from_regex(r"[0-9a-z~-]{10,90}", fullmatch=True))
def test_whatever_is_sent_as_a_name_is_read_or_is_none(text):
    with contextlib.suppress(Foreign):
        assert names().read(text) is None


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::12"])
def test_a_name_says_where_its_pod_is(address):
    host = f"[{address}]" if ":" in address else address
    assert address_of(pod_of(address, 8081)) == f"{host}:8081"


@pytest.mark.parametrize("pod", ["", "zz", "1234", pod_of("10.1.2.3", 8081) + "00"])
def test_or_says_nothing(pod):
    assert address_of(pod) == ""


HIDES = {
    "an address of e-mail": ("write to jane.doe@example.com today", "jane.doe@example.com"),
    "a card's number": ("it is 4111 1111 1111 1111, thanks", "4111 1111 1111 1111"),
    "an IBAN": ("pay to DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
    "a bearer token": ("Authorization: Bearer abcdefgh12345", "Bearer abcdefgh12345"),
    "a key": ("use sk-proj-abcdefghijklmnop1234", "sk-proj-abcdefghijklmnop1234"),
    "a password": ("my password: hunter2!", "password: hunter2!"),
}


@pytest.mark.parametrize("sentence", HIDES)
def test_what_is_private_is_hidden_wherever_it_stands(sentence):
    text, secret = HIDES[sentence]
    hide = Redactor((), ())
    for value in (text, [text], {"a": {"b": [text]}}, {text: 1}):
        assert secret not in str(hide(value))
        assert HIDDEN in str(hide(value))


def test_fields_and_patterns_of_the_manifest_are_hidden_too():
    hide = Redactor(("ssn",), (r"ticket-\d+",))
    assert hide({"ssn": 12, "text": "see ticket-77", "n": 3}) == {"ssn": HIDDEN, "text": f"see {HIDDEN}", "n": 3}


def test_an_ordinary_text_stays():
    text = "My card was charged twice on 2026-11-29 for order 123456; it costs 12.50 in all."
    assert Redactor((), ())({"ticket": text}) == {"ticket": text}


@pytest.fixture
def spool(tmp_path):
    found = Spool(tmp_path / "feedback" / "spool.sqlite", 2**20, POD)
    yield found
    found.close()


def origin(number: int) -> str:
    return f"abcd1234-{POD}-0000000a-00000001-{number:x}"


def kept(n: int, sampled: bool = True, body: bytes = b"[]") -> Kept:
    return Kept(origin(n), float(n), body, sampled)


def label(n: int, at: float = 100.0, pod: str = POD, body: bytes = b"{}") -> KeptLabel:
    return KeptLabel(f"{origin(n)}-mac", origin(n), pod, at, body)


def test_those_that_are_spoken_of_come_first_sampled_or_not(spool):
    spool.take([kept(1), kept(2, sampled=False), kept(3, sampled=False)], [label(2)])
    assert [one.origin for one in spool.due(10)] == [origin(2), origin(1)]
    assert [one.origin for one in spool.due(10, everything=True)] == [origin(2), origin(1), origin(3)]


def test_a_label_waits_for_its_prediction(spool):
    spool.take([kept(1)], [label(1), label(7)])
    assert [one.origin for one in spool.labels(10)] == [origin(7)], "nobody here knows what it is about"
    spool.delivered([origin(1)])
    assert [one.origin for one in spool.labels(10)] == [origin(1), origin(7)]
    spool.done(spool.labels(10))
    assert spool.labels(10) == []
    assert spool.knows(origin(1))


def test_the_later_of_two_labels_counts_whichever_comes_first(spool):
    spool.take([], [label(1, 5.0, body=b'"b"'), label(1, 4.0, body=b'"a"')])
    assert [one.body for one in spool.labels(10)] == [b'"b"']
    sent = spool.labels(10)
    spool.take([], [label(1, 6.0, body=b'"c"')])
    spool.done(sent)
    assert [one.body for one in spool.labels(10)] == [b'"c"'], "what came meanwhile is not done with that"


def test_what_is_taken_twice_is_there_once(spool):
    spool.take([kept(1)], [label(1)])
    spool.delivered([origin(1)])
    spool.done(spool.labels(10))
    spool.take([kept(1)], [label(1)])
    assert (spool.due(10), spool.labels(10)) == ([], [])


def test_what_is_old_is_forgotten_but_not_what_somebody_waits_for(spool):
    spool.take([kept(1), kept(2), kept(300)], [label(2, at=2.0)])
    assert spool.prune(100.0) == 0
    assert [spool.knows(origin(n)) for n in (1, 2, 300)] == [False, True, True]


def test_where_there_is_no_room_the_oldest_goes_that_nobody_spoke_of(tmp_path):
    spool = Spool(tmp_path / "spool", 2**18, POD)
    spool.take([kept(n, body=b"x" * 1000) for n in range(1200)], [label(0)])
    lost = spool.prune(-1.0)
    assert lost >= 1000
    assert spool.knows(origin(0))
    spool.close()


def test_it_is_all_there_after_the_process_was_killed(tmp_path, spool):
    spool.take([kept(1)], [label(1)])
    again = sqlite3.connect(tmp_path / "feedback" / "spool.sqlite")
    assert again.execute("SELECT count(*) FROM predictions").fetchone() == (1,)
    assert again.execute("SELECT count(*) FROM labels").fetchone() == (1,)


def test_a_trace_is_named_by_its_origin():
    assert len(trace_id_of("o")) == 32
    assert trace_id_of("o") != trace_id_of("p")


def test_a_requests_trace_is_known_when_it_begins_and_by_its_name_whichever_ends_first():
    made = names()
    begun = [made.begin() for _ in range(3)]
    origins = [made.origin(number) for number, _ in reversed(begun)]
    assert [trace_id_of(origin) for origin in origins] == [own for _, own in reversed(begun)]
    assert len({own for _, own in begun} | {names().begin()[1]}) == 4
    read = [made.read(made.signed(origin)) for origin in origins]
    assert [(one.pod, one.at) for one in read] == [(POD, 1_700_000_000)] * 3
    assert [place_of(origin)[1] for origin in origins] == [1, 2, 3]


def test_names_of_before_there_were_such_traces_are_read():
    old = f"abcd1234-{POD}-0000000a-6553f100-1"
    assert names().read(names().signed(old)).at == made_at(old) == 1_700_000_000
    assert trace_id_of(old) == hashlib.sha256(old.encode()).hexdigest()[:32]

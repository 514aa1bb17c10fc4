"""What the page knows: programs, pods and Events as they come and go, and what streams are told of them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from despina.dashboard import words
from despina.dashboard.facts import facts_of
from despina.dashboard.stream import MOST_OF_ONE, Full, Stream, Streams, keys_of, list_events, page_events
from despina.dashboard.world import MOST_NOTES, MOST_PODS, World
from despina.wire import FeedbackReport, Figures, HeldRevision, PodState
from tests.support.page import NOW, a_candidate, a_manifest, a_pod, an_event, condition, figures

QA = ("team-a", "qa")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(clock):
    made = World(clock)
    made.set_programs("team-a", [a_manifest()])
    made.set_pods("team-a", [a_pod()])
    return made


def test_what_is_not_listed_is_gone_in_that_namespace_alone(world):
    world.set_programs("team-b", [a_manifest("x", "team-b")])
    world.set_programs("team-a", [a_manifest("new")])
    assert sorted(world.programs) == [("team-a", "new"), ("team-b", "x")]
    world.drop_program(a_manifest("new"))
    assert sorted(world.programs) == [("team-b", "x")]


def test_a_program_made_anew_begins_anew(world):
    world.heard(QA, "uid-qa", {"qa-1": figures()})
    again = a_manifest()
    again["metadata"]["uid"] = "another"
    world.set_program(again)
    assert world.programs[QA].meter.total() == {}
    world.heard(QA, "uid-qa", {"qa-1": figures()})  # an answer to a question of before
    assert world.programs[QA].meter.total() == {}


def test_a_pod_that_says_the_same_counts_once_and_is_heard(world, clock):
    known = world.programs[QA]
    world.heard(QA, "uid-qa", {"qa-1": figures(100)}, {"qa-1": '"a"'})
    clock.now += 10
    world.heard(QA, "uid-qa", {"qa-1": None}, {"qa-1": '"a"'})
    assert (known.answered, known.history.present().requests) == (clock.now, 0)
    world.heard(QA, "uid-qa", {"qa-1": None}, {"qa-1": '"b"'})  # what that was is not known
    assert known.meter._pods["qa-1"].missed == 1
    assert known.meter.tag("qa-1") == '"a"'
    assert known.meter.tag("qa-2") == ""


SILENT = {
    "all of them": ({"qa-1": None, "qa-2": None}, 0),
    "one of two": ({"qa-1": None, "qa-2": figures(in_flight=2)}, 2),
}


@pytest.mark.parametrize(("said", "under_way"), SILENT.values(), ids=SILENT)
def test_what_a_silent_pod_said_of_the_moment_does_not_hold_for_ever(world, said, under_way):
    world.set_pods("team-a", [a_pod(), a_pod("qa-2")])
    known = world.programs[QA]
    heard = {"qa-1": figures(in_flight=5, breaker_open=True), "qa-2": figures(in_flight=2)}
    for answers in (heard, said, said, heard, said, said):
        world.heard(QA, "uid-qa", answers)
        assert known.meter.gauges().in_flight == 7
        assert world.row(known).state.word == "Breaker open"
    counted = known.meter.total()
    for _ in range(5):
        world.heard(QA, "uid-qa", said)
        assert (known.meter.gauges().in_flight, known.meter.gauges().breakers_open) == (under_way, 0)
        assert world.row(known).state.word != "Breaker open"
    assert known.meter.total() == counted


def test_what_a_program_did_when_its_pods_still_answered_is_not_what_it_does_now(world, clock):
    for requests in (100, 200):
        clock.now += 10
        world.heard(QA, "uid-qa", {"qa-1": figures(requests)})
    shown = []
    for answer in (None, None, None, figures(300), figures(400)):
        clock.now += 10
        world.heard(QA, "uid-qa", {"qa-1": answer})
        shown.append(world.row(world.programs[QA]).cells["requests"])
    assert shown == ["10", "10", words.NOTHING, words.NOTHING, "10"]


def test_pods_and_events_may_come_before_their_program(world):
    world.set_pods("team-a", [a_pod("late-1", "late"), a_pod()])
    world.set_notes("team-a", [an_event("Promoted", program="late")])
    world.set_program(a_manifest("late"))
    known = world.programs[("team-a", "late")]
    assert list(known.pods) == ["late-1"]
    assert [note.reason for note in known.notes.values()] == ["Promoted"]
    world.set_pods("team-a", [a_pod()])
    world.set_notes("team-a", [])
    assert (known.pods, known.notes) == ({}, {})


def test_nobodys_pods_and_events_take_no_room_without_end(world, monkeypatch):
    monkeypatch.setattr("despina.dashboard.named.MOST_PROGRAMS", 50)
    for number in range(3 * MOST_PODS):
        world.set_pod(a_pod(f"p{number}", f"none-{number}"))
        world.set_pod(a_pod(f"p{number}", "qa"))
        world.add_note(an_event("Promoted", program=f"none-{number}"))
    assert len(world.programs[QA].pods) == MOST_PODS
    assert [len(about.within("team-a")) for about in (world._pods, world._notes)] == [50, 50]
    world.set_pod(a_pod("x-1", "x", "team-b"))
    world.add_note(an_event("Promoted", program="x", namespace="team-b"))
    world.set_program(a_manifest("x", "team-b"))
    assert (len(world.programs["team-b", "x"].pods), len(world.programs["team-b", "x"].notes)) == (1, 1)
    world.set_program(a_manifest("real"))  # where others have made up names
    world.set_pod(a_pod("real-1", "real"))
    world.add_note(an_event("Promoted", program="real"))
    assert (len(world.programs["team-a", "real"].pods), len(world.programs["team-a", "real"].notes)) == (1, 1)


def test_names_of_nobody_go_with_what_named_them(world):
    for number in range(3):
        world.set_pod(a_pod(f"p{number}", f"none-{number}"))
        world.add_note(an_event("Promoted", program=f"none-{number}"))
    world.drop_pod(a_pod("p0", "none-0"))
    world.drop_note(an_event("Promoted", program="none-0"))
    assert [len(about.within("team-a")) for about in (world._pods, world._notes)] == [3, 3]  # two, and a program's
    world.set_pods("team-a", [])
    world.set_notes("team-a", [])
    assert [about.within("team-a") for about in (world._pods, world._notes)] == [[QA], [QA]]
    world.add_note(an_event("Promoted"))
    world.drop_note(an_event("Promoted"))
    assert world.programs[QA].notes == {}


def test_of_what_a_pod_says_of_itself_no_more_is_kept_than_is_shown(world):
    held = {f"rev{n}" * 10: HeldRevision(phase="Ready") for n in range(200)}
    trouble = FeedbackReport(trouble="x" * 1000)
    world.told(QA, "qa-1", PodState(held=held, workers=2, feedback=trouble))
    told = world.programs[QA].pods["qa-1"].state
    assert told.workers == "2/2"
    assert told.held.count("Ready") == 3
    assert sum(map(len, told)) < 500


TOO_MANY = {
    "breakers": (PodState, '{"breakers":[%s]}', lambda _: "{}"),
    "revisions": (PodState, '{"held":{%s}}', lambda n: f'"{n}":{{"phase":"Ready"}}'),
    "counts": (PodState, '{"counts":{%s}}', lambda n: f'"{n}":{{}}'),
    "tries": (PodState, '{"tries":{%s}}', lambda n: f'"{n}":{{"ok":true}}'),
    "versions": (Figures, '{"versions":{%s}}', lambda n: f'"{n}":{{}}'),
    "tiers": (Figures, '{"cache":{%s}}', lambda n: f'"{n}":1'),
    "LMs": (Figures, '{"lm_seconds":{%s}}', lambda n: f'"{n}":{{}}'),
    "reasons": (Figures, '{"dropped":{"traces":{%s}}}', lambda n: f'"{n}":1'),
}


@pytest.mark.parametrize(("kind", "whole", "one"), TOO_MANY.values(), ids=TOO_MANY)
def test_what_names_too_many_is_no_answer(kind, whole, one):
    kind.model_validate_json(whole % one(0))
    with pytest.raises(ValidationError):
        kind.model_validate_json(whole % ",".join(map(one, range(1000))))


def test_pods_that_end_are_not_asked(world):
    ending = a_pod()
    ending["metadata"]["deletionTimestamp"] = "now"
    world.set_pod(ending)
    assert world.programs[QA].pods == {}
    world.set_pod(a_pod())
    world.drop_pod(a_pod())
    assert world.programs[QA].pods == {}


def test_of_events_the_latest_are_kept(world):
    for ago in range(2 * MOST_NOTES):
        world.add_note(an_event("Promoted", ago=ago))
    notes = world.programs[QA].notes.values()
    assert len(notes) == MOST_NOTES
    assert min(note.at for note in notes) == NOW - MOST_NOTES + 1
    world.add_note(an_event("Promoted", program="nobody"))


def test_silence_is_told_since_it_began(world, clock):
    world.said("x", False)
    clock.now += 5
    world.said("x", False)
    assert world.silent_since == {"x": NOW}
    world.said("x", True)
    assert world.silent_since == {}


def events(world, stream, namespaces=("team-a",)):
    found = [e.decode().split("\n") for e in list_events(world, stream, namespaces)]
    return [(lines[-4].removeprefix("event: "), json.loads(lines[-3].removeprefix("data: "))) for lines in found]


def test_a_stream_is_told_what_changed_of_what_it_shows(world, clock):
    world.set_program(a_manifest("hidden"))
    stream = Stream("ada", visible=frozenset([QA, ("team-a", "none")]))
    assert [kind for kind, _ in events(world, stream)] == ["refresh", "row"]
    assert events(world, stream) == []
    world.set_program(a_manifest("hidden", breaker={"state": "Open"}))
    clock.now += 3
    assert [kind for kind, _ in events(world, stream)] == ["refresh"]
    world.heard(QA, "uid-qa", {"qa-1": figures()})
    clock.now += 10
    world.heard(QA, "uid-qa", {"qa-1": figures(200)})
    ((kind, row),) = events(world, stream)
    assert (kind, row["key"], row["cells"]["requests"]) == ("row", "team-a/qa", "10")


def test_a_stream_goes_on_from_the_number_that_it_had(world):
    stream = Stream("ada", visible=frozenset([QA]))
    events(world, stream)
    again = Stream("ada", visible=frozenset([QA]), sent=stream.sent, shape=stream.shape)
    assert events(world, again) == []
    world.set_program(a_manifest(conditions=[condition("Ready"), condition("UpToDate", "False", "VersionQuarantined")]))
    assert [kind for kind, _ in events(world, again)] == ["refresh", "row"]


def test_what_is_in_another_namespace_is_not_told(world):
    stream = Stream("ada", visible=frozenset([QA]))
    assert events(world, stream, ()) == [("refresh", {})]


def test_a_row_is_encoded_once_for_all(world):
    known = world.programs[QA]
    first = world.encoded(known)
    assert world.encoded(known) is first
    known.stale(is_figure=True)
    assert world.encoded(known).number == first.number  # nothing in it is new
    world.set_program(a_manifest(**a_candidate()))
    assert world.encoded(known).number > first.number


def test_a_restarted_page_counts_on(clock):
    before, after = World(clock), World(clock)
    before.set_program(a_manifest())
    clock.now += 1
    after = World(clock)
    after.set_program(a_manifest())
    assert after.encoded(after.programs[QA]).number > before.encoded(before.programs[QA]).number


def test_a_programs_page_is_told_figures_and_when_to_be_made_anew(world, clock):
    known, stream = world.programs[QA], Stream("ada", page=QA)
    kinds = [e.split(b"event: ")[1].split(b"\n")[0] for e in page_events(world, stream, known)]
    assert kinds == [b"refresh", b"page"]
    assert list(page_events(world, stream, known)) == []
    clock.now += 3
    world.add_note(an_event("Promoted"))
    assert [e for e in page_events(world, stream, known) if b"refresh" in e]


def test_streams_end_somewhere_and_belong_to_one_person(monkeypatch):
    monkeypatch.setattr("despina.dashboard.stream.MOST_STREAMS", 2)
    streams, mine = Streams(), Stream("ada")
    streams.begin(mine)
    streams.begin(Stream("lou", page=QA))
    with pytest.raises(Full):
        streams.begin(Stream("sam"))
    assert not streams.look(mine.word, "lou", [QA])
    assert streams.look(mine.word, "ada", [("a", str(n)) for n in range(999)])
    assert len(streams.watched().rows) == 250
    assert streams.watched().pages == {QA}
    streams.end(mine)
    assert not streams.look(mine.word, "ada", [QA])


def test_nobody_takes_all_streams():
    streams = Streams()
    mine = [Stream("ada") for _ in range(MOST_OF_ONE)]
    for one in mine:
        streams.begin(one)
    with pytest.raises(Full):
        streams.begin(Stream("ada"))
    streams.begin(Stream("lou"))
    streams.end(mine[0])
    streams.begin(Stream("ada"))


SAID = {
    "keys": (["a/b"], [("a", "b")]),
    "what is none": (["a", "a/b/c", 1, None, ["a/b"]], []),
    "no list": ({"a/b": 1}, []),
}


@pytest.mark.parametrize(("said", "keys"), SAID.values(), ids=SAID)
def test_what_a_page_says_that_it_shows(said, keys):
    assert keys_of(said) == keys


@pytest.mark.parametrize(
    "document", [{}, {"metadata": 1, "status": "x", "spec": []}, {"metadata": {"name": {}}, "status": {"history": [1]}}]
)
def test_documents_that_are_none(document):
    assert facts_of(document).version == ""

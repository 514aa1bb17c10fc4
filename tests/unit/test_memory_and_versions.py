"""What is remembered, which version is meant, and which are not tried: the small pure pieces, case by case."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from despina.api.conditions import Reason
from despina.api.revision import revision_of, source_digest
from despina.api.status import LAST_SERIAL, Memory, ModelStatus, ProgramStatus, Promotion, Quarantined
from despina.decide.memory import asking, fresh, handled, recall, remembered
from despina.decide.observed import Loading, Observed, Resolution
from despina.decide.quarantine import (
    added,
    entry_against,
    is_against,
    parse_timestamp,
    quarantine,
    still_quarantined,
    timestamp,
)
from despina.decide.versions import asked_model, is_same, model_of, ref_of, served_model, served_models
from tests.support.gen import DEFAULTS, a_deployment, a_program, config_of, hash_of, observed, ref, serving, source

NOW = 1_000_000.0
P = a_program()
SEVEN = Memory(serial=7, handled={"retry": "2"})

# Memory


def with_service(memory: object, o: Observed | None = None) -> Observed:
    o = o or observed(P)
    service = {"metadata": {"annotations": {"despina.dev/memory": memory}}}
    return replace(o, objects={("Service", "qa"): service})


def with_loading(memory: Memory | None, o: Observed | None = None) -> Observed:
    loading = Loading("r", "2", config_of(P, "2"), 0.0, memory=memory)
    return replace(o or observed(P), deployments=(a_deployment(P, "1", loading=loading), a_deployment(P, "2")))


def with_status(serial: int, **more: Any) -> Observed:
    return observed(P, status=ProgramStatus.model_validate({"serial": serial, **more}))


RECALLED = {
    "nothing was ever noted": (observed(P), None),
    "a Service without a note": (replace(observed(P), objects={("Service", "qa"): {}}), None),
    "a Service with empty notes": (replace(observed(P), objects={("Service", "qa"): {"metadata": {"annotations": None}}}), None),
    "another Service's note": (replace(observed(P), objects={("Service", "x"): with_service(SEVEN.text()).objects["Service", "qa"]}), None),
    "a note that is damaged": (with_service("{"), None),
    "a note that is no text": (with_service(7), None),
    "a generation without a note": (with_loading(None), None),
    "the Service's note": (with_service(SEVEN.text()), SEVEN),
    "the generation's note": (with_loading(SEVEN), SEVEN),
    "the status": (with_status(7, handled={"retry": "2"}), SEVEN),
    "the latest is the Service's": (with_service(SEVEN.text(), with_loading(Memory(serial=6), with_status(5))), SEVEN),
    "the latest is the generation's": (with_loading(SEVEN, with_service(Memory(serial=6).text(), with_status(5))), SEVEN),
    "the latest is the status": (
        with_service(Memory(serial=6).text(), with_loading(Memory(serial=5), with_status(7, handled={"retry": "2"}))), SEVEN),
    "a damaged note beside a good one": (with_service("x", with_loading(SEVEN)), SEVEN),
}  # fmt: skip


@pytest.mark.parametrize("sentence", RECALLED)
def test_the_latest_copy_counts(sentence):
    o, wanted = RECALLED[sentence]
    assert recall(o) == wanted


def test_a_status_holds_all_that_must_not_be_forgotten():
    entry = {"version": "2", "reason": "LoadFailed", "at": timestamp(NOW)}
    rollout = {"id": "r", "strategy": "BlueGreen", "step": "Gate", "startedAt": timestamp(NOW)}
    promotion = {"revision": "r", "at": "5.0"}
    candidate = {"revision": "r", "version": "2", "deployment": "qa-r"}
    fields = {"model": {"quarantined": [entry]}, "rollout": rollout, "promotion": promotion}
    assert recall(with_status(7, **fields)).rollout_id is None, "a rollout that is over is no part of it"
    other = candidate | {"revision": "s"}
    assert recall(with_status(7, candidate=other, **fields)).rollout_id is None
    found = recall(with_status(7, candidate=candidate, **fields))
    assert found == Memory(
        serial=7,
        quarantined=(Quarantined.model_validate(entry),),
        rollout_id="r",
        rollout_started_at=timestamp(NOW),
        promotion=Promotion(revision="r", at="5.0"),
    )


def test_a_status_whose_number_was_lost_still_tells_what_it_holds():
    entry = {"version": "2", "reason": "LoadFailed", "at": timestamp(NOW)}
    assert recall(with_status(0, handled={"retry": "2"})) == Memory(serial=1, handled={"retry": "2"})
    assert recall(with_status(0, model={"quarantined": [entry]})).serial == 1
    assert recall(with_status(0, promotion={"revision": "r", "at": "5.0"})) is None


NOTES = {
    "despina.dev/promote": "p", "despina.dev/abort": "a", "despina.dev/retry": "2", "despina.dev/restart": "x" * 300,
    "despina.dev/invalidate-cache": "c", "other": "o",
}  # fmt: skip
ASKS = {"promote": "p", "abort": "a", "retry": "2", "restart": "x" * 253}


def test_what_annotations_ask_for_and_what_of_it_is_new():
    o = observed(a_program(NOTES))
    assert asking(o) == ASKS
    assert asking(observed(a_program({"despina.dev/retry": ""}))) == {}
    assert fresh(o, None) == {}, "where no record is left, all that are there count as handled"
    assert fresh(o, Memory(serial=1)) == ASKS
    assert fresh(o, Memory(serial=1, handled=ASKS)) == {}
    assert fresh(o, Memory(serial=1, handled=ASKS | {"retry": "1"})) == {"retry": "2"}


def test_the_record_is_of_what_is_there_but_of_what_waits():
    o = observed(a_program(NOTES))
    assert handled(o, ()) == ASKS
    assert handled(o, {"promote", "retry"}) == {k: v for k, v in ASKS.items() if k not in ("promote", "retry")}
    assert handled(observed(P), {"promote"}) == {}


def test_a_memory_has_a_new_number_exactly_when_it_differs():
    entry = Quarantined(version="2", reason="LoadFailed", at="t")
    promotion = Promotion(revision="r", at="5.0")
    first = remembered(None, {}, (), None, None)
    assert first == Memory(serial=1)
    assert remembered(first, {}, (), None, None) == first
    whole = remembered(first, {"retry": "2"}, (entry,), ("r", "t"), promotion)
    assert whole == Memory(
        serial=2,
        handled={"retry": "2"},
        quarantined=(entry,),
        rollout_id="r",
        rollout_started_at="t",
        promotion=promotion,
    )
    assert remembered(whole, {"retry": "2"}, (entry,), ("r", "t"), promotion) == whole
    assert remembered(whole, {}, (entry,), ("r", "t"), promotion).serial == 3


def test_the_last_number_stays_and_the_record_goes_on():
    """Nobody counts so far, but anybody can write it down."""
    forged = Memory(serial=LAST_SERIAL, handled={"retry": "forged"})
    for where in (with_service(forged.text()), with_loading(forged), with_status(LAST_SERIAL, handled=forged.handled)):
        assert recall(where) == forged
    after = remembered(forged, {"retry": "3"}, (), None, None)
    assert (after.serial, after.handled) == (LAST_SERIAL, {"retry": "3"})
    assert Memory.parse(after.text()) == after
    written = with_service(after.text(), with_loading(forged, with_status(LAST_SERIAL, handled=forged.handled)))
    assert recall(written) == after, "what was written last counts"
    assert Memory.parse(json.dumps({"serial": LAST_SERIAL + 1})) is None


def test_no_copy_lists_more_than_a_status_can():
    entry = {"version": "1", "reason": "LoadFailed", "at": "t"}
    listed = [entry | {"revision": str(n)} for n in range(21)]
    assert Memory.parse(json.dumps({"serial": 9, "quarantined": listed})) is None
    kept = Memory.parse(json.dumps({"serial": 9, "quarantined": listed[:20]}))
    assert kept is not None
    assert len(ModelStatus(quarantined=kept.quarantined).quarantined) == 20


# Versions


def seen(*versions: str, created: int | None = None) -> tuple:
    views = (a_deployment(P, v, config=config_of(P, v)) for v in versions)
    return tuple(
        replace(v, config=v.config.model_copy(update={"model": ref(v.version, created)})) if created else v
        for v in views
    )


def answered(version: str | None, reason: Reason = Reason.MODEL_FOUND, **more: Any) -> Resolution:
    return Resolution(version, reason, **more)


def status_of(**fields: Any) -> ProgramStatus:
    return ProgramStatus.model_validate(fields)


def entry_of(version: str, **more: Any) -> dict[str, Any]:
    deployment = f"qa-{hash_of(P, version)}"
    return {
        "revision": hash_of(P, version),
        "version": version,
        "deployment": deployment,
        "source": source(version),
    } | more


def underway(version: str, step: str = "Gate") -> dict[str, Any]:
    start = {"id": hash_of(P, version), "strategy": "BlueGreen", "step": step, "startedAt": "t"}
    return {"rollout": start, "candidate": entry_of(version)}


SILENT = answered(None, Reason.REGISTRY_UNREACHABLE)
PINNED = a_program(rollout={"rollbackTo": 5})
ONE_SERVES = {"active": "1", "deployments": seen("1")}
ASKED: dict[str, tuple[Observed, str | None]] = {
    "what the registry says": (observed(P, "2", **ONE_SERVES), "2"),
    "what the manifest is pinned to": (observed(PINNED, "2"), "5"),
    "the registry says no": (observed(P, model=answered(None, Reason.ALIAS_NOT_FOUND), **ONE_SERVES), None),
    "the registry is silent, and something serves": (observed(P, model=SILENT, **ONE_SERVES), "1"),
    "the registry is silent, and nothing serves": (observed(P, model=SILENT), None),
    "the registry is silent, and a change is under way": (observed(P, model=SILENT, status=status_of(**underway("2")), **ONE_SERVES), "2"),
    "the registry is silent, and a change is over": (observed(P, model=SILENT, status=status_of(**underway("2", "Failed")), **ONE_SERVES), "1"),
    "the registry is silent, and the candidate is another change's": (
        observed(P, model=SILENT, status=status_of(**(underway("2") | {"candidate": entry_of("3")})), **ONE_SERVES), "1"),
    "the registry is silent, and the pin is known": (observed(PINNED, model=SILENT, active="1", deployments=seen("1", "5")), "5"),
    "the registry is silent, and the pin is not known": (observed(PINNED, model=SILENT, **ONE_SERVES), None),
    "the registry was heard to have the pin": (observed(PINNED, model=replace(SILENT, created={"5": 7}), **ONE_SERVES), "5"),
    "the registry is silent, and the pin is under way": (
        observed(PINNED, model=SILENT, status=status_of(**underway("5")), **ONE_SERVES), "5"),
    "the registry is silent, and something else than the pin is under way": (
        observed(PINNED, model=SILENT, status=status_of(**underway("2")), **ONE_SERVES), None),
    "the registry knows a version, and so a pin": (observed(PINNED, "2", **ONE_SERVES), "5"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", ASKED)
def test_which_version_is_asked_for(sentence):
    o, wanted = ASKED[sentence]
    found = asked_model(o)
    assert (found and found.version) == wanted


SAME = {
    "the same": (ref("1"), ref("1"), True),
    "another number": (ref("1"), ref("2"), False),
    "another model": (ref("1"), ref("1").model_copy(update={"name": "x"}), False),
    "another server": (ref("1"), ref("1").model_copy(update={"tracking_uri": "http://x"}), False),
    "made at the same time": (ref("1", 5), ref("1", 5), True),
    "made anew": (ref("1", 5), ref("1", 6), False),
    "one does not know when": (ref("1"), ref("1", 6), True),
    "the other does not know when": (ref("1", 5), ref("1"), True),
    "another number, and one does not know when": (ref("1", 5), ref("2"), False),
}


@pytest.mark.parametrize("sentence", SAME)
def test_whether_two_names_mean_one_version(sentence):
    one, other, same = SAME[sentence]
    assert is_same(one, other) is same


def test_a_number_stands_for_the_very_version_that_pods_know_by_it():
    o = observed(P)
    assert ref_of(o, "2") == ref("2")
    assert ref_of(o, "2", 5) == ref("2", 5)
    told = replace(o, model=answered("2", created={"2": 6}))
    assert ref_of(told, "2", 5) == ref("2", 6)
    known = replace(o, deployments=seen("2", created=7))
    assert ref_of(known, "2") == ref("2", 7)
    assert ref_of(known, "2", 8) == ref("2", 8), "it was made anew"
    kept = replace(o, configs={"qa-x": known.deployments[0].config})
    assert ref_of(kept, "2") == ref("2", 7)


def test_the_server_is_the_registrys_the_specs_or_the_operators():
    own = a_program(source={"mlflow": {"model": "qa", "alias": "a", "trackingURI": "http://own/"}})
    assert ref_of(observed(own), "1").tracking_uri == "http://own"
    assert ref_of(observed(P), "1").tracking_uri == "http://mlflow:5000"
    there = observed(own, model=answered("1", server="http://there"))
    assert ref_of(there, "1").tracking_uri == "http://there"
    nowhere = observed(P, defaults=replace(DEFAULTS, tracking_uri=None))
    assert ref_of(nowhere, "1").tracking_uri == ""


def test_versions_are_known_from_all_configurations():
    loading = Loading("r", "2", config_of(P, "2"), 0.0, previous=config_of(P, "3"))
    view = a_deployment(P, "1", loading=loading, config=config_of(P, "1"))
    made = {"1": 11, "2": 22, "3": 33}
    view = replace(
        view,
        config=dated(view.config, 11),
        loading=replace(loading, config=dated(loading.config, 22), previous=dated(loading.previous, 33)),
    )
    o = observed(P, deployments=(view,))
    assert {v: ref_of(o, v).created_at for v in made} == made
    assert model_of(o, view) == ref("2", 22)
    assert model_of(o, replace(view, loading=None)) == ref("1", 11)
    assert model_of(o, replace(view, loading=None, config=None)) == ref("1", 11), "by its number"


def dated(config, created: int):
    return config.model_copy(update={"model": config.model.model_copy(update={"created_at": created})})


GONE = observed(P, active="1", deployments=())
SERVED: dict[str, tuple[Observed, str | None]] = {
    "nothing ever did": (observed(P), None),
    "off its Deployment": (observed(P, **ONE_SERVES), "1"),
    "off its configuration": (replace(GONE, configs={f"qa-{hash_of(P, '1')}": config_of(P, "1")}), "1"),
    "off another's configuration it is not": (replace(GONE, configs={"qa-x": config_of(P, "1")}), None),
    "off the record of it": (replace(GONE, status=status_of(active=entry_of("1"))), "1"),
    "off the record of what serves now, not of another": (replace(GONE, status=status_of(active=entry_of("2"))), None),
    "off the record, where nothing is selected": (observed(P, status=status_of(active=entry_of("2"))), "2"),
}


@pytest.mark.parametrize("sentence", SERVED)
def test_which_version_callers_reach_or_reached_last(sentence):
    o, wanted = SERVED[sentence]
    found = served_model(o)
    assert (found and found.version) == wanted


def lived(version: str, created: int | None = None) -> dict[str, Any]:
    entry = {"revision": hash_of(P, version), "version": version, "activatedAt": "t", "trigger": "Alias"}
    return entry | {"outcome": "Superseded", "createdAt": created, "source": source(version, created)}


def test_history_tells_what_served_where_nothing_else_does():
    o = replace(GONE, status=status_of(history=[lived("1", 11), lived("2")]))
    assert served_model(o) == ref("1", 11)
    lost = observed(P, status=status_of(history=[lived("1"), lived("2", 22)]))
    assert served_model(lost) == ref("2", 22)


def test_a_record_about_another_servers_version_names_none():
    o = observed(P, "2", active="1", status=status_of(history=[lived("1", 11)]))
    elsewhere = replace(o, defaults=replace(DEFAULTS, tracking_uri="http://another:5000"))
    renamed = replace(o, program=a_program(source={"mlflow": {"model": "other", "alias": "champion"}}))
    anew = replace(o, model=replace(o.model, created={"1": 12}))
    assert (served_model(o), served_models(o)) == (ref("1", 11), [ref("1", 11)])
    assert [served_models(changed) for changed in (elsewhere, renamed, anew)] == [[], [], []]


def test_what_callers_reached_is_listed_the_latest_first():
    views = tuple(
        replace(v, activated_at=at) for v, at in zip(seen("1", "2", "3", "4"), (1.0, 9.0, 5.0, None), strict=True)
    )
    o = observed(P, active="1", deployments=views, status=status_of(history=[lived("6"), lived("2"), lived("5")]))
    assert [m.version for m in served_models(o)] == ["1", "2", "3", "5", "6"]
    assert served_models(observed(P)) == []


# Quarantine

TWO = revision_of(P, ref("2", 5))


def entry(version: str = "2", **more: Any) -> Quarantined:
    return Quarantined(**{"version": version, "reason": "LoadFailed", "at": timestamp(NOW)} | more)


AGAINST = {
    "its number": (entry(), TWO, True),
    "another number": (entry("3"), TWO, False),
    "this revision of it": (entry(revision=TWO.hash), TWO, True),
    "another revision of it": (entry(revision="x"), TWO, False),
    "the very version": (entry(source=source_digest(TWO.model)), TWO, True),
    "a version made anew": (entry(source="x"), TWO, False),
    "nobody knows when it was made": (entry(source="x"), revision_of(P, ref("2")), True),
}


@pytest.mark.parametrize("sentence", AGAINST)
def test_what_an_entry_is_against(sentence):
    found, revision, wanted = AGAINST[sentence]
    assert is_against(found, revision) is wanted
    assert entry_against(revision, (entry("9"), found)) == (found if wanted else None)


def test_entries_hold_as_long_as_they_matter():
    entries = (entry("1"), entry("2"), entry("3"))
    matter = [revision_of(P, ref("2")), revision_of(P, ref("3"))]

    def kept(version: str | None) -> list[str]:
        return [e.version for e in still_quarantined(observed(P, version), entries, matter)]

    assert kept("2") == ["2", "3"]
    assert kept(None) == ["1", "2", "3"], "the registry is silent"


def test_an_entry_takes_the_place_of_an_older_one_about_the_same_version():
    assert added((entry("1"), entry("2"), entry("3")), entry("2", message="x")) == (
        entry("1"),
        entry("3"),
        entry("2", message="x"),
    )
    assert added((entry("2"),), entry("2", revision="r")) == (entry("2"), entry("2", revision="r"))
    made_anew = entry("2", source="made anew")
    assert added((entry("2", source="a"),), made_anew) == (entry("2", source="a"), made_anew)
    assert added((entry("2"),), made_anew) == (made_anew,), "one without a source is about any"
    many = tuple(entry(str(n)) for n in range(20))
    assert [e.version for e in added(many, entry("20"))] == [str(n) for n in range(1, 21)]


def test_a_new_entry_is_about_the_version_or_about_this_revision_of_it():
    made = quarantine(TWO, "SmokeFailed", "x" * 2000, NOW, False)
    assert made == entry(reason="SmokeFailed", message="x" * 1023 + "…", source=source_digest(TWO.model))
    assert quarantine(TWO, "SmokeFailed", "x", NOW, True).revision == TWO.hash
    for reason in ("PickleDenied", "UnknownModule", "FallbackInvalid"):
        assert quarantine(TWO, reason, "x", NOW, False).revision == TWO.hash


@pytest.mark.parametrize("text", [None, "", "yesterday", "0001-01-01T00:00:00", "9999"])
def test_a_time_that_is_none_is_the_default(text):
    assert parse_timestamp(text, 5.0) == 5.0
    assert parse_timestamp(None) == 0.0


def test_serving_is_what_the_service_selects():
    assert served_model(observed(P, **serving(P, "1"))).version == "1"

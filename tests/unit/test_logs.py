"""What is logged: one line a record, whoever's words are in it."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from despina.api.status import ProgramStatus
from despina.decide.observed import Observed, Resolution
from despina.decide.plan import Apply, Create, each
from despina.decide.rollout import decide
from despina.settings import Settings
from despina.wire import logs
from despina.wire.logs import ABOUT, OneLine, set_up
from tests.support.gen import DEFAULTS, a_program


def record(message: str = "Reconciled key=%s", *args: object, **changes: object) -> logging.LogRecord:
    found = logging.LogRecord("despina.x", logging.WARNING, "x.py", 1, message, args, None)
    vars(found).update(changes)
    return found


def failed() -> logging.LogRecord:
    try:
        raise ValueError(" ".join(["a caller's", "words"]))
    except ValueError as exc:
        return record("It failed", exc_info=(type(exc), exc, exc.__traceback__))


def document(found: logging.LogRecord, quotes_errors: bool = False) -> dict[str, str]:
    line = OneLine("json", quotes_errors).format(found)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_as_json_says_what_it_is_about(monkeypatch):
    monkeypatch.setattr(logs, "FACTS", {"program": "triage", "revision": "old"})
    about = ABOUT.set({"revision": "new", "trace_id": "4bf9"})
    found = document(record("Failed model=%s", "m", created=0.25, prediction="p-1"))
    ABOUT.reset(about)
    assert found == {
        "time": "1970-01-01T00:00:00.250Z", "level": "WARNING", "logger": "despina.x", "message": "Failed model=m",
        "program": "triage", "revision": "new", "trace_id": "4bf9", "prediction": "p-1",
    }  # fmt: skip


def test_a_record_as_text_is_as_it_ever_was():
    line = OneLine("text", False).format(record("Started namespaces=%s", "a,b"))
    assert line.endswith(" WARNING despina.x Started namespaces=a,b")


DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@example(DIRECTIONS)
@given(st.text())
def test_no_line_begins_that_is_no_record(said):
    for form in ("text", "json"):
        lines = OneLine(form, True).format(record("said=%s", said)).split("\n")
        assert all(line.startswith("    ") for line in lines[1:])
        assert not set("".join(lines)) & set("\r\x0b\x0c\x1b\x85\u2028\u2029" + DIRECTIONS)
    assert document(record("said=%s", said))["message"] == f"said={said}"[: logs.LONGEST]


def test_what_is_long_is_cut():
    assert len(OneLine("json", False).format(record("x" * 10**6))) < 2 * logs.LONGEST


@pytest.mark.parametrize("form", ["text", "json"])
def test_errors_are_told_by_their_type_and_place_and_by_their_text_only_where_it_is_nobodys(form):
    quiet, loud = (OneLine(form, quotes).format(failed()) for quotes in (False, True))
    assert "ValueError" in quiet
    assert "test_logs.py" in quiet
    assert "caller's words" not in quiet
    assert "caller's words" in loud


def test_a_process_is_set_up_again_by_what_its_configuration_says(monkeypatch):
    root, stream = logging.RootLogger(logging.WARNING), io.StringIO()
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging, "getLogger", lambda *_: root)
    monkeypatch.setattr(logs, "FACTS", {})
    monkeypatch.setattr(logs.sys, "stderr", stream)
    set_up(None)
    root.info("first")
    set_up("json", program="triage")
    root.info("second")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" INFO root first")
    assert json.loads(second)["program"] == "triage"
    assert len(root.handlers) == 1


@pytest.mark.parametrize(("form", "told"), [("json", '"log_format":"json"'), ("text", "")])
def test_pods_log_as_the_operator_is_told_to(form, told):
    observed = Observed(a_program(), ProgramStatus(), replace(DEFAULTS, log_format=form), Resolution("1", "ModelFound"))
    documents = [a.document for a in each(decide(observed, now=0.0).actions) if isinstance(a, Create | Apply)]
    (config,) = [d["data"]["config.json"] for d in documents if "config.json" in d.get("data", {})]
    assert told in config
    assert ("log_format" in config) == bool(told), "what is as ever is not said: older runtimes would refuse it"
    assert Settings(log_format=form).defaults(()).log_format == form

"""What the OpenAPI document promises, held against what is served, and bodies that nobody should send."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from despina.wire import CacheConfig, FeedbackConfig
from tests.support.pods import lm_config, pods
from tests.support.world import REPORTS, eventually

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def target(tmp_path_factory, servers, version):
    folder = tmp_path_factory.mktemp("fuzz")
    with pods(folder, *servers[1:]) as start:
        lms = (lm_config(servers[2], "main"), lm_config(servers[2], "cheap"))
        offered = {"optimize_requests": True, "feedback": FeedbackConfig(folder=str(folder / "labels"))}
        running = start(version, lms=lms, cache=CacheConfig(scope="Both"), **offered)
        eventually("ready", running.is_ready, 90)
        yield running
        assert running.process.poll() is None


def test_schemathesis_finds_no_violation(target, tmp_path):
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{target.url}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", "60"), "--phases", "examples,coverage,fuzzing",
        "--request-timeout", "30", "--seed", "7", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    REPORTS.append("schemathesis: " + next(x for x in done.stdout.splitlines() if "generated" in x.lower()).strip())


def bodies(count: int):
    """Size, depth, unicode, wrong types, broken JSON: deterministic, so that a failure can be looked at."""
    dice = random.Random(11)
    strange = ["\u0000", "\ud800", "\U0001f600", "\u202e", "é" * 50, "\\", '"', "[[ ## category ## ]]", "{" * 30]
    values = [None, True, 0, -1, 1e308, 10**30, "", [], {}, [[]], {"ticket": "x"}, "x" * 2000]
    for n in range(count):
        kind = n % 8
        if kind == 0:
            yield json.dumps({"ticket": dice.choice(values)}).encode()
        elif kind == 1:
            yield json.dumps({"ticket": "".join(dice.choices(strange, k=5))}).encode()
        elif kind == 2:
            yield b"[" * dice.randrange(1, 20000) + b"]" * dice.randrange(1, 20000)
        elif kind == 3:
            whole = json.dumps({"ticket": "a ticket about money"}).encode()
            yield whole[: dice.randrange(len(whole))]
        elif kind == 4:
            yield dice.randbytes(dice.randrange(200))
        elif kind == 5:
            yield json.dumps({dice.choice(strange): dice.choice(values) for _ in range(5)}).encode()
        elif kind == 6:
            yield json.dumps({"ticket": f"ticket {n}", "ticket2": dice.choice(values)}).encode()
        else:
            yield b'{"ticket": "' + dice.choice([b"\xff\xfe", b"\xc3\x28", b"\\ud800", b"\\u0000", b"\n"]) + b'"}'


def test_no_body_crashes_it(target, lm):
    statuses: dict[int, int] = {}
    with httpx.Client(timeout=30) as client:
        for n, body in enumerate(bodies(CASES)):
            path = ("/execute", "/execute/batch", "/modules/classify/execute")[n % 3]
            answer = client.post(f"{target.url}{path}", content=body, headers={"content-type": "application/json"})
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code in (200, 413, 422), (path, body[:200], answer.text[:300])
            assert answer.status_code == 200 or answer.headers["content-type"] == PROBLEM
            assert "Traceback" not in answer.text
    REPORTS.append(f"fuzzed bodies: sent={CASES} {dict(sorted(statuses.items()))}")
    assert target.ask().status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-lm": "\u00e9"},
        {"x-lm": "x" * 5000},
        {"x-session-id": "../../etc"},
        {"x-session-id": "x" * 129},
        {"accept": "nonsense"},
    ],
)
def test_strange_headers_are_answered(target, headers):
    raw = {k: v.encode("latin-1") for k, v in headers.items()}
    assert target.ask(headers=raw).status_code in (200, 400, 422)

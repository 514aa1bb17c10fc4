"""The runtime's engine in real pods: cache, token and sticky sessions from the manifest, and the cache's invalidation."""

from __future__ import annotations

import time
from datetime import datetime

import httpx

from tests.support.world import REPORTS, TICKET, eventually, log_model

TOKEN = "s3cret"
AUTH = {"authorization": f"Bearer {TOKEN}"}


def test_a_manifest_turns_everything_on_and_an_annotation_empties_the_cache(given, kube):
    log_model("compiled", "cached", "champion")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "caller"}, "stringData": {"token": TOKEN}}
    kube.apply(secret)
    began = time.monotonic()
    program = given(
        "cached",
        cache={"keyScope": "Both", "node": {"type": "EmptyDir", "sizeLimit": "16Mi"}},
        breaker={"minRequests": 10},
        fallback={"response": {"category": "bug"}},
        limits={"requestsPerSecond": 500},
        sessions={"affinity": "ClientIP"},
        security={"auth": {"type": "BearerSecret", "secretRef": {"name": "caller", "key": "token"}}},
        runtime={"workers": 2, "drainSeconds": 2, "requestTimeoutSeconds": 20},
    )
    program.becomes_ready()
    ready_after = time.monotonic() - began
    assert ready_after < 120
    pod = program.pods()[0]
    times = {c["type"]: datetime.fromisoformat(c["lastTransitionTime"]) for c in pod["status"]["conditions"]}
    start = (times["Ready"] - times["PodScheduled"]).total_seconds()
    REPORTS.append(f"two workers, scheduled to Ready: {start:.0f} s")
    service = kube.json("get", "service", "cached")
    assert service["spec"]["sessionAffinity"] == "ClientIP"

    def ask() -> httpx.Response:
        return httpx.post(f"{program.url}/execute", json=TICKET, headers=AUTH, timeout=30)

    assert httpx.post(f"{program.url}/execute", json=TICKET).status_code == 401
    eventually("a hit", lambda: "hit" in ask().headers["cache-status"], 10)
    kube("annotate", "dspy", "cached", "despina.dev/invalidate-cache=first")
    # Every worker forgets: of the next answers one is made anew, and it is asked for by whoever comes first.
    eventually("a miss", lambda: "miss" in ask().headers["cache-status"], 10)
    eventually("a hit again", lambda: "hit" in ask().headers["cache-status"], 10)
    program.delete()

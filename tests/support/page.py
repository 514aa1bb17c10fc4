"""Programs as the page meets them: manifests with status, Events, pods and what they count."""

from __future__ import annotations

import datetime
from typing import Any

from despina.wire import Figures, LMFigures, Timing, ToolFigures, VersionFigures

NOW = 1_790_000_000.0


def stamp(ago: float, now: float = NOW) -> str:
    """A moment of so many seconds ago."""
    return datetime.datetime.fromtimestamp(now - ago, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str = "True", reason: str = "Serving", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp(60)}


def a_manifest(name: str = "qa", namespace: str = "team-a", now: float = NOW, spec: Any = None, **status: Any) -> dict:
    """A program that serves version 7 since an hour ago; keywords replace parts of its status."""
    whole = {
        "conditions": [condition("Ready"), condition("UpToDate", reason="UpToDate")],
        "active": {"revision": "rev7", "version": "7", "deployment": f"{name}-rev7", "readyReplicas": 2},
        "history": [
            {
                "revision": "rev6",
                "version": "6",
                "activatedAt": stamp(90000, now),
                "trigger": "Alias",
                "outcome": "Superseded",
            },
            {
                "revision": "rev7",
                "version": "7",
                "activatedAt": stamp(3000, now),
                "trigger": "Alias",
                "outcome": "Serving",
            },
        ],
        "replicas": 2,
        "readyReplicas": 2,
    }
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {"source": {"mlflow": {"model": name, "alias": "champion"}}, **(spec or {})},
        "status": whole | status,
    }


def a_candidate(step: str = "Gate", ago: float = 60, now: float = NOW, **gate: Any) -> dict[str, Any]:
    """What a rollout to version 8 adds to a status."""
    one = {"name": "score", "type": "Evaluate", "result": "Running", "startedAt": stamp(30, now), **gate}
    return {
        "candidate": {"revision": "rev8", "version": "8", "deployment": "qa-rev8", "loaded": "1/2"},
        "rollout": {"id": "rev8", "strategy": "HotSwap", "step": step, "startedAt": stamp(ago, now), "gates": [one]},
        "step": step,
    }


def a_pod(name: str = "qa-1", program: str = "qa", namespace: str = "team-a", ip: str = "10.0.0.1") -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"despina.dev/program": program}},
        "status": {"phase": "Running", "podIP": ip, "conditions": [ready]},
    }


def an_event(
    reason: str, message: str = "", ago: float = 60, program: str = "qa", now: float = NOW, **more: Any
) -> dict:
    return {
        "kind": "Event",
        "metadata": {"name": f"{program}.{reason}.{ago}", "namespace": more.pop("namespace", "team-a")},
        "involvedObject": {"kind": "DSPyProgram", "name": program},
        "type": more.pop("type", "Normal"),
        "reason": reason,
        "message": message,
        "lastTimestamp": stamp(ago, now),
    }


def figures(requests: int = 100, errors: int = 2, version: str = "7", boot: str = "b", **more: Any) -> Figures:
    """What a pod counts that answered so many requests; some of them failed, a fifth came from the cache."""
    latency = Timing(buckets=(0,) * 8 + (requests // 2, requests // 3, requests // 10, errors), seconds=requests * 0.2)
    lms = tuple(
        LMFigures(
            lm="gpt", module=module, outcomes={"ok": requests, "timeout": errors},
            input_tokens=400 * requests, output_tokens=60 * requests, cost_usd=0.002 * requests,
        )
        for module in ("classify", "answer")
    )  # fmt: skip
    counted = VersionFigures(
        requests={"200": requests, "502": errors}, errors={"upstream": errors}, latency=latency, lms=lms,
        feedback={"success": requests // 20, "failure": errors},
    )  # fmt: skip
    fields = {
        "in_flight": 3,
        "cache": {"none": requests * 4 // 5, "memory": requests // 5},
        "lm_seconds": {"gpt": Timing(buckets=(0,) * 10 + (requests,))},
        "tools": (ToolFigures(tool="search", backend="local", outcomes={"ok": requests, "timeout": 1}),),
    }
    return Figures(boot=boot, versions={version: counted}, **fields | more)


HOSTILE = {
    "html": "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>",
    "script url": "javascript:window.hacked=1",
    "quote": "\"'><svg onload=window.hacked=1>",
    "jinja": "{{ 7*7 }}{% raw %}",
    "rtl": "\u202eevil\u2066\u200f txt",
    "controls": "a\x00b\x1b[31m\nline\u2028two\r\x7f",
    "long": "W" * 1_000_000,
    "half a character": "\ud800x",
}

"""The operator's wiring against a fake API server over HTTP: which events wake which program, and that watching
alone writes nothing.

kmock knows no schemas, defaults, garbage collection or server-side apply; `tests/cluster` and `tests/e2e` do.
"""

from __future__ import annotations

import asyncio
import inspect
import threading

import httpx
import kmock
import kopf
import pytest
from kmock import KubernetesEmulator, ResourceInfo

from despina.api import GROUP, VERSION
from despina.desired.labels import PROGRAM, TOOL
from despina.handlers.events import CHILDREN, build_registry
from despina.reconcile.uses import Uses

NAMESPACE = "ns"
KINDS = {
    "dspyprograms": "DSPyProgram",
    "dspytools": "DSPyTool",
    "deployments": "Deployment",
    "services": "Service",
    "pods": "Pod",
}


class Emulator(KubernetesEmulator):
    """kmock gives objects no resourceVersion, without which kopf sees each one twice."""

    version = 100

    async def _handle(self, request):
        if request.resource is not None and str(request.action) in ("action.CREATE", "action.UPDATE"):
            Emulator.version += 1
            if isinstance(request.data, dict):
                request.data.setdefault("metadata", {})["resourceVersion"] = str(Emulator.version)
        return await super()._handle(request)


def declare(emulator: Emulator) -> None:
    verbs = {"get", "list", "watch", "create", "patch", "delete"}
    for group, version, plural in ((GROUP, VERSION, "dspyprograms"), (GROUP, VERSION, "dspytools"), *CHILDREN):
        name = f"{group}/{version}/{plural}" if group else f"{version}/{plural}"
        kind = KINDS.get(plural, plural.title())
        emulator.resources[name] = ResourceInfo(kind=kind, namespaced=True, subresources=set(), verbs=verbs)
    for name in ("v1/namespaces", "apiextensions.k8s.io/v1/customresourcedefinitions"):
        emulator.resources[name] = ResourceInfo(kind="X", namespaced=False, verbs={"list", "watch"})


@pytest.fixture
async def operator(monkeypatch):
    """kopf with Despina's handlers against the fake server; gives its URL, the woken keys and the server.

    It runs on a loop of its own: when it stops, it cancels every task of the loop that it did not find there.
    """
    woken: list[tuple[str, str]] = []
    stop, ready = threading.Event(), threading.Event()
    async with Emulator() as emulator, kmock.Server(emulator):
        declare(emulator)
        url = str(emulator.url).rstrip("/")
        connection = kopf.ConnectionInfo(server=url)
        monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: connection)
        options = {"namespaces": [NAMESPACE], "standalone": True, "identity": "test"}
        running = kopf.operator(
            registry=build_registry(
                lambda key, _: woken.append(key), lambda key, _: woken.append(("tool", *key)), Uses()
            ),
            stop_flag=stop,
            ready_flag=ready,
            **options,
        )
        thread = threading.Thread(target=asyncio.run, args=(running,))
        thread.start()
        assert await asyncio.to_thread(ready.wait, 10)
        yield url, woken, emulator
        stop.set()
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive(), "the operator did not stop"


async def create(url: str, path: str, document: dict) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{url}{path}", json=document)
        response.raise_for_status()


async def until(check) -> None:
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.02)  # between looks; the deadline is above


async def test_programs_and_their_children_wake_their_program_and_nothing_else_does(operator):
    url, woken, emulator = operator
    programs = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/dspyprograms"
    kind = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DSPyProgram"}
    await create(url, programs, kind | {"metadata": {"name": "qa", "namespace": NAMESPACE}, "spec": {}})
    await until(lambda: (NAMESPACE, "qa") in woken)

    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    base = {"apiVersion": "apps/v1", "kind": "Deployment"}
    stranger = {"name": "stranger", "namespace": NAMESPACE, "labels": {"app": "x"}}
    child = {"name": "qa-1", "namespace": NAMESPACE, "labels": {PROGRAM: "other"}}
    await create(url, deployments, base | {"metadata": stranger})
    await create(url, deployments, base | {"metadata": child})
    await until(lambda: (NAMESPACE, "other") in woken)
    assert set(woken) == {(NAMESPACE, "qa"), (NAMESPACE, "other")}

    own = {"name": "search-pods", "namespace": NAMESPACE, "labels": {TOOL: "search"}}
    await create(url, deployments, base | {"metadata": own})
    await until(lambda: ("tool", NAMESPACE, "search") in woken)

    live = emulator.objects[f"{GROUP}/{VERSION}/dspyprograms", NAMESPACE, "qa"].raw
    assert "finalizers" not in live["metadata"]
    assert "annotations" not in live["metadata"]
    assert "status" not in live


@pytest.mark.parametrize(("label", "what"), [(PROGRAM, "child"), (TOOL, "child-of-tool")])
async def test_a_label_that_is_no_name_wakes_nobody(label, what):
    woken: list[tuple[str, str]] = []
    wake = lambda key, _: woken.append(key)  # noqa: E731
    handlers = build_registry(wake, wake, Uses())._watching.get_all_handlers()
    found = [handler.fn for handler in handlers if handler.id == what]
    assert len(found) == len(CHILDREN)
    for child in found:
        for value in ("", "A", "x_y", "a..b", "-a", "ok.then"):
            await child(type="MODIFIED", namespace=NAMESPACE, labels={label: value})
    assert set(woken) == {(NAMESPACE, "ok.then")}


def test_events_are_noted_on_the_loop_that_works():
    """kopf runs a handler that is none of the loop's in a thread, where adding to the queue loses events at times."""
    wake = lambda key, _: None  # noqa: E731
    handlers = list(build_registry(wake, wake, Uses())._watching.get_all_handlers())
    assert len(handlers) == 2 * len(CHILDREN) + 2
    assert all(inspect.iscoroutinefunction(handler.fn) for handler in handlers)


async def test_a_tool_wakes_the_programs_that_use_it_and_they_wake_it(operator):
    url, woken, _ = operator
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}"
    spec = {"tools": [{"name": "find", "ref": {"name": "search"}}]}
    kind = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DSPyProgram"}
    await create(url, f"{path}/dspyprograms", kind | {"metadata": {"name": "qa", "namespace": NAMESPACE}, "spec": spec})
    await until(lambda: {(NAMESPACE, "qa"), ("tool", NAMESPACE, "search")} <= set(woken))
    woken.clear()
    kind = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DSPyTool"}
    await create(url, f"{path}/dspytools", kind | {"metadata": {"name": "search", "namespace": NAMESPACE}, "spec": {}})
    await until(lambda: {(NAMESPACE, "qa"), ("tool", NAMESPACE, "search")} <= set(woken))

"""Tools in the test cluster: manifests, pods that are killed, a count of what was really executed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from clusterconfig import NODE_IP
from despina.wire import ADMIN_PORT
from despina_runtime.tools.functions import find_tools
from tests.support.hosts import PACKAGE
from tests.support.world import Kube, eventually

FOLDER = "/opt/tools"


def contract(name: str, package: str = PACKAGE, **changes: Any) -> dict[str, Any]:
    """What `despina-runtime contract` prints for one of the sample tools."""
    tool = find_tools([package])[name]
    own = {"name": name, "description": tool.description, "parameters": tool.parameters, "returns": tool.returns}
    return {**own, "idempotency": "Idempotent", **changes}


def sample_pods(
    name: str = "pods", env: dict[str, str] | None = None, package: str = "sample_tools", **changes: Any
) -> dict[str, Any]:
    """A backend that hosts the sample tools, which come in a ConfigMap."""
    variables = {"PYTHONPATH": f"/app:{FOLDER}", **(env or {})}
    container = {
        "name": "tool",
        "env": [{"name": k, "value": v} for k, v in variables.items()],
        "volumeMounts": [{"name": "package", "mountPath": FOLDER}],
    }
    template = {
        "spec": {"containers": [container], "volumes": [{"name": "package", "configMap": {"name": "sample-tools"}}]}
    }
    host = {"toolPackages": [package], "drainSeconds": 4, "podTemplate": template}
    return {"name": name, "deployment": host, **changes}


def tool(name: str, *backends: dict[str, Any], of: str | None = None, **spec: Any) -> dict[str, Any]:
    """A DSPyTool."""
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyTool",
        "metadata": {"name": name},
        "spec": {"contract": spec.pop("contract", None) or contract(of or name), "backends": list(backends), **spec},
    }


def apply_package(kube: Kube, **files: str) -> None:
    """The sample tools, and other modules, as a ConfigMap of a namespace."""
    source = Path(__file__).with_name("sample_tools.py").read_text()
    data = {"sample_tools.py": source} | {f"{k}.py": v for k, v in files.items()}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sample-tools"}, "data": data})


def status_of(kube: Kube, name: str) -> dict[str, Any]:
    return kube.json("get", "dspytool", name).get("status") or {}


def backend_of(kube: Kube, name: str, backend: str) -> dict[str, Any]:
    return next((b for b in status_of(kube, name).get("backends", []) if b["name"] == backend), {})


def becomes(kube: Kube, name: str, backend: str, state: str, seconds: float = 90) -> dict[str, Any]:
    """Wait for a backend's state; gives its status."""
    try:
        eventually(f"{name}/{backend} {state}", lambda: backend_of(kube, name, backend).get("state") == state, seconds)
    except AssertionError as exc:
        raise AssertionError(f"{exc}; it is {backend_of(kube, name, backend)}") from None
    return backend_of(kube, name, backend)


def pods_of(kube: Kube, name: str, backend: str) -> list[dict[str, Any]]:
    """A backend's pods that are not ending."""
    found = kube.json("get", "pods", "-l", f"despina.dev/tool={name},despina.dev/backend={backend}")["items"]
    return [p for p in found if "deletionTimestamp" not in p["metadata"]]


def running(kube: Kube, label: str) -> dict[str, dict[str, Any]]:
    """The pods with a label by their UIDs, those that are ending included."""
    return {p["metadata"]["uid"]: p for p in kube.json("get", "pods", "-l", label)["items"]}


def are_replaced(kube: Kube, label: str, before: dict[str, dict[str, Any]]) -> bool:
    """Whether as many others stand ready in the place of those that were running."""
    now = running(kube, label)
    return len(now) == len(before) and not before.keys() & now.keys() and all(map(is_ready, now.values()))


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def kill(pod: str, number: int = signal.SIGKILL) -> None:
    """Kill the processes of a pod's container, as the kernel does when memory runs out."""
    for pid in processes_of(pod):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def processes_of(pod: str) -> list[int]:
    """Of its container; the first is process 1 there."""
    mark = f"DESPINA_POD_NAME={pod}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                inner = re.search(r"NSpid:.*\s(\d+)\n", (environ.parent / "status").read_text())
                found.append((int(inner[1]) if inner else 0, int(environ.parent.name)))
        except OSError:
            continue
    return [pid for _, pid in sorted(found)]


def evict(kube: Kube, pod: str) -> None:
    """Through the eviction API, as a node that is drained does."""
    meta = {"name": pod, "namespace": kube.namespace}
    body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta})
    kube("create", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction", "-f", "-", stdin=body)


@contextmanager
def without_network(pod: dict[str, Any]):
    """The pod's cable is pulled while the block runs."""
    device = _device_of(pod["status"]["podIP"])
    subprocess.run(["ip", "link", "set", device, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", device, "up"], check=True)


def _device_of(ip: str) -> str:
    """The host's end of the pair that leads to a pod."""
    with contextlib.suppress(OSError):  # so that the neighbour is known
        socket.create_connection((ip, ADMIN_PORT), 1).close()
    neighbour = subprocess.run(["ip", "neigh", "show", ip], capture_output=True, text=True, check=True).stdout.split()
    address = neighbour[neighbour.index("lladdr") + 1]
    table = subprocess.run(["bridge", "fdb", "show", "br", "cni0"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[2] for line in table.splitlines() if line.startswith(address))


@contextmanager
def counter():
    """A server that pods tell of what they execute; gives its address and what it was told."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with _serving(Handler) as url:
        yield f"{url}/", told


class Outside:
    """A backend beside the cluster, which answers as a test tells it to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.status = 200
        self.calls = 0

    def answer(self, query: str) -> tuple[int, dict[str, Any]]:
        self.calls += 1
        time.sleep(self.seconds)
        found = {"result": [{"text": f"{query} 0", "score": 1.0}]}
        return (200, found) if self.status == 200 else (self.status, {"title": "Not now"})


@contextmanager
def outside():
    """Serves the sample tool `search`; gives its address and what it does."""
    there, offer = Outside(), find_tools([PACKAGE])["search"]
    offered = {"tools": {"search": {"parameters": offer.parameters, "returns": offer.returns}}}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(there.seconds)
            self._send(200, offered)

        def do_POST(self) -> None:
            self._send(*there.answer(json.loads(self.rfile.read(int(self.headers["content-length"])))["query"]))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if status == 429:
                self.send_header("retry-after", "2")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a look that waited no longer
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with _serving(Handler) as url:
        yield url, there


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]):
    """The address of a server that pods can reach, while the block runs."""
    server = ThreadingHTTPServer((NODE_IP, 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{NODE_IP}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

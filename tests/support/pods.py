"""The runtime's processes on this machine, as a pod would run them."""

from __future__ import annotations

import base64
import itertools
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.wire import SIGNATURE_HEADER, LMConfig, ModelRef, Order, PodState, RuntimeConfig
from services import free_port
from tests.support.world import TICKET

KEY = Ed25519PrivateKey.generate()
"""The operator's, as far as these pods know."""

RUN = (
    "import asyncio, sys; from pathlib import Path; from despina.wire import RuntimeConfig;"
    "from despina_runtime.process import supervisor;"
    "supervisor.SILENT_SECONDS = float(sys.argv[4]);"
    "config = RuntimeConfig.model_validate_json(Path(sys.argv[1]).read_bytes());"
    "sys.exit(asyncio.run(supervisor.serve_pod(config, Path(sys.argv[2]), '127.0.0.1', int(sys.argv[3]))))"
)
SILENT_SECONDS = 8.0
"""As pods have it; a test that waits for it may want less."""


def public_half(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signature_of(key: Ed25519PrivateKey, body: bytes) -> str:
    return base64.b64encode(key.sign(body)).decode()


PUBLIC_KEY = public_half(KEY)


def lm_config(lm_url: str, name: str = "main", **changes) -> LMConfig:
    return LMConfig(name=name, base_url=f"{lm_url}/v1", **{"model": f"openai/{name}", **changes})


def is_running(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


NUMBERS = itertools.count(1)


def fresh(_: int = 0) -> dict[str, str]:
    """A ticket that nobody asked before. It is numbered, so that what the stand-in answers is the same in every run."""
    return {"ticket": f"My card was charged twice after I cancelled the plan ({next(NUMBERS)})"}


class Pod:
    """One runtime as a process of this machine."""

    def __init__(self, folder, config: RuntimeConfig, admin: int, silent_seconds: float = SILENT_SECONDS) -> None:
        self.config, self.admin_port, self.admin = config, admin, f"http://127.0.0.1:{admin}"
        self.url = f"http://127.0.0.1:{config.port}"
        self.termination = folder / "termination-log"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        (folder / "config.json").write_text(config.model_dump_json())
        env = {
            **os.environ,
            "DESPINA_POD_NAME": "pod-1",
            "DESPINA_TERMINATION_LOG": str(self.termination),
            "DESPINA_POD_IP": "127.0.0.1",
            "TMPDIR": str(self.temporary),
        }
        command = [sys.executable, "-c", RUN, str(folder / "config.json"), str(folder / "cache"), str(admin)]
        command.append(str(silent_seconds))
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.admin}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, body=None, **options) -> httpx.Response:
        return httpx.post(f"{self.url}/execute", json=TICKET if body is None else body, timeout=30, **options)

    def signed(self, key: Ed25519PrivateKey = KEY, **changes) -> tuple[bytes, dict[str, str]]:
        """The next order for this process."""
        last = self.state().orders
        base = {"order": "Retire", "namespace": "ns", "pod": "pod-1", "boot": last.boot, "number": last.number + 1}
        body = Order.model_validate(base | changes).model_dump_json().encode()
        return body, {SIGNATURE_HEADER: signature_of(key, body)}

    def give(self, body: bytes, headers: dict[str, str]) -> int:
        """Waits for longer than the pod does for its workers."""
        return httpx.post(f"{self.admin}/orders", content=body, headers=headers, timeout=15).status_code

    def order(self, order: str, **changes) -> int:
        return self.give(*self.signed(order=order, **changes))

    def state(self) -> PodState:
        return PodState.model_validate(httpx.get(f"{self.admin}/state").json())

    def metrics(self) -> str:
        return httpx.get(f"{self.admin}/metrics").text

    def metric(self, name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in self.metrics().splitlines() if line.startswith(name))

    def workers(self) -> list[int]:
        out = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False).stdout
        return [int(pid) for pid in out.split()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def pods(folder, mlflow_uri: str, lm_url: str):
    """Starts pods; all end with the block, and however they do, they leave nothing in the temporary directory."""
    started: list[Pod] = []

    def start(version: str, model: str = "serving", home: str = "", **changes) -> Pod:
        uri, timeout = changes.pop("tracking_uri", mlflow_uri), changes.pop("lm_timeout", 10)
        silent_seconds, admin = changes.pop("silent_seconds", SILENT_SECONDS), changes.pop("admin", 0) or free_port()
        lms = changes.pop("lms", None) or (lm_config(lm_url, retries=0, request_timeout_seconds=timeout),)
        config = RuntimeConfig(
            namespace="ns",
            program="triage",
            revision="abcd1234",
            model=ModelRef(name=model, version=version, tracking_uri=uri),
            lms=lms,
            lm=lms[0].name,
            port=free_port(),
            **{"drain_seconds": 1, "request_timeout_seconds": 20, "order_keys": (PUBLIC_KEY,), **changes},
        )
        home = folder / home if home else folder
        home.mkdir(exist_ok=True)
        started.append(Pod(home, config, admin, silent_seconds))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    left = [path for running in started for path in running.temporary.iterdir()]
    assert not left, left

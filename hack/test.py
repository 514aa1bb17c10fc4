"""`make test`: set up everything that the tests of all tiers need on this machine, run pytest, take it all down.

The tiers `cluster` and `e2e` run inside the local cluster's network; without root or Go they are skipped, and
pytest says why. Two files of tests run at a time. Arguments are passed on to pytest. KEEP=1 leaves the cluster for
the next run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import rag
from services import Processes
from stage import (
    LocalStage,
    expose_services,
    install_operator,
    mlflow_uri,
    namespace_of,
    start_services,
    wait_for_services,
)
from tools import ROOT, Failed, fetch_axe, install_packages, say, unpacked

MODULES = sorted((ROOT / "tests" / "e2e").glob("test_*.py"))
OUT = ROOT / "out" / "test"


def missing() -> str | None:
    """What this machine lacks for a cluster of its own."""
    if os.geteuid() != 0:
        return "root (network namespaces and containers)"
    for tool in ("go", "apt-get", "unshare", "nsenter"):
        if not shutil.which(tool):
            return f"{tool} on PATH"
    return None


def main(arguments: list[str]) -> int:
    """Run the tests; the result is pytest's."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install_packages(["redis-server", "iproute2", "chromium", "fonts-dejavu-core"])
        unpacked("prometheus")  # promtool, which tests of the alerts run
    fetch_axe()
    lacking = missing()
    if lacking:
        return pytest([], {"DESPINA_NO_CLUSTER": f"a local cluster needs {lacking}"}, arguments)
    stage = LocalStage("test", extras=True)
    processes = Processes(OUT / "services")
    try:
        stage.prepare()
        environment = set_up(stage, processes, [*map(namespace_of, MODULES), "elsewhere"])
        rag.start_backends(stage, processes, OUT / "postgres")
        rag.expose_backends(stage, "e2e-rag")
        return pytest(stage.prefix, environment, arguments)
    except Failed as exc:
        say(f"FAILED: {exc}")
        return 1
    finally:
        processes.stop_all()
        if not os.environ.get("KEEP"):
            stage.down()


def set_up(stage: LocalStage, processes: Processes, namespaces: Sequence[str]) -> dict[str, str]:
    """A cluster with the operator, MLflow and the stand-in LM, and the variables that tell the tests of them."""
    started = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    stage.up()
    start_services(stage, processes, OUT / "mlflow")
    stage.load_images()
    for namespace in namespaces:
        if not stage.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name"):
            stage.kubectl("create", "namespace", namespace)
        # Programs' pods must pass the strictest pod security, so the namespaces enforce it.
        stage.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    expose_services(stage, "default")
    install_operator(stage, "despina-system", namespaces)
    wait_for_services(stage, processes)
    say(f"The stage is set after {time.monotonic() - started:.0f} s")
    return {
        "DESPINA_TEST_CLUSTER": stage.cluster.name,
        "DESPINA_TEST_MLFLOW": mlflow_uri(stage),
        "DESPINA_TEST_MLFLOW_PID": str(processes.started["mlflow"].pid),
        "DESPINA_TEST_MLFLOW_DATA": str(OUT / "mlflow"),
    }


def pytest(prefix: list[str], environment: dict[str, str], arguments: list[str]) -> int:
    """All tiers in one run, so that one closing line tells of all; their temporary files go with it."""
    command = [*prefix, str(ROOT / ".venv" / "bin" / "pytest"), "--all-tiers", "-n2", "--durations=15"]
    with tempfile.TemporaryDirectory(prefix="despina-", ignore_cleanup_errors=True) as folder:
        env = {**os.environ, **environment, "TMPDIR": folder}
        return subprocess.run([*command, *arguments], cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

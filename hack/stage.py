"""Setting the stage on a cluster, for the demo and for the end-to-end tests alike: images, the operator, an MLflow
server and the stand-in LM that pods reach by name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import localcluster
from clusterconfig import NODE_IP
from images import INPUTS, build_archive, tag_of
from localcluster import Cluster, bin_dir
from services import Processes, mlflow_command, standin_command
from tools import ROOT, Failed, install_packages, run

MLFLOW_PORT = 5000
LM_PORT = 8000
CHART = ROOT / "charts" / "despina"
DESPINA = [sys.executable, "-m", "despina.cli"]


class Stage(Protocol):
    """A cluster, and how this machine's processes and its pods meet."""

    host_ip: str
    """An address of this machine that pods can reach."""
    prefix: Sequence[str]
    """What starts a process where it can reach Services."""

    def prepare(self) -> None:
        """Build what the stage is made of."""

    def up(self) -> None:
        """Start the cluster."""

    def kubectl(self, *args: str, **kwargs) -> str:
        """Run kubectl."""

    def helm(self, *args: str) -> str:
        """Run helm."""

    def load_images(self) -> None:
        """Build the two images and put them where pods can use them."""

    def wrapper(self) -> list[str]:
        """The command line of kubectl on this cluster."""

    def despina(self) -> list[str]:
        """The command line of `despina` on this cluster."""

    def down(self) -> None:
        """Remove what was made."""


class LocalStage:
    """The local cluster of this repository."""

    host_ip = NODE_IP

    def __init__(self, name: str, extras: bool = False) -> None:
        self.cluster = Cluster(name)
        self._extras = extras

    @property
    def prefix(self) -> list[str]:
        return self.cluster.enter([])

    def prepare(self) -> None:
        """Build what is missing; the images meanwhile, for those mostly wait for packages."""
        install_packages(localcluster.PACKAGES)
        with ThreadPoolExecutor(1) as pool:
            images = pool.submit(lambda: [build_archive(target) for target in INPUTS])
            localcluster.build(extras=self._extras)
            images.result()

    def up(self) -> None:
        """Start the cluster."""
        self.cluster.up(metrics=self._extras)

    def kubectl(self, *args: str, **kwargs) -> str:
        return self.cluster.kubectl(*args, **kwargs)

    def helm(self, *args: str) -> str:
        return self.cluster.helm(*args)

    def load_images(self) -> None:
        for target in INPUTS:
            self.cluster.load(build_archive(target))

    def wrapper(self) -> list[str]:
        tool = [str(bin_dir() / "kubectl"), f"--kubeconfig={self.cluster.kubeconfig}"]
        return self.cluster.enter(tool)

    def despina(self) -> list[str]:
        return self.cluster.enter(["env", f"KUBECONFIG={self.cluster.kubeconfig}", *DESPINA])

    def down(self) -> None:
        self.cluster.down()


class CurrentStage:
    """The cluster of the current kubeconfig; HOST_IP names an address of this machine that its pods reach."""

    def __init__(self) -> None:
        _need("kubectl", "helm")
        self.prefix: list[str] = []
        self.host_ip = os.environ.get("HOST_IP", "")
        if not self.host_ip:
            raise Failed("CLUSTER=current needs HOST_IP, an address of this machine that the cluster's pods reach")

    def prepare(self) -> None:
        """Nothing is built for it but the images."""

    def up(self) -> None:
        """It is there already."""
        run(["kubectl", "get", "--raw", "/readyz"], capture=True)

    def kubectl(self, *args: str, **kwargs) -> str:
        return run(["kubectl", *args], capture=True, **kwargs)

    def helm(self, *args: str) -> str:
        return run(["helm", *args], capture=True)

    def load_images(self) -> None:
        """The cluster must be able to run the images; IMAGE_PUSH names a command that is given each tag."""
        push = os.environ.get("IMAGE_PUSH")
        for target in INPUTS:
            run(["docker", "build", "-q", "--target", target, "-t", tag_of(target), str(ROOT)], quiet=True)
            if push:
                run([*push.split(), tag_of(target)])

    def wrapper(self) -> list[str]:
        return ["kubectl"]

    def despina(self) -> list[str]:
        return DESPINA

    def down(self) -> None:
        """It stays."""


class KindStage(CurrentStage):
    """A kind cluster of its own, on Docker."""

    name = "despina"

    def __init__(self) -> None:
        _need("docker", "kind", "kubectl", "helm")
        self.prefix = []
        self.host_ip = ""

    def up(self) -> None:
        """Make the cluster; its pods reach this machine through the gateway of kind's network."""
        if self.name not in run(["kind", "get", "clusters"], capture=True).split():
            run(["kind", "create", "cluster", "--name", self.name])
        run(["kubectl", "config", "use-context", f"kind-{self.name}"], quiet=True)
        networks = json.loads(run(["docker", "network", "inspect", "kind"], capture=True))
        gateways = [c.get("Gateway", "") for c in networks[0]["IPAM"]["Config"]]
        self.host_ip = next(g for g in gateways if "." in g)

    def load_images(self) -> None:
        super().load_images()
        run(["kind", "load", "docker-image", "--name", self.name, *map(tag_of, INPUTS)], quiet=True)

    def down(self) -> None:
        run(["kind", "delete", "cluster", "--name", self.name])


def _need(*tools: str) -> None:
    missing = [t for t in tools if not shutil.which(t)]
    if missing:
        raise Failed(f"not on PATH: {', '.join(missing)}")


def docker_runs() -> bool:
    """Whether a Docker engine answers here."""
    return bool(shutil.which("docker")) and run(["docker", "info"], check=False, quiet=True) == ""


def choose(name: str, before: str | None = None) -> LocalStage | CurrentStage:
    """The stage that was chosen before, or that CLUSTER names; without either, kind where it can run."""
    chosen = before or os.environ.get("CLUSTER") or ("kind" if docker_runs() and shutil.which("kind") else "local")
    match chosen:
        case "local":
            return LocalStage(name)
        case "kind":
            return KindStage()
        case "current":
            return CurrentStage()
    raise Failed(f"CLUSTER={chosen}: use kind, local or current")


def start_services(stage: Stage, processes: Processes, data: Path) -> None:
    """Start MLflow and the stand-in LM where pods can reach them; they take a while, so nobody waits here."""
    processes.prefix = stage.prefix
    processes.start("mlflow", mlflow_command(data, stage.host_ip, MLFLOW_PORT, "*"))
    processes.start("stand-in-lm", standin_command(stage.host_ip, LM_PORT))


def wait_for_services(stage: Stage, processes: Processes) -> None:
    """Wait until both answer."""
    processes.wait_for_http("mlflow", f"{mlflow_uri(stage)}/health", 120)
    processes.wait_for_http("stand-in-lm", f"http://{stage.host_ip}:{LM_PORT}/admin")


def mlflow_uri(stage: Stage) -> str:
    """MLflow's address for processes of this machine."""
    return f"http://{stage.host_ip}:{MLFLOW_PORT}"


def expose_services(stage: Stage, namespace: str) -> None:
    """Give both a name that pods of a namespace can use: a Service without selector and its EndpointSlice."""
    documents = [
        document
        for name, port in (("mlflow", MLFLOW_PORT), ("stand-in-lm", LM_PORT))
        for document in exposed(name, port, stage.host_ip, namespace)
    ]
    apply(stage, {"apiVersion": "v1", "kind": "List", "items": documents})


def namespace_of(module: Path) -> str:
    """The namespace of a module of end-to-end tests, so that two of them can run side by side."""
    return module.stem.replace("test_", "e2e-", 1).replace("_", "-")


def exposed(name: str, port: int, ip: str, namespace: str) -> list[dict]:
    """A process of this machine as a Service."""
    meta = {"name": name, "namespace": namespace}
    labels = {"kubernetes.io/service-name": name}
    ports = [{"name": "http", "port": port}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}],
        },
    ]


def apply(stage: Stage, document: dict) -> str:
    """kubectl apply of one document."""
    return stage.kubectl("apply", "-f", "-", input=json.dumps(document))


def image_values() -> list[str]:
    """Chart values for the images of this tree."""
    values = []
    for key, target in (("image", "operator"), ("runtimeImage", "runtime")):
        repository, _, tag = tag_of(target).rpartition(":")
        values += ["--set", f"{key}.repository={repository}", "--set-string", f"{key}.tag={tag}"]
    return values


def install_operator(stage: Stage, namespace: str, watch: Sequence[str], *extra: str, release: str = "despina") -> None:
    """helm install from the repository's chart, and wait until the operator is up."""
    watched = "{" + ",".join(watch) + "}"
    args = ["--namespace", namespace, "--create-namespace", "--set", f"watchNamespaces={watched}"]
    stage.helm("upgrade", "--install", release, str(CHART), *args, *image_values(), *extra, "--wait", "--timeout=120s")

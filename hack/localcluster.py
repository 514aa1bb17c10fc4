"""A real single-node Kubernetes without Docker, for demos and tests.

Everything of a cluster lives in network, mount and process namespaces of its own, under one init process:
when that ends, the kernel ends every process and takes away every mount and interface. Nothing but control
groups and the state folder is left to remove, and nothing leaks into the host's network.

    localcluster.py build          build the binaries that are missing (minutes, once; cached outside the tree)
    localcluster.py up NAME        start a cluster        localcluster.py down NAME      end it
    localcluster.py exec NAME CMD  run a command in its network
    localcluster.py load NAME TAR  import a docker-archive of images

Needs root, Go, and the Debian packages of PACKAGES, which `build` installs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import clusterconfig
from clusterconfig import NODE_IP, POD_CIDR, TOKEN
from tools import CACHE, ROOT, Failed, install_packages, run, say, wait_for

HERE = Path(__file__).resolve().parent
STATE = ROOT / "out" / "clusters"
PACKAGES = (
    "etcd-server",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "socat",
    "buildah",
    "mmdebstrap",
    "iproute2",
    "gcc",
    "libc6-dev",
    "openssl",
)
KUBERNETES = "1.34.4"
EXTRAS = {
    "metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server@v0.9.0",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok@v0.7.0",
}
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
# --- binaries ---------------------------------------------------------------------------------------


def bin_dir() -> Path:
    """Where the binaries are, keyed by everything that they are built from."""
    sources = sorted((HERE / "cluster").rglob("*.*"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources) + json.dumps(EXTRAS).encode())
    return CACHE / f"kubernetes-{KUBERNETES}-{digest.hexdigest()[:12]}"


def build(extras: bool = True) -> None:
    """Build what is missing. Demos need no `extras` (metrics-server and kwok)."""
    install_packages(PACKAGES)
    target = bin_dir()
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "kube").exists():
        say(f"Building Kubernetes {KUBERNETES}, CoreDNS and Helm from source (once, 5 to 12 minutes)")
        version = "k8s.io/component-base/version"
        major, minor, _ = KUBERNETES.split(".")
        stamps = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
        flags = " ".join(["-s -w", *(f"-X {version}.{name}={value}" for name, value in stamps.items())])
        with _staging(target) as staging:
            for what in (["./coredns"], ["helm.sh/helm/v3/cmd/helm"], ["./kube"]):
                say(f"  {what[0]}")
                _go(["build", "-ldflags", flags, "-o", f"{staging}/", *what], HERE / "cluster")
    for name, package in EXTRAS.items() if extras else ():
        if not (target / name).exists():
            say(f"Building {name} from source (once, 1 to 3 minutes)")
            with _staging(target) as staging:
                _go(["install", "-ldflags", "-s -w", package], HERE, GOBIN=str(staging))
    for name in COMPONENTS:
        with contextlib.suppress(FileExistsError):
            (target / name).symlink_to("kube")


@contextlib.contextmanager
def _staging(target: Path):
    """A folder whose files are moved over only when all are there: a build that was cut off leaves nothing."""
    staging = target / f"staging-{os.getpid()}"
    staging.mkdir()
    try:
        yield staging
        for file in staging.iterdir():
            file.rename(target / file.name)
    finally:
        shutil.rmtree(staging)


def _go(args: list[str], cwd: Path, **env: str) -> None:
    run(["go", *args], cwd=cwd, env={**os.environ, "CGO_ENABLED": "0", **env}, quiet=True)


# --- outside: up, down, exec ------------------------------------------------------------------------


class Cluster:
    """One cluster, by name; its state is in a folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dir = STATE / name
        self.kubeconfig = self.dir / "kubeconfig"

    @property
    def pid(self) -> int | None:
        """The host's process id of the cluster's init, if it runs."""
        try:
            pid = int((self.dir / "init.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if "localcluster.py" in command else None

    def enter(self, command: list[str]) -> list[str]:
        """The command line that runs a command in the cluster's network."""
        if self.pid is None:
            raise Failed(f"cluster {self.name} is not running")
        return ["nsenter", f"--target={self.pid}", "--net", *command]

    def kubectl(self, *args: str, **kwargs) -> str:
        """Run kubectl and return what it prints."""
        tool = [str(bin_dir() / "kubectl"), f"--kubeconfig={self.kubeconfig}"]
        return run(self.enter([*tool, *args]), capture=True, **kwargs)

    def helm(self, *args: str) -> str:
        """Run helm and return what it prints."""
        return run(self.enter([str(bin_dir() / "helm"), f"--kubeconfig={self.kubeconfig}", *args]), capture=True)

    def load(self, archive: Path) -> None:
        """Import a docker-archive of images."""
        socket = self.dir / "containerd.sock"
        run(["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)], quiet=True)

    def up(self, metrics: bool = False) -> None:
        """Start the cluster and wait until its node is Ready; after a failure nothing is left running."""
        if self.pid:
            say(f"Cluster {self.name} is up already")
            return
        self.down()
        self.dir.mkdir(parents=True)
        log = (self.dir / "init.log").open("wb")
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        inner = [sys.executable, __file__, "_init", self.name, *(["metrics"] if metrics else [])]
        process = subprocess.Popen([*command, *inner], stdout=log, stderr=log, start_new_session=True)
        try:
            init = wait_for("the cluster's init", lambda: _child_of(process.pid), 10)
            (self.dir / "init.pid").write_text(str(init))
            wait_for("the node", lambda: self._is_ready(process), 120)
        except BaseException as exc:
            tail = (self.dir / "init.log").read_text(errors="replace")[-2000:]
            process.kill()
            process.wait()
            self.down(keep_logs=True)
            if isinstance(exc, Failed):
                raise Failed(f"{exc}\nEnd of {self.dir / 'init.log'}:\n{tail}") from None
            raise
        if metrics:
            self.kubectl("apply", "-f", "-", input=json.dumps(clusterconfig.metrics_api()))
        say(f"Cluster {self.name} is up: Kubernetes {KUBERNETES}, node {NODE_IP}")

    def _is_ready(self, process: subprocess.Popen) -> bool:
        if process.poll() is not None:
            raise Failed("the cluster's init ended")
        if not self.kubeconfig.exists():
            return False
        try:
            return " Ready " in self.kubectl("get", "node", "local", "--no-headers") and bool(
                self.kubectl("get", "serviceaccount", "default", "--no-headers")
            )
        except Failed:
            return False

    def down(self, keep_logs: bool = False) -> None:
        """End the cluster and remove what it left: its control groups and its folder."""
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_for("the cluster's end", lambda: not Path(f"/proc/{pid}").exists() or self.pid is None, 30)
        with contextlib.suppress(Failed):  # a process may take a moment to leave its group
            wait_for("control groups", lambda: _remove_cgroups(f"despina-{self.name}"), 5)
        if not keep_logs:
            _remove_tree(self.dir)


def _child_of(pid: int) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None
    return None


def _remove_cgroups(name: str) -> bool:
    """Remove a control group in every hierarchy, the deepest first; True when none is left."""
    left = False
    for top in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        # From the bottom up, and without a complaint about what is gone by the time that it is looked at.
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                left = True
    return not left


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


# --- inside: the init process -----------------------------------------------------------------------


def init(name: str, metrics: bool) -> None:
    """Run as process 1 of the cluster: start everything, then reap orphans until killed."""
    os.environ["PATH"] = f"{bin_dir()}:/usr/sbin:/sbin:{os.environ['PATH']}"
    folder = STATE / name
    _network()
    _mounts()
    _control_groups(name)
    clusterconfig.write_files(folder, name)
    parts: dict[int, str] = {}
    start = _starter(folder, parts)
    start("etcd", *clusterconfig.etcd(folder))
    start("containerd", "--config", str(folder / "containerd.toml"))
    start("kube-apiserver", *clusterconfig.apiserver(folder))
    wait_for("the API server", _api_is_ready, 60)
    kubeconfig = f"--kubeconfig={folder / 'admin.kubeconfig'}"
    start("kube-controller-manager", kubeconfig, *clusterconfig.controller_manager(folder))
    start("kube-scheduler", kubeconfig, "--leader-elect=false", "--authentication-skip-lookup")
    _pause_image(folder)
    start(
        "kubelet",
        kubeconfig,
        f"--config={folder / 'kubelet.json'}",
        f"--node-ip={NODE_IP}",
        "--hostname-override=local",
        f"--root-dir={folder / 'kubelet'}",
    )
    start(
        "kube-proxy",
        kubeconfig,
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_CIDR}",
        "--hostname-override=local",
        "--conntrack-max-per-core=0",
        "--iptables-min-sync-period=0s",
    )
    start("coredns", "-conf", str(folder / "Corefile"))
    if metrics:
        start("metrics-server", kubeconfig, *clusterconfig.metrics_server(folder))
    (folder / "admin.kubeconfig").rename(folder / "kubeconfig.tmp")
    shutil.copy(folder / "kubeconfig.tmp", folder / "admin.kubeconfig")
    (folder / "kubeconfig.tmp").rename(folder / "kubeconfig")
    while True:  # reap what the containers leave behind; without one of its parts the cluster is no cluster
        pid, status = os.wait()
        if pid in parts:
            raise Failed(f"{parts[pid]} ended with status {status}; see {folder}/logs/{parts[pid]}.log")


def _starter(folder: Path, parts: dict[int, str]):
    (folder / "logs").mkdir()

    def start(program: str, *args: str) -> None:
        log = (folder / "logs" / f"{program}.log").open("wb")
        process = subprocess.Popen([program, *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
        parts[process.pid] = program

    return start


def _network() -> None:
    """A loopback, and a pair of interfaces that plays the node's network card."""
    for line in (
        "link set lo up",
        "link add node0 type veth peer name node0p",
        f"addr add {NODE_IP}/24 dev node0",
        "link set node0 up",
        "link set node0p up",
        f"route add default via {NODE_IP}",
    ):
        run(["ip", *line.split()])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _mounts() -> None:
    """Folders that tools fill with mounts and files of their own: fresh ones, gone with the namespace."""
    for folder in ("/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/run/containerd"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", folder])
    run(["mount", "--make-rshared", "/"])


def _control_groups(name: str) -> None:
    for controller in Path("/sys/fs/cgroup").iterdir():
        if not (controller / "cgroup.procs").exists() or controller.is_symlink():
            continue
        group = controller / f"despina-{name}"
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (group / file).exists():
                (group / file).write_text((controller / file).read_text())


def _pause_image(folder: Path) -> None:
    """The process that holds a pod's namespaces, from five lines of C."""
    archive = CACHE / "pause.tar"
    if not archive.exists():
        work = folder / "pause"
        work.mkdir()
        (work / "pause.c").write_text(
            "#include <signal.h>\n#include <unistd.h>\n"
            "static void end(int s) { _exit(0); }\n"
            "int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n"
        )
        run(["gcc", "-static", "-O2", "-o", str(work / "pause"), str(work / "pause.c")])
        (work / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        buildah = ["buildah", "--storage-driver", "vfs", "--root", f"{work}/root", "--runroot", f"{work}/run"]
        run([*buildah, "bud", "--isolation", "chroot", "-q", "-t", "localhost/pause:1", str(work)], quiet=True)
        run([*buildah, "push", "-q", "localhost/pause:1", f"docker-archive:{work}/pause.tar:localhost/pause:1"])
        (work / "pause.tar").rename(archive)
    socket = folder / "containerd.sock"
    wait_for("containerd", lambda: run(["ctr", "-a", str(socket), "version"], check=False, quiet=True) == "", 30)
    run(["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)], quiet=True)


def _api_is_ready() -> bool:
    context = ssl._create_unverified_context()  # noqa: S323 - its certificate was made a second ago
    request = urllib.request.Request(f"https://{NODE_IP}:6443/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        return urllib.request.urlopen(request, context=context, timeout=2).status == 200
    except (OSError, urllib.error.URLError):
        return False


def main(args: list[str]) -> int:
    """The command line."""
    try:
        match args:
            case ["build"]:
                build()
            case ["up", name]:
                Cluster(name).up(metrics=True)
            case ["down", name]:
                Cluster(name).down()
            case ["load", name, archive]:
                Cluster(name).load(Path(archive))
            case ["exec", name, *command]:
                return subprocess.run(Cluster(name).enter(command), check=False).returncode
            case ["_init", name, *options]:
                init(name, metrics="metrics" in options)
            case _:
                say(__doc__ or "")
                return 2
    except Failed as exc:
        say(f"FAILED: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the parts of the local cluster are told: arguments, configuration files, keys and certificates."""

from __future__ import annotations

import json
from pathlib import Path

from tools import run

NODE_IP = "10.200.0.1"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
TOKEN = "local-admin"  # of an API server that only this machine's root can reach


def write_files(folder: Path, name: str) -> None:
    """Everything that the parts read, into the cluster's folder."""
    _write_keys(folder)
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    (folder / "admin.kubeconfig").write_text(json.dumps(_kubeconfig()))
    (folder / "audit.json").write_text(json.dumps(_audit_policy()))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(folder, name)))
    (folder / "containerd.toml").write_text(_containerd(folder))
    (folder / "cni").mkdir()
    (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(_cni()))
    (folder / "Corefile").write_text(_corefile(folder))


def _write_keys(folder: Path) -> None:
    """The key of service account tokens, and the certificates of the aggregation layer."""
    run(["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"], quiet=True)
    run(["openssl", "rsa", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub")], quiet=True)
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365"]
    ca, key = str(folder / "proxy-ca.crt"), str(folder / "proxy-ca.key")
    run([*make, "-subj", "/CN=front-proxy-ca", "-out", ca, "-keyout", key], quiet=True)
    client = ["-subj", "/CN=front-proxy-client", "-CA", ca, "-CAkey", key]
    files = ["-out", str(folder / "proxy.crt"), "-keyout", str(folder / "proxy.key")]
    usage = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=clientAuth"]
    run([*make, *client, *usage, *files], quiet=True)


def _kubeconfig() -> dict:
    cluster = {"server": f"https://{NODE_IP}:6443", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "despina-local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "despina-local",
    }


def _audit_policy() -> dict:
    """Writes only: they are what a test of an operator at rest counts."""
    verbs = ["create", "update", "patch", "delete", "deletecollection"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "verbs": verbs}, {"level": "None"}],
    }


def etcd(folder: Path) -> list[str]:
    """etcd's arguments; durability is traded for speed, for nothing here outlives a test."""
    url, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
    ]  # fmt: skip


def apiserver(folder: Path) -> list[str]:
    """The API server's arguments, with the aggregation layer for metrics-server and an audit log."""
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={NODE_IP}",
        f"--cert-dir={folder / 'pki'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        f"--service-account-key-file={folder / 'sa.pub'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={folder / 'proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={folder / 'proxy.crt'}",
        f"--proxy-client-key-file={folder / 'proxy.key'}",
        f"--audit-policy-file={folder / 'audit.json'}",
        f"--audit-log-path={folder / 'audit.log'}",
    ]


def controller_manager(folder: Path) -> list[str]:
    """The controllers' arguments; autoscalers look every 5 s instead of 15."""
    return [
        f"--service-account-private-key-file={folder / 'sa.key'}",
        f"--root-ca-file={folder / 'pki' / 'apiserver.crt'}",
        "--use-service-account-credentials",
        "--allocate-node-cidrs",
        f"--cluster-cidr={POD_CIDR}",
        "--leader-elect=false",
        "--horizontal-pod-autoscaler-sync-period=5s",
    ]


def metrics_server(folder: Path) -> list[str]:
    """metrics-server's arguments; its resolution must exceed its time-out, or it exits."""
    return [
        f"--authentication-kubeconfig={folder / 'admin.kubeconfig'}",
        f"--authorization-kubeconfig={folder / 'admin.kubeconfig'}",
        "--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP",
        "--secure-port=4443", "--metric-resolution=15s", "--kubelet-request-timeout=5s",
        f"--cert-dir={folder / 'metrics-pki'}",
    ]  # fmt: skip


def metrics_api() -> dict:
    """The objects that lead the API server to metrics-server, which is a process beside it and not a pod."""
    group, meta = "metrics.k8s.io", {"name": "metrics-server", "namespace": "kube-system"}
    ports = [{"name": "https", "port": 4443}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": "metrics-server"}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [NODE_IP]}],
    }
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1beta1.{group}"},
        "spec": {
            "group": group,
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {**meta, "port": 4443},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, slice_, api]}


def _kubelet(folder: Path, name: str) -> dict:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{folder / 'containerd.sock'}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/despina-{name}",
        "podCIDR": "10.244.0.0/24",
        "clusterDNS": [NODE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "maxPods": 110,
        "registerNode": True,
        "syncFrequency": "10s",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "podLogsDir": str(folder / "pod-logs"),
        "enforceNodeAllocatable": ["pods"],
    }


def _containerd(folder: Path) -> str:
    """Without restrict_oom_score_adj, sandboxes fail where root lacks CAP_SYS_RESOURCE."""
    return f"""\
version = 2
root = "{folder}/containerd"
state = "/run/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "/run/containerd/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""


def _cni() -> dict:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return {
        "cniVersion": "1.0.0",
        "name": "bridge",
        "plugins": [{**bridge, "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _corefile(folder: Path) -> str:
    (folder / "resolv.conf").write_text("")
    return f"""\
.:53 {{
  errors
  health :8053
  ready :8054
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {folder}/admin.kubeconfig despina-local
    ttl 5
  }}
  cache 5
}}
"""

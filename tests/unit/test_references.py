"""References to other objects: names as Kubernetes has them, in the manifest's types and on the way to the API server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kubernetes.aio.client import ApiClient
from pydantic import ValidationError
from yarl import URL

from despina.api.gates import ConfigMapKey
from despina.api.program import Program
from despina.api.serving import SecretKeyRef
from despina.api.tool import Tool
from despina.cluster.client import PATHS, Cluster, _path
from despina.cluster.errors import Refused
from tests.support.gen import a_manifest

ELSEWHERE = "../../team-b/secrets/payroll-db"
NO_NAMES = [
    ELSEWHERE, "..", ".", "", "a/b", "a..b", "-a", "a-", "A", "a_b", "a?b", "a#b", "%2e%2e", "a\n", "a b", "ä", "a" * 254,
]  # fmt: skip
LM = {"name": "main", "model": "openai/x"}
REFERENCES = {
    "an LM's key": lambda n: {"lms": [LM | {"apiKeySecretRef": {"name": n, "key": "k"}}]},
    "the cache's Redis": lambda n: {"cache": {"redis": {"urlSecretRef": {"name": n, "key": "k"}}}},
    "the callers' token": lambda n: {"security": {"auth": {"type": "BearerSecret", "secretRef": {"name": n, "key": "k"}}}},
    "a dataset": lambda n: {"rollout": {"gates": [{"name": "g", "type": "Evaluate", "evaluate": {"datasetRef": {"configMap": {"name": n, "key": "k"}}}}]}},
    "a tool": lambda n: {"tools": [{"name": "t", "ref": {"name": n}}]},
    "a tool's namespace": lambda n: {"tools": [{"name": "t", "ref": {"name": "t", "namespace": n}}]},
    "a fallback": lambda n: {"fallback": {"programRef": {"name": n}}},
    "a service account": lambda n: {"serviceAccount": {"name": n, "create": "Disabled"}},
}  # fmt: skip
BACKENDS = {
    "a backend's token": lambda n: {"url": "http://x", "authSecretRef": {"name": n, "key": "k"}},
    "a backend's Service": lambda n: {"service": {"name": n}},
}


def a_tool(**backend: Any) -> dict[str, Any]:
    """A tool's manifest with one backend."""
    contract = {"name": "search", "parameters": {"type": "object"}}
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyTool",
        "metadata": {"name": "search", "namespace": "ns"},
        "spec": {"contract": contract, "backends": [{"name": "b", **backend}]},
    }


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("case", REFERENCES)
def test_a_program_refers_to_names_only(case, name):
    assert Program.parse(a_manifest(**REFERENCES[case]("good-1")))
    with pytest.raises(ValidationError):
        Program.parse(a_manifest(**REFERENCES[case](name)))


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("case", BACKENDS)
def test_a_tool_refers_to_names_only(case, name):
    assert Tool.parse(a_tool(**BACKENDS[case]("good-1")))
    with pytest.raises(ValidationError):
        Tool.parse(a_tool(**BACKENDS[case](name)))


@pytest.mark.parametrize("key", ["", ".", "..", "..data", "a/b", "a\n"])
def test_keys_are_file_names(key):
    for kind in (SecretKeyRef, ConfigMapKey):
        assert kind(name="s", key=".a..b-_C")
        with pytest.raises(ValidationError):
            kind(name="s", key=key)


def test_names_with_dots_are_fine_where_kubernetes_has_them():
    assert Program.parse(a_manifest(**REFERENCES["an LM's key"]("a.b-c.0")))
    assert Program.parse(a_manifest(**REFERENCES["a service account"]("team.robot")))


PIECES = st.sampled_from(
    ["..", ".", "/", "%2e%2e", "%2f", "?", "#", "\\", "\n", "ns", "name", "a", "-", ";", "@", ":", "ö", "secrets"]
)
TEXTS = st.one_of(st.text(max_size=12), st.lists(PIECES, max_size=5).map("".join))


@given(kind=st.sampled_from(sorted(PATHS)), namespace=TEXTS, name=st.none() | TEXTS)
@example("Secret", "team-a", ELSEWHERE)
@example("Secret", "team-a/secrets/x?", None)
@example("Secret", "team-a", "")
@example("Secret", "team-a", "x\n")
def test_no_path_leaves_its_namespace_and_kind(kind, namespace, name):
    try:
        path = _path(kind, namespace, name)
    except Refused:
        return
    url = URL(f"https://cluster{path}")
    prefix, plural = PATHS[kind]
    ends = [namespace, plural] if name is None else [namespace, plural, name]
    assert url.path == path, "nothing in it is resolved, decoded or cut off"
    assert path.split("/") == [*prefix.split("/"), "namespaces", *ends]
    assert all(ends)
    assert not url.query_string
    assert not url.fragment


@given(
    kind=st.sampled_from(sorted(PATHS)), namespace=st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
)
def test_real_names_have_paths(kind, namespace):
    assert _path(kind, namespace, "a.b-c").endswith(f"/namespaces/{namespace}/{PATHS[kind][1]}/a.b-c")
    assert _path(kind, namespace).endswith(f"/namespaces/{namespace}/{PATHS[kind][1]}")


@pytest.mark.parametrize("namespace", [*NO_NAMES, "a.b"])
async def test_labels_are_read_of_namespaces_only(namespace):
    async with ApiClient() as client:
        with pytest.raises(Refused):
            await Cluster(client).namespace_labels(namespace)

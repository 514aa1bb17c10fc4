"""A program's own credentials for MLflow: from its Secret, to its server, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import yaml
from pydantic import ValidationError

from despina.api.conditions import Reason, Type
from despina.api.credentials import Credentials
from despina.api.program import Program
from despina.api.revision import named_versions, revision_of, runtime_config, shape_of
from despina.cluster.errors import Refused
from despina.decide.observed import Resolution
from despina.decide.plan import Create, Outcome, each
from despina.decide.rollout import decide
from despina.reconcile.program import Reconciler
from despina.sources.mlflow import Registry
from despina.sources.tracking import Tracking
from despina.status.report import report
from tests.support.gen import DEFAULTS, a_manifest, a_program, observed, ref, serving

A, B = ("ns", "a"), ("ns", "b")
HOME = "http://mlflow:5000"
SECRET = "mlflow-of-a"
OPERATORS = Credentials(token="operators-token")
GIVEN = {"MLFLOW_TRACKING_TOKEN": "token-of-a"}
PAIR = {"MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "pass:word"}
BASIC = "Basic " + base64.b64encode(b"a:pass:word").decode()


def a_follower(**source: Any) -> Program:
    reference = {"credentialsSecretRef": {"name": SECRET}}
    return a_program(source={"mlflow": {"model": "qa", "alias": "champion"} | reference | source})


def secret(**data: str) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}}


@dataclass
class World:
    """One operator: a cluster that holds Secrets, and a registry that lets in who shows one of its tokens."""

    secrets: dict[str, Any] = field(default_factory=dict)
    lets_in: set[str] = field(default_factory=set)
    sent: list[httpx.Request] = field(default_factory=list)
    read: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.registry = Registry(Tracking(client, HOME, OPERATORS), lambda _: None)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        self.read.append((kind, namespace, name))
        found = self.secrets.get(name)
        if isinstance(found, Exception):
            raise found
        return found

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        if request.headers.get("authorization") not in self.lets_in:
            return httpx.Response(401, text="operators-token token-of-a")
        made = {"creation_timestamp": 1, "last_updated_timestamp": 1}
        aliases = [{"alias": "champion", "version": "1"}]
        return httpx.Response(200, json={"registered_model": {"aliases": aliases} | made, "model_version": made})

    @property
    def shown(self) -> set[str | None]:
        return {request.headers.get("authorization") for request in self.sent}

    async def resolve(self, program: Program, key=A) -> Resolution:
        """As a pass does."""
        made = Reconciler(self, self.registry, None, None, None, None, DEFAULTS, None)  # type: ignore[arg-type]
        return (await made.access(key, program)).model


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.registry.close()


USABLE = {
    "a token": (GIVEN, "Bearer token-of-a"),
    "a name and a password": (PAIR, BASIC),
    "both, as MLflow's client": (GIVEN | PAIR, BASIC),
    "a name alone beside a token": (GIVEN | {"MLFLOW_TRACKING_USERNAME": "a"}, "Bearer token-of-a"),
    "as an editor leaves it": ({"MLFLOW_TRACKING_TOKEN": "token-of-a\n"}, "Bearer token-of-a"),
    "and something else": (GIVEN | {"note": "x"}, "Bearer token-of-a"),
}


@pytest.mark.parametrize("uri", [None, HOME, "http://elsewhere:5000"])
@pytest.mark.parametrize("case", USABLE)
async def test_a_program_is_known_by_its_own_credentials_alone(world, case, uri):
    world.secrets[SECRET], shown = secret(**USABLE[case][0]), USABLE[case][1]
    world.lets_in = {shown}
    found = await world.resolve(a_follower(trackingURI=uri))
    assert (found.version, found.server) == ("1", uri or HOME)
    assert world.shown == {shown}
    assert set(world.read) == {("Secret", "ns", SECRET)}


UNUSABLE = {
    "no Secret": (None, "there is no Secret ns/mlflow-of-a: make it with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and"),
    "an empty one": ({}, "Secret ns/mlflow-of-a holds neither MLFLOW_TRACKING_TOKEN, nor MLFLOW_TRACKING_USERNAME and"),
    "a name without a password": (secret(MLFLOW_TRACKING_USERNAME="a"), "holds neither"),
    "a password without a name": (secret(MLFLOW_TRACKING_PASSWORD="hunter2"), "holds neither"),
    "empty values": (secret(MLFLOW_TRACKING_TOKEN="", MLFLOW_TRACKING_USERNAME=" "), "holds neither"),
    "a token of two lines": (secret(MLFLOW_TRACKING_TOKEN="hunter2\nX-Evil: 1"), "does not fit into a header"),
    "a token that is not ASCII": (secret(MLFLOW_TRACKING_TOKEN="hünter2"), "does not fit into a header"),
    "a value that is not base64": ({"data": {"MLFLOW_TRACKING_TOKEN": "hunter2!"}}, "holds neither"),
    "one that may not be read": (Refused("GET /api/v1/…: forbidden"), "cannot be read: GET /api/v1/…: forbidden"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
async def test_credentials_that_are_not_there_are_a_condition_and_nobody_is_asked(world, case):
    world.secrets[SECRET], said = UNUSABLE[case]
    program = a_follower()
    found = await world.resolve(program)
    assert (found.version, found.reason, found.is_unknown) == (None, Reason.SECRET_NOT_FOUND, True)
    assert found.server == HOME
    assert said in found.message
    assert "nter2" not in found.message
    assert world.sent == []
    o = observed(program, **serving(program, "1"))
    o = replace(o, model=found)
    conditions = {c.type: c for c in report(o, decide(o, 1.0), Outcome(), 1.0).conditions}
    resolved, refs = conditions[Type.MODEL_RESOLVED], conditions[Type.REFS_RESOLVED]
    assert (resolved.status, resolved.reason) == ("Unknown", Reason.SECRET_NOT_FOUND)
    assert (refs.status, refs.reason, refs.message) == ("False", Reason.SECRET_NOT_FOUND, found.message)
    assert conditions[Type.READY].status == "True"


async def test_after_a_rotation_a_program_that_was_denied_gets_its_answer(world):
    world.secrets[SECRET], world.lets_in = secret(MLFLOW_TRACKING_TOKEN="old"), {"Bearer new"}
    assert (await world.resolve(a_follower())).reason == Reason.REGISTRY_DENIED
    assert (await world.resolve(a_follower())).reason == Reason.REGISTRY_DENIED
    world.secrets[SECRET] = secret(MLFLOW_TRACKING_TOKEN="new")
    assert (await world.resolve(a_follower())).version == "1"
    assert len(world.registry._pollers) == 1


async def test_nobody_is_asked_with_credentials_that_were_taken_away(world):
    world.secrets[SECRET], world.lets_in = secret(**GIVEN), {"Bearer token-of-a"}
    await world.resolve(a_follower())
    del world.secrets[SECRET]
    await world.resolve(a_follower())
    assert not world.registry._pollers


async def test_no_program_sees_through_anothers_rights(world):
    world.secrets |= {SECRET: secret(**GIVEN), "poor": secret(MLFLOW_TRACKING_TOKEN="without-rights")}
    world.lets_in = {"Bearer token-of-a"}
    mine, theirs, none = await asyncio.gather(
        world.resolve(a_follower(), A),
        world.resolve(a_follower(credentialsSecretRef={"name": "poor"}), B),
        world.resolve(a_program(), ("ns", "c")),
    )
    assert (mine.version, theirs.reason, none.reason) == ("1", Reason.REGISTRY_DENIED, Reason.REGISTRY_DENIED)
    assert world.shown == {"Bearer token-of-a", "Bearer without-rights", "Bearer operators-token"}


async def test_whoever_is_denied_is_told_as_whom_the_operator_asked(world):
    world.secrets[SECRET] = secret(**GIVEN)
    own = await world.resolve(a_follower())
    home = await world.resolve(a_program(), B)
    elsewhere = await world.resolve(a_follower(trackingURI="http://elsewhere", credentialsSecretRef=None), ("ns", "c"))
    assert "to the program's credentials (spec.source.mlflow.credentialsSecretRef)" in own.message
    assert "to the operator's credentials" in home.message
    assert "to a request without credentials: set spec.source.mlflow.credentialsSecretRef" in elsewhere.message


async def test_no_credential_is_shown_anywhere(world, caplog):
    caplog.set_level(logging.DEBUG)
    world.secrets[SECRET] = secret(**GIVEN, **PAIR)
    found = await world.resolve(a_follower())
    poll_tasks = [repr(task) for task in asyncio.all_tasks()]
    pollers = repr(world.registry._pollers)
    everything = [caplog.text, repr(found), *poll_tasks, pollers, repr(Credentials.of(GIVEN | PAIR))]
    for hidden in ("token-of-a", "pass:word", BASIC.split()[1], "operators-token"):
        assert not [text for text in everything if hidden in text]


def test_credentials_in_an_environment_are_what_mlflows_client_makes_of_them():
    assert Credentials.of({"MLFLOW_TRACKING_USERNAME": "a"}).headers == {}
    assert Credentials.of({}).headers == {}
    assert Credentials.of(GIVEN).headers == {"Authorization": "Bearer token-of-a"}


@pytest.mark.parametrize("name", ["../../team-b/secrets/payroll", "", "A", "a/b", "a" * 254])
def test_a_secret_is_named_by_a_name(name):
    with pytest.raises(ValidationError):
        a_follower(credentialsSecretRef={"name": name})


@pytest.mark.parametrize("uri", ["http://a:b@mlflow", "http://mlflow?x", "http://mlflow#x", "http://mlflow/?x=", "ftp://mlflow"])  # fmt: skip
def test_a_tracking_uri_is_an_address_and_a_path(uri):
    with pytest.raises(ValidationError):
        a_follower(trackingURI=uri)


def pod_of(program: Program) -> dict[str, Any]:
    o = observed(program)
    made = [a.document for a in each(decide(o, 0.0).actions) if isinstance(a, Create)]
    return next(d for d in made if d["kind"] == "Deployment")["spec"]["template"]["spec"]


def test_pods_mount_the_secret_and_start_without_it_too():
    pod = pod_of(a_follower())
    container = pod["containers"][0]
    volume = next(v for v in pod["volumes"] if v.get("secret", {}).get("secretName") == SECRET)
    mounts = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == volume["name"]]
    assert mounts == [f"/etc/despina-secrets/{SECRET}"]
    assert volume["secret"]["optional"] is True
    assert SECRET not in json.dumps(container["env"])


def test_the_runtime_is_told_where_they_are_and_not_what_they_are():
    config = runtime_config(a_follower(), revision_of(a_follower(), ref("1")))
    assert config.mlflow_credentials_dir == f"/etc/despina-secrets/{SECRET}"
    assert runtime_config(a_program(), revision_of(a_program(), ref("1"))).mlflow_credentials_dir is None


def test_a_version_is_not_loaded_into_pods_that_lack_its_secret():
    one, another = a_follower(), a_follower(credentialsSecretRef={"name": "another"})
    assert len({str(shape_of(p, ref("1"), "i")) for p in (a_program(), one, another)}) == 3


def test_versions_that_a_spec_names_are_known():
    modules = [{"path": "a", "source": {"version": 3}}, {"path": "b", "lm": "main"}]
    assert named_versions(a_program(modules=modules, rollout={"rollbackTo": 2})) == {"2", "3"}
    assert named_versions(a_program()) == frozenset()


def test_a_manifest_says_it_in_yaml():
    document = a_manifest(
        source=yaml.safe_load("{mlflow: {model: qa, alias: x, credentialsSecretRef: {name: mlflow}}}")
    )
    assert Program.parse(document).spec.source.mlflow.credentials_secret_ref.name == "mlflow"

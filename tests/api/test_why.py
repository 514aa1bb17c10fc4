"""`despina why NAME` against a fake API server: what a person's own rights show, without a write and without a Secret."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from aiohttp import web

from despina.api.optimizing import optimization_config
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.api.runs import OptimizationRun, OptimizationStatus
from despina.cli import main
from despina.cluster.client import PATHS, Onlooker
from despina.cluster.errors import Refused
from despina.decide.observed import OptimizationJobView, PodView, Resolution
from despina.decide.plan import Apply, Create, Outcome, Plan
from despina.decide.rollout import decide
from despina.decide.snapshot import load
from despina.desired.labels import ACTIVATED_AT, MODEL_VERSION, REVISION
from despina.desired.optimization import build_optimization
from despina.reconcile.look import _interfaces
from despina.status.report import report
from despina.wire import SIGNATURE_HEADER, HeldRevision, PodState, reading
from tests.support.gen import DEFAULTS, a_manifest, a_program, observed, ref, serving

IMAGE, READ_KEY = "despina-runtime:1", "what lets read"
RULES = {"placement": {"profile": "gpu"}, "replicas": 2, "tools": [{"name": "search", "ref": {"name": "search"}}]}
TOOL = {
    "apiVersion": "despina.dev/v1alpha1",
    "kind": "DSPyTool",
    "metadata": {"name": "search", "namespace": "ns", "uid": "uid-2"},
    "spec": {
        "contract": {"name": "search", "parameters": {"type": "object"}},
        "backends": [{"name": "there", "url": "http://there", "authSecretRef": {"name": "s", "key": "k"}}],
    },
}


class FakeApi:
    """Objects by path, who may do what, and what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.pods: dict[str, PodState] = {}
        self.odd: tuple[int, bytes] | None = None
        """What a pod answers, and with which status, whatever it is asked."""
        self.unknown: tuple[str, ...] = ()
        """Kinds, by their plurals, of which no CRD was installed."""
        self.forbidden: Callable[[str], bool] = lambda _: False
        self.asked: list[tuple[str, str]] = []

    def put(self, document: dict[str, Any]) -> None:
        prefix, plural = PATHS[document["kind"]]
        self.objects.setdefault(f"{prefix}/namespaces/ns/{plural}", []).append(document)

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.asked.append((request.method, path))
        if self.forbidden(path):
            return web.json_response({"message": f"{path.split('/')[-1]} is forbidden"}, status=403)
        if any(f"/{plural}/" in path for plural in self.unknown):
            return web.Response(text="404 page not found\n", status=404)
        if self.odd and ":8081/proxy/" in path:
            return web.Response(status=self.odd[0], body=self.odd[1])
        if path.endswith(":8081/proxy/state"):
            pod = path.split("/")[-3].removesuffix(":8081")
            if request.headers.get(SIGNATURE_HEADER) != reading([READ_KEY], "ns", pod):
                return web.Response(status=403, text="the request is not signed with this pod's read key")
            return web.Response(text=self.pods[pod].model_dump_json())
        selector = request.query.get("labelSelector")
        return self._one(path) if selector is None else self._listed(path, selector)

    def _one(self, path: str) -> web.Response:
        folder, _, name = path.rpartition("/")
        found = [o for o in self.objects.get(folder, ()) if o["metadata"]["name"] == name]
        return web.json_response(found[0] if found else {"message": "not found"}, status=200 if found else 404)

    def _listed(self, path: str, selector: str) -> web.Response:
        wanted = dict(part.partition("=")[::2] for part in selector.split(","))
        labelled = ((o, o["metadata"].get("labels") or {}) for o in self.objects.get(path, ()))
        items = [o for o, has in labelled if all(k in has and v in ("", has[k]) for k, v in wanted.items())]
        bare = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in items]
        return web.json_response({"items": bare})


def kubeconfig(server: str) -> str:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
    }
    return str(yaml.safe_dump(config))


@pytest.fixture
async def api(tmp_path, monkeypatch):
    fake = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (tmp_path / "kubeconfig").write_text(kubeconfig(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield fake
    await runner.cleanup()


def populate(api: FakeApi, version: str = "1", pools: tuple[str, ...] = ("gpu",)) -> None:
    """A program of two pods whose version 1 serves, while MLflow says `version`."""
    program = a_program(**RULES)
    first: Plan = decide(observed(a_program(replicas=2), read_key=READ_KEY), 0.0)
    documents = {a.document["kind"]: a.document for a in first.steps if isinstance(a, Create | Apply)}
    for document in [a.document for a in first.steps if isinstance(a, Create | Apply)]:
        api.put(document)
    deployment = documents["Deployment"]
    deployment["spec"]["replicas"] = 2
    deployment["metadata"]["annotations"][ACTIVATED_AT] = "1.0"
    revision = deployment["metadata"]["labels"][REVISION]
    for n in range(2):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        status = {"podIP": f"10.0.0.{n}", "conditions": [{"type": "Ready", "status": "True"}]}
        api.put({"kind": "Pod", "metadata": {"name": f"qa-{n}", "labels": labels}, "status": status})
        api.pods[f"qa-{n}"] = PodState(revision=revision, held={revision: HeldRevision(phase="Ready")})
    assert deployment["metadata"]["labels"][MODEL_VERSION] == "1"
    defaults = replace(DEFAULTS, profiles=dict.fromkeys(pools, PlacementProfile()))
    told = observed(program, version, defaults=defaults, **serving(program, "1", 2))
    status = report(told, decide(told, 5.0), Outcome(), 5.0)
    api.put(a_manifest(**RULES) | {"status": status.dump()})
    api.put(TOOL)


async def why(capsys, *arguments: str) -> str:
    await asyncio.to_thread(main, ["why", *arguments])
    return capsys.readouterr().out


async def fails(capsys, *arguments: str) -> str:
    """The one line of an error."""
    with pytest.raises(SystemExit) as left:
        await asyncio.to_thread(main, ["why", *arguments])
    assert left.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


async def test_a_program_is_looked_at_without_a_write_and_without_a_secret(api, capsys, tmp_path):
    populate(api, "2")
    text = await why(capsys, "qa", "--save", str(tmp_path / "it.json"))
    assert "Callers reach version 1; 2 of 2 pods are ready." in text
    assert "Asked for is version 2, for which the alias 'champion' of model 'qa' stands." in text
    assert f"(As the status and what runs have it: MLflow's answer (version 2), image {IMAGE}, MLflow at " in text
    assert {method for method, _ in api.asked} == {"GET"}
    assert not [path for _, path in api.asked if "secrets" in path]
    assert READ_KEY not in (tmp_path / "it.json").read_text()
    assert load((tmp_path / "it.json").read_text()).observed.model == Resolution("2", "ModelFound")
    assert await why(capsys, "-f", str(tmp_path / "it.json")) == text


async def test_pods_that_may_not_be_asked_are_said_to_be_unheard(api, capsys):
    populate(api)
    api.forbidden = lambda path: "proxy" in path
    text = await why(capsys, "qa")
    assert (
        "(2 of 2 pods were not heard, so what they hold and count is not known: GET /api/v1/namespaces/ns/pods/qa-"
        in text
    )
    assert "state is forbidden" in text


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ("qa-0: it knows none of this operator's keys; the next version comes with new pods", "it knows none of this operator's keys"),
        ("qa-1 was made for another operator's key; the next version comes with new pods", "qa-1 was made for another operator's key"),
    ],
)  # fmt: skip
async def test_that_pods_take_no_orders_is_known_from_the_status(api, capsys, tmp_path, message, refusal):
    populate(api, "2")
    (manifest,) = api.objects[f"{PATHS['DSPyProgram'][0]}/namespaces/ns/dspyprograms"]
    mark = next(c for c in manifest["status"]["conditions"] if c["type"] == "OrdersAccepted")
    await why(capsys, "qa", "--save", str(tmp_path / "it.json"))
    assert {p.refusal for p in load((tmp_path / "it.json").read_text()).observed.pods} == {""}
    mark.update(status="False", reason="OrdersRefused", message=message)
    await why(capsys, "qa", "--save", str(tmp_path / "it.json"))
    assert {p.refusal for p in load((tmp_path / "it.json").read_text()).observed.pods} == {refusal, ""}


@pytest.mark.parametrize(("trigger", "is_open"), [("FailureRate", True), ("Schedule", False)])
async def test_an_optimisation_is_seen_as_far_as_the_operator_said_it_was_and_labels_are_not(
    api, capsys, tmp_path, trigger, is_open
):
    populate(api)
    (manifest,) = api.objects[f"{PATHS['DSPyProgram'][0]}/namespaces/ns/dspyprograms"]
    triggers = [{"name": "t", "type": trigger} | ({} if is_open else {"schedule": "0 3 * * *"})]
    asked = {"budget": {"maxLMCalls": 300}, "triggers": triggers}
    manifest["spec"] |= {"feedback": {}, "optimization": asked}
    program = Program.parse(manifest)
    base = runtime_config(program, revision_of(program, ref("1")))
    noted = {"trigger": "t", "base_version": "1", "base_revision": base.revision, "labels_until": 5}
    noted |= {"budget_lm_calls": 300, "started_at": "2026-01-02T03:04:05Z"}
    run = OptimizationRun(job="qa-opt-1", **noted)
    config = optimization_config(program, base, None, 0.005, "")
    api.put(build_optimization(program, run, config, PlacementProfile(), IMAGE))
    said = OptimizationStatus(phase="Running", run=run.model_copy(update={"progress": "120/300 72 %"}))
    manifest["status"]["optimization"] = said.dump()
    api.objects[f"{PATHS['Job'][0]}/namespaces/ns/jobs"][0]["metadata"]["uid"] = "uid-3"
    text = await why(capsys, "qa", "--save", str(tmp_path / "it.json"))
    found = load((tmp_path / "it.json").read_text()).observed
    assert found.optimizations == (OptimizationJobView("qa-opt-1", run, progress="120/300 72 %"),)
    assert (found.jobs, found.labels) == ((), None)
    assert ("Labels were not counted, for MLflow was not asked" in text) is is_open


async def test_a_tool_that_may_not_be_read_is_said_to_be_unseen_and_not_to_be_amiss(api, capsys):
    populate(api)
    api.forbidden = lambda path: "dspytools" in path
    text = await why(capsys, "qa")
    assert "(DSPyTool ns/search was not seen, and is taken to be as it should be: " in text
    assert "qa-tools" not in text


async def test_a_cluster_without_despina_is_told_from_one_without_the_program(api, capsys):
    populate(api)
    api.unknown = ("dspytools",)
    assert "(DSPyTool ns/search was not seen, and is taken to be as it should be: " in await why(capsys, "qa")
    api.unknown = ("dspyprograms",)
    assert await fails(capsys, "qa") == (
        "despina why: the API server knows no DSPyProgram: is this the right cluster, and is Despina installed there?\n"
    )


async def test_a_pool_that_the_operator_does_not_know_is_named_beside_those_that_it_knows(api, capsys):
    populate(api, pools=("aws", "big"))
    text = await why(capsys, "qa")
    assert (
        "The spec cannot be carried out, UnknownProfile: spec.placement.profile: 'gpu' is not one of aws, big, default."
        in text
    )


async def test_what_cannot_be_looked_at_is_one_line(api, capsys):
    populate(api)
    assert "there is no DSPyProgram nobody in namespace ns" in await fails(capsys, "nobody")
    assert "there is no DSPyProgram qa in namespace elsewhere" in await fails(capsys, "qa", "-n", "elsewhere")
    api.forbidden = lambda path: "configmaps" in path
    assert "GET /api/v1/namespaces/ns/configmaps: configmaps is forbidden" in await fails(capsys, "qa")
    api.objects["/apis/despina.dev/v1alpha1/namespaces/ns/dspyprograms"][0]["spec"]["replicas"] = "many"
    assert "the manifest of qa cannot be read: spec.replicas: " in await fails(capsys, "qa")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no cluster is configured"),
        ("{", "no cluster is configured"),
        (json.dumps({"current-context": "c"}), "no cluster is configured"),
        (kubeconfig("https://[bad"), "no cluster is configured"),
    ],
)
async def test_no_cluster_is_one_line(tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    if text is not None:
        (tmp_path / "kubeconfig").write_text(text)
    assert said in await fails(capsys, "qa")


def configured(tmp_path, **changes: Any) -> str:
    """The kubeconfig with another server or user; where its server was."""
    file = tmp_path / "kubeconfig"
    config = yaml.safe_load(file.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    config["clusters"][0]["cluster"]["server"] = changes.get("server", server)
    config["clusters"][0]["cluster"] |= {"proxy-url": changes["proxy"]} if "proxy" in changes else {}
    config["users"][0]["user"] = changes.get("user", {})
    file.write_text(yaml.safe_dump(config))
    return server


async def test_a_netrc_is_not_asked_for_what_the_kubeconfig_says(api, capsys, tmp_path, monkeypatch):
    populate(api)
    configured(tmp_path, user={"token": "t"})
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "Callers reach version 1" in await why(capsys, "qa")


async def test_the_environments_proxy_leads_to_the_api_server(api, capsys, tmp_path, monkeypatch):
    populate(api)
    monkeypatch.setenv("http_proxy", configured(tmp_path, server="http://cluster.invalid"))
    assert "Callers reach version 1" in await why(capsys, "qa")
    monkeypatch.setenv("no_proxy", "cluster.invalid")
    assert "cluster.invalid" in await fails(capsys, "qa")


@pytest.mark.parametrize(("there", "exempt"), [("http://[fd00::1]", "fd00::1"), ("http://[fd00:0::1]:80", "fd00::1")])
async def test_an_address_that_the_environment_exempts_is_asked_directly(tmp_path, api, monkeypatch, there, exempt):
    configured(tmp_path, server=there)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for no_proxy, proxy in (("", "http://127.0.0.1:9"), (exempt, None)):
        monkeypatch.setenv("no_proxy", no_proxy)
        cluster = await Onlooker.connect()
        assert cluster._api.configuration.proxy == proxy
        await cluster.close()


async def test_the_kubeconfigs_proxy_comes_before_the_environments(tmp_path, api, monkeypatch):
    configured(tmp_path, proxy="http://127.0.0.1:8")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    cluster = await Onlooker.connect()
    assert cluster._api.configuration.proxy == "http://127.0.0.1:8"
    await cluster.close()


@pytest.fixture
async def proxy():
    """A proxy that lets nobody through, and what it was told."""
    heads: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 Closed\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    yield SimpleNamespace(heads=heads, address=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()


async def test_a_proxys_login_reaches_the_proxy_and_no_error(tmp_path, api, proxy, capsys, monkeypatch):
    configured(tmp_path, server="https://cluster.invalid")
    monkeypatch.setenv("https_proxy", f"http://us%40er:S3cret@{proxy.address}")
    said = await fails(capsys, "qa")
    assert "503 Closed" in said
    assert "S3cret" not in said
    login = b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:S3cret")
    assert [login in head for head in proxy.heads] == [True] * len(proxy.heads)


async def test_a_login_without_a_password_is_sent_as_one(tmp_path, api, proxy, capsys, monkeypatch):
    configured(tmp_path, server="https://cluster.invalid")
    monkeypatch.setenv("https_proxy", f"http://user@{proxy.address}")
    await fails(capsys, "qa")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:") + b"\r" in proxy.heads[0]


@pytest.mark.parametrize("password", ["S3cret", "S3cret/x", "S3cret\uff0f"])
@pytest.mark.parametrize("place", ["127.0.0.1:9", "127.0.0.1:99999", ":9", "127.0.0.1:9#", "["])
async def test_the_login_of_a_proxy_that_there_cannot_be_is_in_no_error(
    tmp_path, api, capsys, monkeypatch, place, password
):
    configured(tmp_path, server="https://cluster.invalid")
    monkeypatch.setenv("https_proxy", f"http://user:{password}@{place}")
    assert "S3cret" not in await fails(capsys, "qa")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("body", [b"[" * 200000, b"\xff", b"[]", b""])
async def test_whatever_a_pod_answers_the_program_is_shown(api, capsys, status, body):
    populate(api)
    api.odd = (status, body)
    assert "2 of 2 pods were not heard" in await why(capsys, "qa")


async def test_what_a_pod_calls_a_revision_is_no_path(api):
    """It would be asked for with the rights of whoever looks."""
    program = a_program(rollout={"gates": [{"name": "same", "type": "SchemaCompatibility"}]})
    odd = dict.fromkeys(["../../../../secrets", "a\nb"], HeldRevision(phase="Ready"))
    pod = PodView("qa-0", "r", ready=True, ip="10.0.0.1", report=PodState(held=odd))
    cluster = await Onlooker.connect()
    assert await _interfaces(cluster, SimpleNamespace(program=program), [pod]) == {}
    await cluster.close()
    assert api.asked == []


async def test_an_onlooker_writes_nothing(api):
    cluster = await Onlooker.connect()
    for write in (
        cluster.create({"kind": "Service", "metadata": {"namespace": "ns", "name": "x"}}),
        cluster.apply({"kind": "Service", "metadata": {"namespace": "ns", "name": "x"}}),
        cluster.delete("Service", "ns", "x"),
    ):
        with pytest.raises(Refused, match="only looks"):
            await write
    assert await cluster.get("Secret", "ns", "x") is None
    assert api.asked == []
    await cluster.close()

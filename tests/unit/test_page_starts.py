"""The page's process: its settings, its certificate, its start and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509

from despina.cli import main
from despina.cluster.client import Cluster
from despina.cluster.errors import Unavailable
from despina.dashboard.certificate import context, self_made
from despina.dashboard.run import run
from despina.settings import DashboardSettings
from services import free_port
from tests.support.page import a_manifest


def test_settings_come_from_the_environment(monkeypatch):
    for name, value in {
        "DASHBOARD_PORT": "9",
        "WATCH_NAMESPACES": "a, b",
        "HOST_NAMES": "x,y",
        "PROXY_SECRET": "s3",
    }.items():
        monkeypatch.setenv(f"DESPINA_{name}", value)
    settings = DashboardSettings()
    assert (settings.port, settings.namespaces, settings.names) == (9, ["a", "b"], ["x", "y"])
    assert "s3" not in repr(settings)


def test_a_mistake_in_them_is_told_by_its_name(monkeypatch, capsys):
    monkeypatch.setenv("DESPINA_DASHBOARD_PORT", "many")
    with pytest.raises(SystemExit) as left:
        main(["dashboard"])
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("DESPINA_DASHBOARD_PORT: ")


@pytest.mark.parametrize("given", [{"KUBECONFIG": "/nowhere"}])
def test_without_a_cluster_it_says_so(monkeypatch, capsys, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main(["dashboard", "--open"])
    assert left.value.code == 1
    assert "no cluster is configured" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--open"], ["--prometheus-url=http://x"], ["--prometheus-credentials=/x"]])
def test_without_a_cluster_no_other_option_is_passed_by(capsys, more):
    with pytest.raises(SystemExit) as left:
        main(["dashboard", "--local=8081", *more])
    assert left.value.code == 2
    assert "--local shows" in capsys.readouterr().err


def test_without_its_libraries_it_says_what_brings_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "despina.dashboard.run", None)
    with pytest.raises(SystemExit) as left:
        main(["dashboard"])
    assert left.value.code == 1
    assert "pip install" in capsys.readouterr().err


def test_a_certificate_is_made_for_the_names_that_lead_here(caplog):
    pem = self_made(["a.b.svc", "localhost", "127.0.0.1"])
    made = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.b.svc", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert context(None, None, ["localhost"]).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_given_certificate_is_used_and_a_bad_one_is_an_error(tmp_path):
    path = tmp_path / "tls.pem"
    path.write_bytes(self_made(["localhost"]))
    assert context(path, path, [])
    path.write_text("nothing")
    with pytest.raises(ssl.SSLError):
        context(path, path, [])
    with pytest.raises(OSError, match="No such file"):
        context(tmp_path / "none", None, [])


ODD = {
    "something else": '{"kind": "Status"}',
    "a list": "[]",
    "nothing": "null",
    "a list without a version": '{"items": []}',
    "metadata that are none": '{"items": [], "metadata": "x"}',
    "items that are none": '{"items": 5, "metadata": {"resourceVersion": "1"}}',
    "no JSON": "<html>",
}


OPENED = web.AppKey("opened", list[str])
"""Watches."""


async def api_server(request: web.Request) -> web.StreamResponse:
    if "/odd/" in request.path:
        return web.Response(text=ODD[request.query["labelSelector"]], content_type="application/json")
    if "watch" in request.query:
        response = web.StreamResponse()
        await response.prepare(request)
        request.app[OPENED].append(request.path)
        await asyncio.sleep(60)
        return response
    if "secrets" in request.path:
        return web.json_response({"message": "no"}, status=404)
    items = [a_manifest("qa", "default")] if request.path.endswith("dspyprograms") else []
    return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})


@pytest.fixture
async def kubeconfig(tmp_path, monkeypatch):
    app = web.Application()
    app[OPENED] = []
    app.router.add_get("/{path:.*}", api_server)
    server = TestServer(app)
    await server.start_server()
    cluster = {"name": "c", "cluster": {"server": str(server.make_url("")).rstrip("/")}}
    one = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    document = {
        "clusters": [cluster],
        "contexts": [one],
        "current-context": "x",
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield app[OPENED]
    await server.close()


async def got(url: str) -> tuple[int, str]:
    """What is answered, once anything is."""
    async with asyncio.timeout(30), aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as client:
        while True:
            try:
                async with client.get(url, headers={"Accept": "text/html"}) as answer:
                    text = await answer.text()
                    if "no DSPyProgram" not in text:
                        return answer.status, text
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("is_open", "status", "word"), [(True, 200, "qa"), (False, 401, "Sign in")], ids=["open", "closed"]
)
async def test_it_starts_shows_and_ends_when_told(kubeconfig, monkeypatch, is_open, status, word):
    port = free_port()
    monkeypatch.setenv("DESPINA_DASHBOARD_PORT", str(port))
    running = asyncio.create_task(run(DashboardSettings(), is_open))
    found, text = await got(f"{'http' if is_open else 'https'}://127.0.0.1:{port}/")
    assert (found, word in text) == (status, True)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await running


@pytest.mark.parametrize("odd", ODD)
async def test_an_answer_that_is_no_list_is_told_and_asked_for_again(kubeconfig, odd):
    cluster = await Cluster.connect()
    with pytest.raises(Unavailable, match=r"GET .*/odd/.*: the answer is no (list|JSON)"):
        await cluster.listed("Pod", "odd", label_selector=odd)
    await cluster.close()


async def test_however_many_watches_stay_open_others_are_answered(kubeconfig):
    cluster = await Cluster.connect(watches=120)
    watching = [asyncio.create_task(anext(cluster.watched("Pod", f"n{number}", "1"))) for number in range(120)]
    async with asyncio.timeout(20):
        while len(kubeconfig) < 100:  # as many as there are connections to begin with
            await asyncio.sleep(0.01)
        assert await cluster.listed("Pod", "default") == ([], "1")
    assert not [task for task in watching if task.done()]
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    await cluster.close()


async def test_it_does_not_end_as_if_it_were_told_to_when_it_was_not(kubeconfig, monkeypatch):
    async def broken(*_: object) -> None:
        raise KeyError("a mistake in a watcher")

    monkeypatch.setenv("DESPINA_DASHBOARD_PORT", str(free_port()))
    monkeypatch.setattr("despina.dashboard.run.follow", broken)
    with pytest.raises(KeyError, match="a mistake"):
        async with asyncio.timeout(20):
            await run(DashboardSettings(), is_open=True)

"""What the operator tells registries of itself, over real connections."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from despina.api.program import MlflowSource
from despina.main import make_registry
from despina.settings import Settings

KEY = ("ns", "a")
TOKEN = {"tracking_token": "operators-token"}
PAIR = {"tracking_username": "operator", "tracking_password": "operators-password"}
MODEL = {"registered_model": {"name": "qa", "aliases": [{"alias": "champion", "version": "1"}]}}


@dataclass
class Listener:
    """A registry that keeps what it was sent."""

    server: ThreadingHTTPServer
    headers: list[dict[str, str]] = field(default_factory=list)
    redirect: str = ""
    cookie: str = ""

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def credentials(self) -> set[str]:
        """All that could let somebody in."""
        return {value for sent in self.headers for name, value in sent.items() if name in ("authorization", "cookie")}


@pytest.fixture
def listen():
    """Starts registries on loopback; all end with the test."""
    started: list[ThreadingHTTPServer] = []

    def start() -> Listener:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                made.headers.append({"path": self.path} | {n.lower(): value for n, value in self.headers.items()})
                self.send_response(302 if made.redirect else 200)
                for name, value in (("Location", made.redirect), ("Set-Cookie", made.cookie)):
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(MODEL).encode())

            def log_message(self, *_: object) -> None:
                pass

        made = Listener(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        started.append(made.server)
        threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True).start()
        return made

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


async def ask(home: str, asked: str | None, credentials: dict[str, str]) -> None:
    """What a program with this tracking URI has the operator do."""
    registry = make_registry(Settings(tracking_uri=home, **credentials), lambda _: None)
    source = MlflowSource.model_validate({"model": "qa", "alias": "champion", "trackingURI": asked})
    await registry.resolve(KEY, source, home)
    await registry.close()


OWN = {
    "the program names none": ("http://localhost:{home}", None),
    "the same": ("http://localhost:{home}", "http://localhost:{home}"),
    "a slash more": ("http://localhost:{home}", "http://localhost:{home}/"),
    "a slash less": ("http://localhost:{home}/", "http://localhost:{home}"),
    "in capitals": ("http://localhost:{home}", "http://LocalHost:{home}"),
}
STRANGERS = {
    "another port": ("http://localhost:{home}", "http://localhost:{other}"),
    "another host": ("http://127.0.0.1:{home}", "http://localhost:{other}"),
    "another name of the same host": ("http://localhost:{home}", "http://127.0.0.1:{home}"),
    "the own address in the path": ("http://localhost:{home}", "http://localhost:{other}/http://localhost:{home}"),
    "beside the path of the own": ("http://localhost:{home}/mlflow", "http://localhost:{home}/mlflow-of-another"),
    "above the path of the own": ("http://localhost:{home}/mlflow", "http://localhost:{home}"),
    "through the path of the own": ("http://localhost:{home}/mlflow", "http://localhost:{home}/mlflow/../of-another"),
    "through it, encoded": ("http://localhost:{home}/mlflow", "http://localhost:{home}/mlflow/%2e%2e/of-another"),
}


@pytest.mark.parametrize("credentials", [TOKEN, PAIR], ids=["token", "pair"])
@pytest.mark.parametrize("case", OWN)
async def test_the_operators_own_server_gets_its_credentials(listen, case, credentials):
    home = listen()
    own, asked = (text and text.format(home=home.port) for text in OWN[case])
    await ask(own, asked, credentials)
    assert len(home.credentials) == 1


@pytest.mark.parametrize("credentials", [TOKEN, PAIR, TOKEN | PAIR], ids=["token", "pair", "both"])
@pytest.mark.parametrize("case", STRANGERS)
async def test_nobody_else_gets_the_operators_credentials(listen, case, credentials):
    home, other = listen(), listen()
    own, asked = (text.format(home=home.port, other=other.port) for text in STRANGERS[case])
    await ask(own, asked, credentials)
    assert home.headers or other.headers
    assert home.credentials | other.credentials == set()


async def test_a_redirect_is_not_followed(listen):
    home, other = listen(), listen()
    home.redirect = f"http://localhost:{other.port}/"
    await ask(f"http://localhost:{home.port}", None, TOKEN)
    assert home.headers
    assert other.headers == []


async def test_a_cookie_is_given_to_nobody(listen):
    """A session that the operator's credentials opened must not let a program in that shows none."""
    home = listen()
    home.cookie = "session=opened-by-the-operator; Path=/"
    registry = make_registry(Settings(tracking_uri=f"http://localhost:{home.port}/mlflow", **TOKEN), lambda _: None)
    for key, uri in (("a", None), ("b", f"http://localhost:{home.port}/of-another")):
        source = MlflowSource.model_validate({"model": "qa", "alias": "champion", "trackingURI": uri})
        await registry.resolve(("ns", key), source, f"http://localhost:{home.port}/mlflow")
    await registry.close()
    own = [sent["path"].startswith("/mlflow/") for sent in home.headers]
    assert {True, False} == set(own)
    assert own == ["authorization" in sent for sent in home.headers]
    assert not any("cookie" in sent for sent in home.headers)


async def test_mlflow_tells_a_model_that_was_made_anew_from_the_one_before(mlflow_uri):
    def ask(method: str, path: str, **body: str) -> None:
        url = f"{mlflow_uri}/api/2.0/mlflow/{path}"
        httpx.request(method, url, json={"name": "anew"} | body, timeout=30).raise_for_status()

    def make() -> None:
        ask("POST", "registered-models/create")
        ask("POST", "model-versions/create", source="s3://bucket/model")
        ask("POST", "registered-models/alias", alias="champion", version="1")

    make()
    woken = asyncio.Event()
    registry = make_registry(Settings(tracking_uri=mlflow_uri), lambda _: woken.set())
    source = MlflowSource(model="anew", alias="champion")
    first = await registry.resolve(KEY, source, mlflow_uri)
    ask("DELETE", "registered-models/delete")
    make()
    await registry.resolve(("ns", "b"), source, mlflow_uri)  # a newcomer makes the poller look
    await asyncio.wait_for(woken.wait(), 30)
    second = await registry.resolve(KEY, source, mlflow_uri)
    await registry.close()
    assert (first.version, second.version, first.server) == ("1", "1", mlflow_uri)
    assert first.created["1"] < second.created["1"]

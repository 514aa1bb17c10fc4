"""What callers may send that is larger, stranger or longer than usual, and what nobody shall read."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import sys

import httpx
import pytest

from despina.wire import LimitsConfig, ModelRef, RuntimeConfig
from despina_runtime.engine import Engine
from despina_runtime.program.artifact import write
from despina_runtime.program.load import load_despina

MODULE = "repeating"
CODE = '''
from typing import Any

import dspy


class Ask(dspy.Signature):
    """Repeat what is asked."""

    asked: Any = dspy.InputField()
    many: list[int] = dspy.InputField(default_factory=lambda: [1, 2])
    picture: dspy.Image | None = dspy.InputField(default=None)
    said: Any = dspy.OutputField(desc="the same again")


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict(Ask)

    async def aforward(self, asked, many, picture):
        if str(asked).startswith("raise"):
            raise ValueError(asked)
        return dspy.Prediction(said=many if asked == "many" else asked)
'''
COMPILED = "You were compiled at great cost"
LARGE = 10**30


@pytest.fixture
async def served(tmp_path, monkeypatch):
    """The program above, compiled, as one worker serves it; asked without a network."""
    source, folder = tmp_path / "src", tmp_path / "artifact"
    source.mkdir()
    folder.mkdir()
    (source / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(source))
    program = importlib.import_module(MODULE).Program()
    program.predict.signature = program.predict.signature.with_instructions(COMPILED).with_updated_fields(
        "said", desc=COMPILED
    )
    options = {"entrypoint": None, "signature_text": None, "code_paths": None, "requirements": ()}
    write(folder, program=program, input_example_json=None, **options)
    monkeypatch.delitem(sys.modules, MODULE)
    engines = []

    def serve(**changes) -> httpx.AsyncClient:
        model = ModelRef(name="m", version="1", tracking_uri="http://m")
        config = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, **changes)
        loaded = dataclasses.replace(load_despina(folder), is_async=True)
        assert loaded.program.predict.signature.instructions == COMPILED
        engines.append(Engine(loaded, config, tmp_path / f"cache-{len(engines)}"))
        return httpx.AsyncClient(transport=httpx.ASGITransport(engines[-1]), base_url="http://localhost")

    yield serve
    for engine in engines:
        await engine.start()
        await engine.stop()
    sys.modules.pop(MODULE, None)


async def mcp(client: httpx.AsyncClient, method: str, **params) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    return await client.post("/mcp", content=json.dumps(body), headers=headers)


@pytest.mark.parametrize("asked", [LARGE, -LARGE, {"deep": [2**64]}, "\u00e9"], ids=repr)
async def test_a_value_is_the_same_by_itself_in_a_batch_and_for_an_mcp_client(served, asked):
    client = served()
    assert (await client.post("/execute", json={"asked": asked})).json() == {"said": asked}
    batch = await client.post("/execute/batch", json={"inputs": [{"asked": asked}]})
    assert batch.json() == {"results": [{"outputs": {"said": asked}}]}
    told = (await mcp(client, "tools/call", name="p", arguments={"asked": asked})).json()["result"]
    assert json.loads(told["content"][0]["text"]) == told["structuredContent"] == {"said": asked}


async def test_what_nests_too_deeply_is_the_callers_mistake_by_itself_and_in_a_batch(served):
    client = served()
    for depth in (190, 300, 1000):
        deep = "[" * depth + "]" * depth
        alone = await client.post("/execute", content=f'{{"asked": {deep}}}')
        together = await client.post("/execute/batch", content=f'{{"inputs": [{{"asked": {deep}}}]}}')
        assert {alone.status_code, together.status_code} <= {200, 422}, depth


async def test_a_type_that_refuses_a_value_in_its_own_way_is_the_callers_mistake(served):
    picture = {"url": "http://169.254.169.254/latest", "download": True}
    answer = await served().post("/execute", json={"asked": 1, "picture": picture})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:despina:problem:invalid-input")
    assert "169.254" not in answer.text


async def test_an_input_with_a_default_factory_may_be_left_out(served):
    client = served()
    assert (await client.post("/execute", json={"asked": "many"})).json() == {"said": [1, 2]}
    assert (await client.get("/schema")).json()["inputs"]["required"] == ["asked"]


async def test_what_a_program_was_compiled_to_is_told_to_nobody(served):
    client = served()
    for path in ("/schema", "/modules", "/modules/predict/schema", "/openapi.json"):
        text = (await client.get(path)).text
        assert COMPILED not in text, path
        assert "the same again" in text, path
    listed = (await mcp(client, "tools/list")).text
    assert COMPILED not in listed
    assert "Repeat what is asked." in listed


async def test_an_mcp_client_may_send_as_much_as_any_other(served):
    small, large = served(limits=LimitsConfig(max_request_bytes=1000)), served(
        limits=LimitsConfig(max_request_bytes=2**23)
    )  # fmt: skip
    for size, client, status in ((2000, small, 413), (5 * 2**20, large, 200)):
        answers = [
            await client.post("/execute", json={"asked": "x" * size}),
            await mcp(client, "tools/call", name="p", arguments={"asked": "x" * size}),
        ]
        assert [a.status_code for a in answers] == [status, status]


async def test_an_error_of_a_programs_is_logged_by_its_kind_and_place(served, caplog):
    with caplog.at_level(logging.INFO):
        assert (await served().post("/execute", json={"asked": "raise this:\nJane Doe"})).status_code == 500
    assert "ValueError" in caplog.text
    assert f'{MODULE}.py", line' in caplog.text
    assert "Jane" not in caplog.text

"""Chat completions of an OpenAI-compatible server (vLLM, Ollama, llama.cpp, TGI, gateways), over one pooled session.

DSPy's own path for these makes canonical requests, hops threads and looks the model up in a price list; this one sends
what the adapter wrote. `make bench-serving` shows what that is worth. One attempt a call: retries are `target.py`'s.
Reference: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson
from dspy.clients.call_result import attributes
from dspy.utils.exceptions import (
    LMAuthError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMTransportError,
    LMUnsupportedModelError,
)

from despina.wire import LMConfig

PREFIXES = {"openai", "hosted_vllm", "vllm", "litellm_proxy", "lm_studio", "llamafile"}
KEEP_ALIVE_SECONDS = 30
KINDS: dict[int, type[LMError]] = {
    400: LMInvalidRequestError,
    401: LMAuthError,
    403: LMAuthError,
    404: LMUnsupportedModelError,
    413: LMInvalidRequestError,
    422: LMInvalidRequestError,
    429: LMRateLimitError,
}
"""What statuses mean, below 500."""


class Emit(Protocol):
    """Told each piece of text of a streamed answer."""

    started: bool
    """Whether a caller has seen a part of the answer already: then it cannot be begun anew."""

    async def __call__(self, text: str) -> None:
        """One piece."""
        ...


@dataclass(frozen=True)
class Completion:
    """What an LM answered: one output a choice, as DSPy's adapters take them, and the provider's token counts."""

    outputs: list[Any]
    usage: dict[str, Any]


def is_compatible(config: LMConfig) -> bool:
    """Whether this client serves an LM: one with an address of its own that speaks OpenAI's language."""
    return config.base_url is not None and config.model.partition("/")[0] in PREFIXES


class CompatibleClient:
    """One server and model."""

    def __init__(self, config: LMConfig) -> None:
        self._name = config.model
        self._model = config.model.partition("/")[2]
        self._url = f"{(config.base_url or '').rstrip('/')}/chat/completions"
        self._proxy = _proxy_for(self._url)
        self._session: aiohttp.ClientSession | None = None

    async def complete(
        self, messages: list[dict[str, Any]], params: dict[str, Any], key: str | None, emit: Emit | None
    ) -> Completion:
        """One attempt; raises one of DSPy's LM errors."""
        body = {"model": self._model, "messages": messages, **params}
        if emit:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"content-type": "application/json", "authorization": f"Bearer {key or 'none'}"}
        try:
            async with self._pool().post(
                self._url, data=orjson.dumps(body), headers=headers, proxy=self._proxy
            ) as response:
                if response.status >= 400:
                    raise self._error(response.status, response.headers.get("retry-after"))
                if emit:
                    return await self._read_stream(response, emit, params.get("n") or 1)
                return self._parse(await response.read())
        except aiohttp.ClientError as exc:
            raise LMTransportError(type(exc).__name__, model=self._name) from exc

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            # The caller holds the deadline.
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout())
        return self._session

    async def close(self) -> None:
        """Give the connections back."""
        if self._session:
            await self._session.close()

    def _parse(self, body: bytes) -> Completion:
        try:
            document = orjson.loads(body)
            outputs = [_output(choice) for choice in document["choices"]]
            return Completion(outputs, document.get("usage") or {})
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise LMServerError("the answer is not a chat completion", model=self._name) from exc

    async def _read_stream(self, response: aiohttp.ClientResponse, emit: Emit, wanted: int) -> Completion:
        """The same as if it had come whole; what is passed on meanwhile is the first choice's text."""
        choices: dict[int, _Growing] = {}
        usage: dict[str, Any] = {}
        async for event in _events(response, self._name):
            usage = event.get("usage") or usage
            for part in event.get("choices") or ():
                index = part.get("index") or 0
                piece = choices.setdefault(index, _Growing()).add(part)
                if piece and index == 0:
                    await emit(piece)
        if sum(choice.is_finished for choice in choices.values()) < wanted:
            raise LMTransportError("the stream ended before the answer did", model=self._name)
        return Completion([_output(choices[index].whole()) for index in sorted(choices)], usage)

    def _error(self, status: int, retry_after: str | None) -> LMError:
        """A provider's own words may hold keys or prompts, so only the status is told."""
        kind = KINDS.get(status) or (LMServerError if status >= 500 else LMProviderError)
        return kind(f"status {status}", model=self._name, status=status, retry_after=_seconds(retry_after))


class _Growing:
    """A choice of which part after part comes."""

    def __init__(self) -> None:
        self.is_finished = False
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, part: dict[str, Any]) -> str | None:
        """The text that the part brings."""
        self.is_finished = self.is_finished or bool(part.get("finish_reason"))
        delta = part.get("delta") or {}
        for name, texts in self._texts.items():
            texts.append(delta.get(name) or "")
        for name, tokens in (part.get("logprobs") or {}).items():
            self._logprobs.setdefault(name, []).extend(tokens or ())
        text: str | None = delta.get("content")
        return text

    def whole(self) -> dict[str, Any]:
        """As a choice of an answer that is not streamed."""
        return {"message": {k: "".join(v) for k, v in self._texts.items()}, "logprobs": self._logprobs}


def _output(choice: dict[str, Any]) -> Any:
    """A plain text where that is all there is; else what DSPy's adapters look for beside it."""
    message = choice["message"]
    rest = {"tool_calls": message.get("tool_calls"), "reasoning_content": message.get("reasoning_content")}
    rest["logprobs"] = choice.get("logprobs")
    rest = {k: v for k, v in rest.items() if v}
    text = message.get("content")
    return {"text": text, **attributes(rest)} if rest else text


async def _events(response: aiohttp.ClientResponse, model: str) -> AsyncIterator[dict[str, Any]]:
    """The data of server-sent events until `[DONE]`."""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        try:
            event = orjson.loads(data)
        except ValueError as exc:
            raise LMServerError("the stream is not JSON", model=model) from exc
        if not isinstance(event, dict) or "error" in event:
            raise LMServerError("the stream broke off with an error", model=model)
        yield event


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is rare and ignored."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def _proxy_for(url: str) -> str | None:
    """The environment's proxy for an address, looked up once."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)

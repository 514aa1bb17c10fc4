"""Chat completions of an OpenAI-compatible server (vLLM, Ollama, llama.cpp, TGI, gateways), over one pooled session.

DSPy's own path for these makes canonical requests, hops threads and looks the model up in a price list; this one sends
what the adapter wrote. `make bench-serving` shows what that is worth. One attempt a call: retries are `target.py`'s.
Reference: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar
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
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from despina.wire import LMConfig

PREFIXES = {"openai", "hosted_vllm", "vllm", "litellm_proxy", "lm_studio", "llamafile"}
KEEP_ALIVE_SECONDS = 30
IDENTITY = "identity"
HEADERS = {"content-type": "application/json", "accept-encoding": IDENTITY}
LONGEST_ANSWER = 4 * 2**20
"""Bytes, and of what is kept of a stream: it is read on the event loop, and each of a million small parts costs a
kilobyte."""
LONGEST_STREAM = 16 * 2**20
"""Bytes. A token has an event of its own, of which hundreds of bytes say the same as in the one before."""
MOST_PARTS = 128
"""Choices of an answer, as many as the format lets be asked for; calls of one, and counts of a usage."""
LARGEST_COUNT = 2**40
NUMBERS = int, float
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


def _text_of(content: Any) -> Any:
    """A content's text, which the format lets be in parts; what is something else is refused after this."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _counted(usage: Any) -> dict[str, Any]:
    """What of a usage are counts, or a price: a provider that counts oddly has answered all the same."""
    if not isinstance(usage, dict) or len(usage) > MOST_PARTS:
        return {}
    return {
        k: _counted(v) if type(v) is dict else v
        for k, v in usage.items()
        if type(v) is dict or (type(v) in NUMBERS and 0 <= v < LARGEST_COUNT)
    }


Text = Annotated[str | Annotated[str, BeforeValidator(_text_of)] | None, Field(union_mode="left_to_right")]
Usage = Annotated[dict[str, Any], BeforeValidator(_counted)]


class _Function(TypedDict):
    """What a tool call names; what else stands there is kept."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    name: str


class _ToolCall(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    function: _Function


class _Message(BaseModel):
    content: Text = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = Field(None, fail_fast=True, max_length=MOST_PARTS)


class _Choice(BaseModel):
    message: _Message
    logprobs: dict[str, Any] | None = None


class _Document(BaseModel):
    """A whole answer."""

    choices: list[_Choice] = Field(min_length=1, max_length=MOST_PARTS, fail_fast=True)
    usage: Usage = {}


class _Delta(BaseModel):
    content: Text = None
    reasoning_content: str | None = None


class _Part(BaseModel):
    """What an event of a stream adds to one choice."""

    index: int | None = Field(None, ge=0, lt=MOST_PARTS)
    delta: _Delta | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: Any = None


class _Event(BaseModel):
    choices: list[_Part] | None = Field(None, max_length=MOST_PARTS, fail_fast=True)
    usage: Usage = {}
    error: Any = None


Read = TypeVar("Read", bound=BaseModel)


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
        headers = {**HEADERS, "authorization": f"Bearer {key or 'none'}"}
        try:
            async with self._pool().post(
                self._url, data=orjson.dumps(body), headers=headers, proxy=self._proxy, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise self._error(response.status, response.headers.get("retry-after"))
                if emit:
                    return await self._read_stream(response, emit, params.get("n") or 1)
                return self._parse(await self._whole(response))
        except aiohttp.ClientError as exc:
            raise LMTransportError(type(exc).__name__, model=self._name) from exc

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            # The caller holds the deadline. All callers share it: nothing of one's stays for the next.
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Give the connections back."""
        if self._session:
            await self._session.close()

    def _parse(self, body: bytes) -> Completion:
        document = self._read(_Document, body)
        return Completion([_output(choice) for choice in document.choices], document.usage)

    async def _read_stream(self, response: aiohttp.ClientResponse, emit: Emit, wanted: int) -> Completion:
        """The same as if it had come whole; what is passed on meanwhile is the first choice's text."""
        choices: dict[int, _Growing] = {}
        usage: dict[str, Any] = {}
        async for event in self._events(response):
            usage = event.usage or usage
            for part in event.choices or ():
                index = part.index or 0
                piece = choices.setdefault(index, _Growing()).add(part)
                if piece and index == 0:
                    await emit(piece)
        if sum(choice.is_finished for choice in choices.values()) < wanted:
            raise LMTransportError("the stream ended before the answer did", model=self._name)
        return Completion([_output(choices[index].whole()) for index in sorted(choices)], usage)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[_Event]:
        """The data of server-sent events until `[DONE]`."""
        kept = 0
        async for line in _lines(self._pieces(response, LONGEST_STREAM)):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            self._check_length(len(data), LONGEST_ANSWER)
            event = self._read(_Event, data)
            kept += _kept_bytes(event, data)
            self._check_length(kept, LONGEST_ANSWER)
            if event.error is not None:
                raise LMServerError("the stream broke off with an error", model=self._name)
            yield event

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """All bytes of an answer; most say how many they are."""
        if (length := response.content_length) is not None and length <= LONGEST_ANSWER:
            self._check_encoding(response)
            return await response.read()
        return b"".join([piece async for piece in self._pieces(response, LONGEST_ANSWER)])

    def _check_encoding(self, response: aiohttp.ClientResponse) -> None:
        """What is compressed could be anything, once unpacked."""
        if response.headers.get("content-encoding", IDENTITY) != IDENTITY:
            raise LMServerError("the answer is compressed, though it was not to be", model=self._name)

    def _check_length(self, length: int, most: int) -> None:
        if length > most:
            raise LMServerError(f"the answer is longer than {most} bytes", model=self._name)

    async def _pieces(self, response: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
        """An answer's bytes as they come."""
        self._check_encoding(response)
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            self._check_length(size, most)
            yield piece

    def _read(self, kind: type[Read], data: bytes) -> Read:
        try:
            return kind.model_validate_json(data)
        except (ValueError, KeyError, TypeError):
            raise LMServerError("the answer is not a chat completion", model=self._name) from None

    def _error(self, status: int, retry_after: str | None) -> LMError:
        """A provider's own words may hold keys or prompts, so only the status is told."""
        kind = KINDS.get(status) or (LMServerError if status >= 500 else LMProviderError)
        return kind(f"status {status}", model=self._name, status=status, retry_after=_seconds(retry_after))


def _kept_bytes(event: _Event, data: bytes) -> int:
    """What of an event stays until the stream ends: its texts, or all of what may be in many parts."""
    parts = event.choices or []
    if any(part.logprobs for part in parts):
        return len(data)
    deltas = [part.delta for part in parts if part.delta]
    return sum(len(delta.content or "") + len(delta.reasoning_content or "") for delta in deltas)


class _Growing:
    """A choice of which part after part comes."""

    def __init__(self) -> None:
        self.is_finished = False
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, part: _Part) -> str | None:
        """The text that the part brings."""
        self.is_finished = self.is_finished or bool(part.finish_reason)
        delta = part.delta or _Delta()
        for name, texts in self._texts.items():
            texts.append(getattr(delta, name) or "")
        for name, tokens in (part.logprobs or {}).items():
            self._logprobs.setdefault(name, []).extend(tokens if isinstance(tokens, list) else ())
        return delta.content

    def whole(self) -> _Choice:
        """As a choice of an answer that is not streamed."""
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        return _Choice(message=_Message(**texts), logprobs=self._logprobs)


def _output(choice: _Choice) -> Any:
    """A plain text where that is all there is; else what DSPy's adapters look for beside it."""
    message = choice.message
    rest: dict[str, Any] = {"tool_calls": message.tool_calls, "reasoning_content": message.reasoning_content}
    rest = {k: v for k, v in {**rest, "logprobs": choice.logprobs}.items() if v}
    return {"text": message.content, **attributes(rest)} if rest else message.content


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines. A long one comes in many pieces, which are put together once."""
    begun: list[bytes] = []
    async for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for line in ended:
            yield b"".join([*begun, line])
            begun = []
        begun.append(rest)


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

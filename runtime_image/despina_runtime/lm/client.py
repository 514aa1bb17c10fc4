"""The LMs that a program calls. The manifest alone says which: none is taken from the artefact. They reach it with the
request's settings, as `dspy.context` makes them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import dspy
from dspy.clients.call_result import attributes
from dspy.clients.engines.streaming import EngineChunk
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import LMError
from pydantic import BaseModel

from despina.wire import RuntimeConfig
from despina_runtime import compat
from despina_runtime.cache.store import Store
from despina_runtime.lm.adapters import ADAPTERS, EachItsOwn
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.retry import is_refusal
from despina_runtime.lm.target import Guard, Target, unguarded
from despina_runtime.paths import is_in
from despina_runtime.problem import Problem
from despina_runtime.telemetry.counting import VersionCounts

log = logging.getLogger(__name__)
SUPPORTED = {"temperature", "max_tokens", "top_p", "stop", "seed", "response_format", "tools", "tool_choice"}

OUT_OF_REACH = (
    "the manifest's LMs and tools are known only where a request is worked on, and a thread of one's own knows of none:"
    " start it by dspy.Parallel, Module.batch or dspy.asyncify, or have it run contextvars.copy_context().run"
)


class OutOfReach(RuntimeError):
    """An LM or a tool was asked where no request is known."""


class NoLM(dspy.BaseLM):  # type: ignore[misc]
    """What is found where no request is known."""

    def __init__(self) -> None:
        super().__init__(model="none", cache=False)

    def __call__(self, *args: Any, **kwargs: Any) -> list[Any]:
        """There is no answer."""
        raise self._why()

    async def acall(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Nor here."""
        raise self._why()

    def _why(self) -> Exception:
        return OutOfReach(OUT_OF_REACH)


class Unlisted(NoLM):
    """What is found where the manifest lists none, and the program has none of its own."""

    def __init__(self, asking: list[str]) -> None:
        super().__init__()
        self.reason = f"the manifest lists no LM, and {', '.join(asking)} ask{'s' * (len(asking) == 1)} for one"

    def _why(self) -> Problem:
        log.error("An LM was asked for: %s", self.reason)
        title, detail = "The program has no language model", f"{self.reason}: list one in spec.lms"
        return Problem(500, "program-error", title, detail, fault="Program", can_fall_back=True)


class ServedLM(dspy.BaseLM):  # type: ignore[misc]
    """What a program sees: one LM of the manifest, and those to ask when it fails.

    All calls run on the server's event loop, where the connections, the cache and the breakers are; a program that
    runs in a thread waits for its answer there.
    """

    def __init__(self, chain: tuple[Target, ...], modules: dict[int, str], loop: asyncio.AbstractEventLoop) -> None:
        config = chain[0].config
        super().__init__(model=config.model, cache=False, num_retries=0)
        self.kwargs: dict[str, Any] = {}
        self._chain = chain
        self._modules = modules
        self._loop = loop
        self._config = config

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedLM:
        """Modules are copied with the LM that is pinned to them; its connections are not theirs to copy."""
        return self

    @property
    def adapter(self) -> str:
        """How its prompts are written: `Chat` or `JSON`."""
        return self._config.adapter

    @property
    def supports_response_schema(self) -> bool:
        """As the manifest says."""
        return self._config.structured_output

    @property
    def supports_function_calling(self) -> bool:
        """Native tool calls are used where the program's own adapter asks for them."""
        return True

    @property
    def supported_params(self) -> set[str]:
        """What the manifest may set; JSON mode only where it is enabled."""
        return SUPPORTED if self._config.structured_output else SUPPORTED - {"response_format"}

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> list[Any]:
        """From a thread: wait for the event loop's answer."""
        if is_on_a_loop():
            raise RuntimeError("a program with `aforward` must await its modules (`await module.acall(...)`)")
        meter = _meter()
        return meter.wait(self._answer(meter, prompt, messages, kwargs), self._loop)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> list[Any]:
        """On an event loop."""
        meter = _meter()
        return await meter.join(self._answer(meter, prompt, messages, kwargs), self._loop)

    async def _answer(self, meter: Meter, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> list[Any]:
        """The first LM of the chain that answers. Each has its share of the time that is left. If none answers,
        a refusal counts, and not that others could not be asked: else long inputs would seem to be an outage."""
        asked = messages or [{"role": "user", "content": prompt}]
        params = _plain({**self.kwargs, **kwargs})
        module, emit = self._module(), _emit_for(self.model, params)
        refusal: LMError | None = None
        for left, target in zip(range(len(self._chain), 0, -1), self._chain, strict=True):
            now = asyncio.get_running_loop().time()
            try:
                return await target.answer(asked, params, meter, module, now + (meter.deadline - now) / left, emit)
            except LMError as exc:
                refusal = refusal or (exc if is_refusal(exc) else None)
                if left == 1 or (emit and emit.started):
                    meter.failure = refusal or exc
                    raise meter.failure from None
        raise AssertionError("a chain has at least one LM")

    def _module(self) -> str:
        """The path of the module that asks."""
        callers = dspy.settings.caller_modules or ()
        return next((self._modules[id(m)] for m in reversed(callers) if id(m) in self._modules), "")


class StreamEmit:
    """Passes pieces of text on to DSPy's stream listeners."""

    def __init__(self, model: str) -> None:
        self.started = False
        self._model = model
        self._stream = dspy.settings.send_stream
        self._predict = id(dspy.settings.caller_predict) if dspy.settings.caller_predict else None

    async def __call__(self, text: str) -> None:
        """One piece."""
        self.started = True
        choice = attributes({"index": 0, "delta": {"content": text}, "finish_reason": None})
        await self._stream.send(EngineChunk(id=None, model=self._model, predict_id=self._predict, choices=[choice]))


def _emit_for(model: str, params: dict[str, Any]) -> StreamEmit | None:
    return StreamEmit(model) if dspy.settings.send_stream is not None and "tools" not in params else None


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as JSON: DSPy hands a pydantic class over as the response format."""
    params.pop("cache", None)
    wanted = params.get("response_format")
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        schema = {
            "name": wanted.__name__,
            "schema": compat.strict_json_schema(wanted.model_json_schema()),
            "strict": True,
        }
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    return params


def _meter() -> Meter:
    """That of the request under way."""
    if (meter := dspy.settings.get("meter")) is None:
        raise OutOfReach(OUT_OF_REACH)
    return meter  # type: ignore[no-any-return]


def is_on_a_loop() -> bool:
    """Whether this thread runs an event loop, which others wait for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class LMs:
    """All LMs of one worker, and what DSPy is told of them for one request."""

    def __init__(
        self,
        config: RuntimeConfig,
        store: Store | None,
        program: dspy.Module,
        guard: Guard = unguarded,
        counts: VersionCounts | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        lm_store = store if config.cache and config.cache.scope != "Program" else None
        share_seconds = config.request_timeout_seconds / (1 + len(config.fallbacks))
        self._targets = {lm.name: Target(lm, lm_store, share_seconds, guard, counts) for lm in config.lms}
        modules = {id(m): name.removeprefix("self").lstrip(".") for name, m in program.named_sub_modules()}
        self._served = {name: ServedLM(self._chain(name, config), modules, loop) for name in self._targets}
        is_mixed = self._pin(program, config)
        self._adapters = {n: EachItsOwn() if is_mixed else ADAPTERS[lm.adapter]() for n, lm in self._served.items()}
        self.default = config.lm
        self._unlisted = None if config.lms else _unlisted(program)

    def _pin(self, program: dspy.Module, config: RuntimeConfig) -> bool:
        """Give modules the LMs that the manifest names for them; whether adapters differ then."""
        pinned = [m for m in config.modules if m.lm]
        for module in pinned:
            for name, predictor in program.named_predictors():
                if is_in(name, module.path):
                    predictor.lm = self._served[str(module.lm)]
        return bool(pinned) and len({lm.adapter for lm in config.lms}) > 1

    def _chain(self, name: str, config: RuntimeConfig) -> tuple[Target, ...]:
        return tuple(self._targets[n] for n in dict.fromkeys((name, *config.fallbacks)))

    @property
    def names(self) -> list[str]:
        """The names that a request may choose from."""
        return list(self._targets)

    def context(self, name: str | None, temperature: float | None) -> dict[str, Any]:
        """Arguments for `dspy.context`. Histories outlive a request and hold callers' words, so they are off; a trace
        is the request's own."""
        own = {"disable_history": True, "trace": [], "warn_on_type_mismatch": False}
        if name is None:
            return own | {"lm": self._unlisted} if self._unlisted else own
        lm: ServedLM = self._served[name]
        if temperature is not None:
            lm = lm.copy(temperature=temperature)
        return {"lm": lm, "adapter": self._adapters[name], **own}

    async def close(self) -> None:
        """Give the connections back."""
        for target in self._targets.values():
            await target.close()


def _unlisted(program: dspy.Module) -> Unlisted | None:
    """Stands for the LM that predictors will ask for in vain. A program may configure one, or ask in a context of its
    own, so it is served all the same."""
    asking = [name for name, predictor in program.named_predictors() if predictor.lm is None]
    if not asking or not isinstance(compat.process_settings["lm"], NoLM | None):
        return None
    found = Unlisted(asking)
    log.warning("%s", found.reason)
    return found

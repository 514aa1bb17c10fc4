"""What programs use: `execute_tool` and `tool`.

Both work on the event loop and off it: there they give something to await, here they wait. Outside a served program
they call the functions of the packages that DESPINA_TOOL_PACKAGES names, in this process.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dspy
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from despina.wire import (
    TOOL_PACKAGES_ENV,
    TOOLS_DIR,
    TOOLS_FILE,
    TOOLS_FILE_ENV,
    RuntimeConfig,
    ToolConfig,
    ToolsConfig,
    ToolUse,
    TrialTools,
)
from despina_runtime import compat
from despina_runtime.cache.store import Store
from despina_runtime.lm.client import OUT_OF_REACH, OutOfReach
from despina_runtime.samples import sample
from despina_runtime.tools.errors import ToolRefused, ToolUnavailable, ToolUnknown
from despina_runtime.tools.grid import Grid
from despina_runtime.tools.local import local_tool

LOOK_SECONDS = 1.0
UNSERVED_SECONDS = 60.0


class ToolsFile:
    """The tools' configuration, as the operator keeps it; looked at again once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = float("-inf")
        self._stamp: tuple[int, int] | None = None
        self._config = ToolsConfig()

    def read(self) -> ToolsConfig:
        """What it says now. One that cannot be read leaves what was read last."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return self._config
        self._looked = now
        try:
            stat = self._path.stat()
            if (stamp := (stat.st_mtime_ns, stat.st_ino)) != self._stamp:
                self._config = ToolsConfig.model_validate_json(self._path.read_bytes())
                self._stamp = stamp
        except (OSError, ValidationError):
            return self._config
        return self._config


class Toolbox:
    """The tools that one revision of a program may call, by the names that it calls them by."""

    def __init__(self, uses: tuple[ToolUse, ...], file: ToolsFile) -> None:
        self._uses = {use.name: use for use in uses}
        self._file = file
        self.grid: Grid | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.store: Store | None = None
        self.is_rehearsing = False
        """While the program is only tried out: tools then give made-up results."""
        self.refusal = ""
        """Why it executes no NonIdempotent tool; empty where it does."""

    def serve(self, grid: Grid, store: Store | None) -> None:
        """Use a worker's grid, on the loop that is running, and its cache."""
        self.grid, self.store, self.loop = grid, store, asyncio.get_running_loop()

    def refusing(self, refusal: str) -> Self:
        """The same for one request, without the tools that are NonIdempotent."""
        found = copy.copy(self)
        found.refusal = refusal
        return found

    def find(self, name: str) -> tuple[ToolUse, ToolConfig]:
        """The tool of a name; raises ToolUnknown."""
        use = self._uses.get(name)
        if use is None:
            listed = ", ".join(self._uses) or "none"
            raise ToolUnknown(name, f"spec.tools does not list it; it lists {listed}")
        known = self._file.read().tools.get(use.tool)
        known = known or local_function(use.tool.partition("/")[2]) or local_function(name)
        return use, known or ToolConfig(missing=f"{use.tool} is not known here yet")

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """One call, on the event loop that the connections belong to."""
        use, config = self.find(name)
        if self.is_rehearsing:
            return _made_up(name, config)
        if self.refusal and config.contract and not config.contract.idempotent:
            raise ToolRefused(name, self.refusal)
        now, meter = asyncio.get_running_loop().time(), dspy.settings.get("meter")
        deadline = meter.deadline if meter else now + UNSERVED_SECONDS
        if use.timeout_seconds:
            deadline = min(deadline, now + use.timeout_seconds)
        self.grid = self.grid or Grid()
        store = None if meter and meter.is_by_hand else self.store
        return await self.grid.call(use.tool, config, to_jsonable_python(arguments), deadline, store, meter)

    async def reach(self, name: str, arguments: dict[str, Any]) -> Any:
        """The same from whichever event loop is running."""
        meter = dspy.settings.get("meter")
        return await (
            meter.join(self.call(name, arguments), self.loop) if meter and self.loop else self.call(name, arguments)
        )

    def wait(self, name: str, arguments: dict[str, Any]) -> Any:
        """The same from a thread."""
        if self.is_rehearsing:
            return _made_up(name, self.find(name)[1])
        if self.loop is None:
            return asyncio.run(self._alone(name, arguments))
        if meter := dspy.settings.get("meter"):
            return meter.wait(self.call(name, arguments), self.loop)
        return asyncio.run_coroutine_threadsafe(self.call(name, arguments), self.loop).result()

    async def _alone(self, name: str, arguments: dict[str, Any]) -> Any:
        """With connections of its own, where there is no server."""
        self.grid = None
        try:
            return await self.call(name, arguments)
        finally:
            if self.grid:
                await self.grid.close()
            self.grid = None


class LocalToolbox(Toolbox):
    """Every function of the packages that DESPINA_TOOL_PACKAGES names."""

    def __init__(self) -> None:
        super().__init__((), ToolsFile(Path(os.environ.get(TOOLS_FILE_ENV, os.devnull))))

    def find(self, name: str) -> tuple[ToolUse, ToolConfig]:
        """The function of a name."""
        config = local_function(name)
        if config is None:
            packages = ", ".join(_packages())
            advice = f"set {TOOL_PACKAGES_ENV} to its Python package"
            raise ToolUnknown(name, f"none of {packages} has it" if packages else advice)
        return ToolUse(name=name, tool=f"local/{name}"), config


def local_function(name: str) -> ToolConfig | None:
    """A function of the packages that DESPINA_TOOL_PACKAGES names: on a laptop, where there is no DSPyTool."""
    return next((config for package in _packages() if (config := local_tool(name, package))), None)


def _packages() -> list[str]:
    return [p.strip() for p in os.environ.get(TOOL_PACKAGES_ENV, "").split(",") if p.strip()]


class NoToolbox(Toolbox):
    """What is found in a process that serves where no request is known: whether a tool may be executed there, a gate's
    try or a caller's request, cannot be told."""

    def __init__(self) -> None:
        super().__init__((), ToolsFile(Path(os.devnull)))

    def find(self, name: str) -> tuple[ToolUse, ToolConfig]:
        """There is no tool."""
        raise OutOfReach(OUT_OF_REACH)


def current() -> Toolbox:
    """The tools that may be called here: the key `toolbox` of `dspy.settings`, which DSPy's threads have, too."""
    return dspy.settings.get("toolbox") or OUTSIDE[0]


def serve_requests_only() -> None:
    """From now on this process has tools only where a request, or a try, is worked on."""
    OUTSIDE[:] = [NoToolbox()]


def make_toolbox(config: RuntimeConfig) -> Toolbox:
    """The tools of one revision."""
    path = os.environ.get(TOOLS_FILE_ENV) or str(Path(TOOLS_DIR) / TOOLS_FILE)
    return Toolbox(config.tools, ToolsFile(Path(path)))


def refusal_of(tools: TrialTools, gate: str) -> str:
    """Why a gate of a kind (`smoke`, `evaluate`, `shadow`) has no NonIdempotent tool executed; empty if it may."""
    field = f"spec.rollout.gates[].{gate}.tools"
    return "" if tools == "Execute" else f"it is NonIdempotent, and a gate executes it only where {field} is Execute"


BY_HAND = "it is NonIdempotent, and nobody's question by hand executes one"
"""Why a person who asks a version from the page has no NonIdempotent tool executed: callers' requests do that."""


@contextmanager
def rehearsing(toolbox: Toolbox) -> Iterator[None]:
    """While a program is made and tried out: nothing is really executed."""
    token = compat.set_own(toolbox=toolbox)
    toolbox.is_rehearsing = True
    try:
        yield
    finally:
        toolbox.is_rehearsing = False
        compat.reset_own(token)


def execute_tool(name: str, /, **arguments: Any) -> Any:
    """Call a tool by name, wherever it is executed.

    Args:
        name: the name under the program's `spec.tools`.
        arguments: by name; anything that pydantic can write as JSON.

    Returns:
        The result as JSON values; in a coroutine, something to await that gives it.

    Raises:
        ToolError: see `despina_runtime.tools.errors`.
    """
    toolbox = current()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return toolbox.wait(name, arguments)
    return toolbox.reach(name, arguments)


def tool(name: str) -> dspy.Tool:
    """A tool as a `dspy.Tool`, for ReAct and the like, and for calling by hand (`tool(...)`, `await tool.acall(...)`).

    Raises:
        ToolUnknown: the program's manifest does not list it.
    """
    from dspy.adapters.types.tool import convert_input_schema_to_tool_args

    _, config = current().find(name)

    def call(**arguments: Any) -> Any:
        return execute_tool(name, **arguments)

    if config.contract is None:
        return dspy.Tool(call, name=name, desc=config.missing)
    args, types, descriptions = convert_input_schema_to_tool_args(config.contract.parameters)
    return dspy.Tool(
        call, name=name, desc=config.contract.description, args=args, arg_types=types, arg_desc=descriptions
    )


def _made_up(name: str, config: ToolConfig) -> Any:
    if config.contract is None:
        raise ToolUnavailable(name, config.missing)
    return sample(config.contract.returns or {})


OUTSIDE: list[Toolbox] = [LocalToolbox()]
"""The tools where no request is known: on a laptop, those of the environment."""

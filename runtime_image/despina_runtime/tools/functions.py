"""Typed Python functions as tools: their contracts are made from their annotations."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema

from despina.wire import ToolProblemReport
from despina_runtime.tools.errors import NotATool, NotReady

CHECK = "check"
PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Untitled(GenerateJsonSchema):
    """JSON Schema without a title for each field, which only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Function:
    """One function as a tool."""

    name: str
    description: str
    arguments: type[BaseModel]
    result: TypeAdapter[Any]
    parameters: dict[str, Any]
    returns: dict[str, Any]
    run: Callable[..., Any]
    check: Callable[[], None] | None = None

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop, where it can be cancelled, and not in a thread."""
        return inspect.iscoroutinefunction(self.run)

    async def call(self, arguments: dict[str, Any]) -> bytes:
        """The result as JSON. A function that is not async runs in a thread.

        Raises:
            ValidationError: the arguments do not fit; nothing was executed.
            NotReady: as the function says; nothing was executed.
        """
        given = self.arguments.model_validate(arguments)
        values = {name: getattr(given, name) for name in type(given).model_fields}
        if self.is_async:
            found = await self.run(**values)
        else:
            context = contextvars.copy_context().run
            found = await asyncio.get_running_loop().run_in_executor(None, lambda: context(self.run, **values))
        try:
            return self.result.dump_json(self.result.validate_python(found))
        except ValidationError as exc:
            raise TypeError(f"{self.name} gave something else than its annotation says: {_first(exc)}") from None

    def problem(self) -> ToolProblemReport | None:
        """Why it cannot work as things are, if its package can tell."""
        if self.check is None:
            return None
        try:
            self.check()
        except NotReady as exc:
            return ToolProblemReport(reason=exc.reason[:64], message=str(exc)[:1024])
        except Exception as exc:  # whatever the package's own code raises
            return ToolProblemReport(reason="CheckFailed", message=f"{type(exc).__name__}: {exc}"[:1024])
        return None


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ")


def find_tools(packages: Iterable[str]) -> dict[str, Function]:
    """The tools of Python packages, by name.

    A package's tools are the functions that its `__all__` names, or else its public functions; `check` is none: it is
    asked whether the package's tools can work, and raises NotReady if not.

    Raises:
        NotATool: a function lacks annotations, or two have one name.
        ImportError: a package is not there.
    """
    found: dict[str, Function] = {}
    for package in packages:
        module = importlib.import_module(package)
        check = getattr(module, CHECK, None)
        for function in _functions(module):
            tool = function_tool(function, check)
            if tool.name in found:
                raise NotATool(f"{package}: there are two tools called {tool.name}")
            found[tool.name] = tool
    if not found:
        raise NotATool(f"{', '.join(packages)}: no public function was found")
    return found


def _functions(module: Any) -> list[Callable[..., Any]]:
    listed = getattr(module, "__all__", None)
    names = listed or [n for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__]
    candidates = [getattr(module, n) for n in names if not n.startswith("_") and n != CHECK]
    return [f for f in candidates if inspect.isfunction(f)]


def function_tool(function: Callable[..., Any], check: Callable[[], None] | None = None) -> Function:
    """One typed function as a tool; `_` in its name becomes `-`."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in PLAIN or name not in hints:
            raise NotATool(f"{function.__module__}.{function.__name__}: parameter {name} needs a name and a type")
        fields[name] = (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    if "return" not in hints:
        raise NotATool(f"{function.__module__}.{function.__name__}: it needs a return annotation")
    arguments = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
    result: TypeAdapter[Any] = TypeAdapter(hints["return"])
    return Function(
        name=function.__name__.replace("_", "-"),
        description=(inspect.getdoc(function) or "")[:1024],
        arguments=arguments,
        result=result,
        parameters=arguments.model_json_schema(schema_generator=Untitled),
        returns=result.json_schema(mode="serialization", schema_generator=Untitled),
        run=function,
        check=check,
    )

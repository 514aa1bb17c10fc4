"""A program's named modules, each of which can be called by itself."""

from __future__ import annotations

from typing import Any

import dspy

from despina_runtime.pipeline.call import Step
from despina_runtime.pipeline.corridor import Corridors
from despina_runtime.problem import Problem
from despina_runtime.program.interface import Interface, interface_of
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError


class Modules:
    """Those whose signature is known, by path (`rewrite`, `steps[0]`, `answer.predict`)."""

    def __init__(self, loaded: Loaded, corridors: Corridors) -> None:
        self._corridors = corridors
        self._is_async = loaded.is_async
        self._found = dict(_with_interfaces(loaded.program))
        self._built: dict[str, Step] = {}

    def schemas(self) -> dict[str, Any]:
        """Every module's interface as JSON Schema."""
        return {path: interface.schema() for path, (_, interface) in self._found.items()}

    def interface(self, path: str) -> Interface:
        """One module's interface; Problem 404 with the paths that there are."""
        if path not in self._found:
            detail = f"modules: {', '.join(self._found) or 'none'}"
            raise Problem(404, "unknown-module", "The program has no such module", detail)
        return self._found[path][1]

    def corridor(self, path: str) -> Step:
        """The way to one module."""
        interface = self.interface(path)
        if path not in self._built:
            module = self._found[path][0]
            runs_async = self._is_async and hasattr(module, "aforward")
            self._built[path] = self._corridors.build(module, runs_async, interface, path)
        return self._built[path]


def _with_interfaces(program: dspy.Module) -> list[tuple[str, tuple[dspy.Module, Interface]]]:
    found = []
    for name, module in program.named_sub_modules():
        path = name.removeprefix("self").lstrip(".")
        if not path:
            continue  # the program itself
        try:
            found.append((path, (module, interface_of(module))))
        except ProgramError:
            continue
    return found

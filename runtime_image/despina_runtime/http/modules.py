"""A program's named modules, each of which can be called by itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from despina_runtime.paths import places
from despina_runtime.pipeline.call import Step
from despina_runtime.pipeline.corridor import Corridors
from despina_runtime.problem import Problem
from despina_runtime.program.interface import Interface, modules_of, runs_async
from despina_runtime.program.load import Loaded


class Modules:
    """Those whose signature is known, by path (`rewrite`, `steps[0]`, `answer.predict`)."""

    def __init__(self, loaded: Loaded, corridors: Corridors) -> None:
        self._corridors = corridors
        self._is_async = loaded.is_async
        self._modules = modules_of(loaded.program)
        self._interfaces = loaded.modules
        self._built: dict[str, Step] = {}
        self.predicting = places(name for name, _ in loaded.program.named_predictors())
        """The paths of those with a predictor, which an optimiser can change, also if their signature is not known."""

    def schemas(self) -> dict[str, Any]:
        """Every module's interface as JSON Schema."""
        return {path: interface.schema() for path, interface in self._interfaces.items()}

    def interface(self, path: str) -> Interface:
        """One module's interface; Problem 404 with the paths that there are."""
        _check(path, self._interfaces)
        return self._interfaces[path]

    def check_predicts(self, path: str) -> None:
        """Raise Problem 404, with the paths that there are, for what is no module with a predictor."""
        _check(path, self.predicting)

    def corridor(self, path: str) -> Step:
        """The way to one module."""
        interface = self.interface(path)
        if path not in self._built:
            module = self._modules[path]
            is_async = self._is_async and runs_async(module)
            self._built[path] = self._corridors.build(module, is_async, interface, path)
        return self._built[path]


def _check(path: str, known: Collection[str]) -> None:
    if path not in known:
        raise Problem(404, "unknown-module", "The program has no such module", f"modules: {', '.join(known) or 'none'}")

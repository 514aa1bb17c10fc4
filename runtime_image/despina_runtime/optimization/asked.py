"""What an optimisation is asked to do, held to the version's files, before any call is paid.

None of the model's code runs for that: what its source cannot tell, the processes that run it will.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from despina.wire import OptimizationConfig
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.optimization.states import by_predictor, chosen
from despina_runtime.program.manifest import CODE, STATE, Manifest


def check_asked(config: OptimizationConfig, manifest: Manifest, folder: Path) -> None:
    """Raise Unusable or UnknownModule for a name that stands for nothing."""
    _check_inputs(config.labels.group_by, manifest)
    chosen(list(by_predictor(json.loads((folder / STATE).read_bytes()))), config.modules)
    for what, name in (("metric", config.metric), ("optimizer", config.optimizer.name)):
        if ":" in name:
            _check_function(what, name, folder / CODE)
    if config.optimizer.params and ":" not in config.optimizer.name:
        _check_params(config)


def _check_inputs(names: tuple[str, ...], manifest: Manifest) -> None:
    inputs = manifest.interface.get("inputs", {}).get("properties", {})
    for name in names:
        if name not in inputs:
            raise Unusable(f"groupBy: no input {name}; inputs are {', '.join(inputs)}")


def _check_params(config: OptimizationConfig) -> None:
    """DSPy knows its optimisers' parameters, and is not imported here."""
    asked = config.optimizer
    command = [sys.executable, "-m", "despina_runtime.optimization.params", asked.name, json.dumps(asked.params)]
    if said := subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout:
        raise Unusable(said)


def _check_function(what: str, name: str, code: Path) -> None:
    """`module:function`, in the version's code, or in a distribution, of which only the first name can be looked up
    without running it."""
    module, _, function = name.partition(":")
    file = code / module.replace(".", "/")
    found = next((path for path in (file.with_suffix(".py"), file / "__init__.py") if path.is_file()), None)
    if found is None and not (code / module.partition(".")[0]).exists() and _is_nowhere(module.partition(".")[0]):
        raise Unusable(f"{what} {name}: there is no module {module}, neither in the version's code nor installed")
    if found and not {function, "*", "__getattr__"} & set(_names_in(found)):
        raise Unusable(f"{what} {name}: {module} has no {function}")


def _is_nowhere(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except (ImportError, ValueError):
        return True


def _names_in(file: Path) -> Iterator[str]:
    """Everything that the source gives a name to, wherever."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        yield "*"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]

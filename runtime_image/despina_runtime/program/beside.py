"""What a program's code imports that neither the artefact holds nor an installation brings: files beside it.

On the laptop they are found, since Python looks beside the script; in a pod they are not there. Only what this very
process has imported counts, where the program was just tried out: what a type checker alone reads is not missing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IN_THE_IMAGE = {"despina", "despina_runtime", "dspy"}
INSTALLED = {"site-packages", "dist-packages"}


def check_complete(code: Path, requirements: Iterable[str], sources: Iterable[str | Path]) -> None:
    """Raise ValueError that says what else is to be logged. `code`: the folder; `sources`: what was copied there."""
    files = sorted(code.rglob("*.py"))
    held = {file.relative_to(code).parts[0].removesuffix(".py") for file in files}
    known = held | IN_THE_IMAGE | sys.stdlib_module_names | _installed(held, requirements)
    missing = {
        name: (file.relative_to(code), path)
        for file in files
        for name in _imported(file)
        if name not in known and (path := _path_of(sys.modules.get(name)))
    }
    if missing:
        said = ", ".join(f"{file} imports {name}" for name, (file, _) in missing.items())
        paths = [*map(str, sources), *(str(path) for _, path in missing.values())]
        raise ValueError(
            f"{said}, which the logged code does not hold, so that no pod could load it: pass code_paths={paths}, or"
            " name its distribution in requirements= where the image has it"
        )


def _imported(file: Path) -> Iterator[str]:
    """Top-level names."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _path_of(module: ModuleType | None) -> Path | None:
    """A module's file, or a package's folder, unless it is where installations put it."""
    folders = [*getattr(module, "__path__", ())]
    file = folders[0] if folders else getattr(module, "__file__", None)
    return Path(file) if file and not INSTALLED & {*Path(file).parts} else None


def _installed(held: Collection[str], requirements: Iterable[str]) -> set[str]:
    """Names that distributions bring, also those that are installed as links to their sources; but not the one that the
    logged code is itself part of, which no image has."""
    named = {canonicalize_name(Requirement(text).name) for text in requirements}
    by_name = metadata.packages_distributions()
    own = {canonicalize_name(found) for name in held for found in by_name.get(name, ())} - named
    brought = {name for name, found in by_name.items() if not own & {*map(canonicalize_name, found)}}
    return brought | {name.replace("-", "_") for name in named}

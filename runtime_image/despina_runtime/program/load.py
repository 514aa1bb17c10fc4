"""Loading one version of a registered model, whichever of the two kinds of artefact it is.

One process loads one version, ever: Python would silently give the second one the first one's modules.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import dspy
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import ValidationError

from despina.wire import FailureReason
from despina_runtime.program.artifact import CODE, MANIFEST, STATE, Manifest, sha256
from despina_runtime.program.errors import ProgramError
from despina_runtime.program.interface import Interface, interface_of

log = logging.getLogger(__name__)
ALLOW_LINE = "spec.security.pickle: Allow"


@dataclass(frozen=True)
class Loaded:
    """A program that can be called, and its interface."""

    program: dspy.Module
    interface: Interface
    example: dict[str, Any] | None = None
    is_async: bool = False
    """Whether it runs on the event loop; known after the warm-up."""


def load(folder: Path, allow_pickle: bool) -> Loaded:
    """Load a fetched artefact.

    Raises:
        ProgramError: the version cannot be served, with the reason.
    """
    try:
        if (folder / MANIFEST).exists():
            return load_despina(folder)
        return load_mlflow(folder, allow_pickle)
    except ProgramError:
        raise
    except Exception as exc:  # whatever the program's own code raises
        log.exception("Program could not be loaded")
        raise ProgramError(FailureReason.LOAD_FAILED, f"{type(exc).__name__}: {exc}") from exc


def load_despina(folder: Path) -> Loaded:
    """Load Despina's own format: verify, import, construct, restore the compiled state."""
    manifest = read_manifest(folder)
    check_requirements(manifest.requirements)
    sys.path.insert(0, str(folder / CODE))
    module, _, name = manifest.entrypoint.partition(":")
    factory: Any = importlib.import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    program = factory()
    program.load_state(json.loads((folder / STATE).read_bytes()))
    return Loaded(program, interface_of(program, manifest.signature), manifest.example)


def read_manifest(folder: Path) -> Manifest:
    """The manifest, once every file's digest is as it says."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as exc:
        where = ".".join(map(str, exc.errors()[0]["loc"]))
        raise ProgramError(FailureReason.ARTIFACT_CORRUPT, f"{MANIFEST}: {where} is not valid") from exc
    expected = {f"{CODE}/{f.path}": f.sha256 for f in manifest.code} | {STATE: manifest.state_sha256}
    for path, digest in expected.items():
        if not (folder / path).is_file() or sha256(folder / path) != digest:
            raise ProgramError(FailureReason.ARTIFACT_CORRUPT, f"{path} is not what {MANIFEST} says")
    return manifest


def check_requirements(requirements: tuple[str, ...]) -> None:
    """Say what is not installed before anything is imported. Nothing is ever installed at start."""
    missing = [r for r in requirements if not _is_met(r)]
    if missing:
        raise ProgramError(FailureReason.REQUIREMENTS_MISSING, f"not in the image: {', '.join(missing)}")


def _is_met(text: str) -> bool:
    try:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            return True
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def load_mlflow(folder: Path, allow_pickle: bool) -> Loaded:
    """Load what `mlflow.dspy.log_model` wrote.

    The public loader configures DSPy globally with the logged LM; the private one underneath does not.
    """
    if not allow_pickle:
        raise ProgramError(
            FailureReason.PICKLE_DENIED,
            f"written by mlflow.dspy.log_model, which is a pickle: add `{ALLOW_LINE}`, or log it with"
            " despina_runtime.log_program",
        )
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    from mlflow.dspy.load import _load_model

    program = _load_model(str(folder)).model
    for predictor in program.predictors():
        predictor.lm = None  # the manifest says which LM is used
    return Loaded(program, interface_of(program))

"""Despina's own model format: an MLflow model made of JSON and source files, with no pickle and no secret.

    despina.json      entry point, signature, code files with digests, requirements, the format's version
    state.json        what `dump_state()` gives (instructions, demonstrations), without any LM
    code/             the files that the entry point is imported from, all of them listed in despina.json
    requirements.txt  what must be installed beside dspy

Both formats of `mlflow.dspy.log_model` are pickles and hold the configured LM's API key in plain text.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from despina.wire import FailureReason
from despina_runtime.program.unservable import ProgramError

MANIFEST = "despina.json"
STATE = "state.json"
CODE = "code"
FLAVOR = "despina"


class CodeFile(BaseModel):
    """One source file of the artefact."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str


class Manifest(BaseModel):
    """What is in the artefact."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    entrypoint: str
    """`module:name` of a class or function that, called without arguments, gives the program."""
    signature: str | None = None
    """The declared signature; None when the program shows its own."""
    interface: dict[str, Any]
    """JSON Schemas of inputs and outputs, for readers that do not run the code."""
    code: tuple[CodeFile, ...] = ()
    state_sha256: str
    requirements: tuple[str, ...] = ()
    example: dict[str, Any] | None = Field(default=None)
    """Inputs for the warm-up."""
    dspy_version: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest, once every file's digest is as it says, and no other file is where code is imported from."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as exc:
        where = ".".join(map(str, exc.errors()[0]["loc"]))
        raise ProgramError(FailureReason.ARTIFACT_CORRUPT, f"{MANIFEST}: {where} is not valid") from exc
    expected = {f"{CODE}/{f.path}": f.sha256 for f in manifest.code} | {STATE: manifest.state_sha256}
    for path, digest in expected.items():
        if not (folder / path).is_file() or sha256(folder / path) != digest:
            raise ProgramError(FailureReason.ARTIFACT_CORRUPT, f"{path} is not what {MANIFEST} says")
    there = (p for p in (folder / CODE).rglob("*") if p.is_symlink() or not p.is_dir())
    if unlisted := sorted({str(p.relative_to(folder)) for p in there} - expected.keys()):
        raise ProgramError(FailureReason.ARTIFACT_CORRUPT, f"{MANIFEST} does not list {', '.join(unlisted)}")
    return manifest


def sha256(path: Path) -> str:
    """A file's digest, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

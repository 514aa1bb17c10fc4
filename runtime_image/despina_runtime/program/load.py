"""Loading one version of a registered model, whichever of the two kinds of artefact it is.

One process loads code once: Python would silently give a second version the first one's modules. So a version comes
beside another only where nothing but compiled state differs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import dspy
from packaging.requirements import InvalidRequirement, Requirement

from despina.wire import (
    DIGESTS_FILE,
    TOOLS_DIR,
    TOOLS_FILE,
    TOOLS_FILE_ENV,
    FailureReason,
    ModuleConfig,
    RuntimeConfig,
)
from despina_runtime import compat
from despina_runtime.paths import is_in
from despina_runtime.program.fetch import COMPLETE, folder_of
from despina_runtime.program.guarded import loading
from despina_runtime.program.interface import Interface, interface_of, module_interfaces, modules_of
from despina_runtime.program.manifest import CODE, MANIFEST, STATE, Manifest, read_manifest
from despina_runtime.program.served import prepare
from despina_runtime.program.unservable import ProgramError

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
    manifest: Manifest | None = None
    """What the artefact says of itself; None for a pickle."""
    modules: Mapping[str, Interface] = field(default_factory=dict)
    """Interfaces of those modules that show theirs, by path (`rewrite`, `steps[0]`, `answer.predict`)."""
    digest: str = ""
    """Of all that was loaded."""
    remark: str = ""
    """Why the warm-up told nothing of it, or which outputs were missing there; empty where neither is so."""


def load(folder: Path, config: RuntimeConfig, cache: Path, running: Loaded | None = None) -> Loaded:
    """Load a fetched artefact, in a fresh process or beside the one that is running.

    Raises:
        ProgramError: the version cannot be served, with the reason.
    """
    prepare(has_lm=bool(config.lms))
    compat.serve_decisions()
    try:
        if running:
            check_same_code(folder, running)
        digest = _digest_of([folder, *(folder_of(model, cache) for model in config.models[1:])])
        check_digest(digest, config)  # before anything of it runs
        return replace(_loaded(folder, config, cache), digest=digest)
    except ProgramError:
        raise
    except Exception as exc:  # whatever the program's own code raises
        log.exception("Program could not be loaded")
        raise ProgramError(FailureReason.LOAD_FAILED, f"{type(exc).__name__}: {exc}") from exc


def _loaded(folder: Path, config: RuntimeConfig, cache: Path) -> Loaded:
    if (folder / MANIFEST).exists():
        return load_despina(folder, config.modules, lambda version: _state_of(config, version, cache))
    if any(m.version for m in config.modules):
        text = "spec.modules: state of single modules needs models logged with despina_runtime.log_program"
        raise ProgramError(FailureReason.NOT_SWAPPABLE, text)
    loaded = load_mlflow(folder, config.allow_pickle)
    check_paths(loaded.program, (m.path for m in config.modules))
    return loaded


def check_digest(found: str, config: RuntimeConfig) -> None:
    """Raise ARTIFACT_CHANGED where a version is not what its revision was when it was first loaded, as the operator has
    noted beside the tools."""
    tools = os.environ.get(TOOLS_FILE_ENV) or f"{TOOLS_DIR}/{TOOLS_FILE}"
    try:
        known = json.loads(Path(tools).with_name(DIGESTS_FILE).read_bytes()).get(config.revision, found)
    except (OSError, ValueError, AttributeError):
        return
    if known != found:
        text = f"version {config.model.version} is not what it was when revision {config.revision} was first loaded:"
        raise ProgramError(
            FailureReason.ARTIFACT_CHANGED,
            f"{text} its files were changed where MLflow keeps them ({found}, not {known}); register a new version",
        )


def _digest_of(folders: Iterable[Path]) -> str:
    """Of all files that are loaded: a manifest has the digests of its own, and is held to them."""
    hashed = hashlib.sha256()
    for folder in folders:
        for path in [folder / MANIFEST] if (folder / MANIFEST).exists() else _all(folder):
            for part in (os.fsencode(path.relative_to(folder)), path.read_bytes()):
                hashed.update(hashlib.sha256(part).digest())
    return hashed.hexdigest()[:16]


def _all(folder: Path) -> list[Path]:
    """But for what a download puts beside them. Bytecode counts, for Python may prefer it to the code that is there."""
    beside = {folder / COMPLETE, folder / "registered_model_meta"}
    return sorted(p for p in folder.rglob("*") if p.is_file() and p not in beside)


def check_same_code(folder: Path, running: Loaded) -> None:
    """Raise CODE_CHANGED or NOT_SWAPPABLE unless only the compiled state differs: Python would go on with the code that
    it has imported."""
    before = running.manifest
    if before is None or not (folder / MANIFEST).exists():
        raise ProgramError(FailureReason.NOT_SWAPPABLE, "a pickle holds its code: its process serves no other version")
    now = read_manifest(folder)
    files = {f.path for f in set(before.code) ^ set(now.code)}
    parts = ("entrypoint", "signature", "requirements")
    changed = [*sorted(files), *(p for p in parts if getattr(before, p) != getattr(now, p))]
    if changed:
        raise ProgramError(FailureReason.CODE_CHANGED, f"changed: {', '.join(changed)}")


def _state_of(config: RuntimeConfig, version: str, cache: Path) -> dict[str, Any]:
    """The compiled state of another version of the same model."""
    folder = folder_of(config.model.model_copy(update={"version": version}), cache)
    if not (folder / MANIFEST).exists():
        text = f"spec.modules: version {version} was not logged with despina_runtime.log_program"
        raise ProgramError(FailureReason.NOT_SWAPPABLE, text)
    read_manifest(folder)
    return _read_state(folder)


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(compat.with_own_marks((folder / STATE).read_text()))
    return state


def check_paths(program: dspy.Module, paths: Iterable[str], field: str = "spec.modules") -> None:
    """Raise UNKNOWN_MODULE, with the paths that there are."""
    known = list(modules_of(program))
    unknown = [path for path in paths if path not in known]
    if unknown:
        text = f"{field}: the program has no {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        raise ProgramError(FailureReason.UNKNOWN_MODULE, text)


def with_modules(
    state: dict[str, Any], modules: Iterable[ModuleConfig], state_of: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """A program's state, with that of some modules taken from other versions."""
    for module in modules:
        if module.version is None:
            continue
        theirs = {k: v for k, v in state_of(module.version).items() if is_in(k, module.path)}
        if theirs.keys() != {k for k in state if is_in(k, module.path)}:
            text = f"spec.modules: version {module.version} has another {module.path}"
            raise ProgramError(FailureReason.UNKNOWN_MODULE, text)
        state = state | theirs
    return state


def load_despina(
    folder: Path, modules: tuple[ModuleConfig, ...] = (), state_of: Callable[[str], dict[str, Any]] = lambda _: {}
) -> Loaded:
    """Load Despina's own format: verify, import, construct, restore the compiled state."""
    manifest = read_manifest(folder)
    check_requirements(manifest.requirements)
    sys.dont_write_bytecode = True  # it would lie beside the code, as a file that nobody listed
    if str(folder / CODE) not in sys.path:
        sys.path.insert(0, str(folder / CODE))
    module, _, name = manifest.entrypoint.partition(":")
    with loading():
        factory: Any = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
        program = factory()
    # As the author wrote them: what it was compiled to, the state brings, and no caller is told.
    interface, of_modules = interface_of(program, manifest.signature), module_interfaces(program)
    check_paths(program, (m.path for m in modules))
    state = with_modules(_read_state(folder), modules, state_of)
    program.load_state(state)
    _forget_lms(program)
    return Loaded(program, interface, manifest.example, manifest=manifest, modules=of_modules)


def _forget_lms(program: dspy.Module) -> None:
    """The manifest says which LM is used: one of the state's would know no cache, breaker, price or deadline."""
    for predictor in program.predictors():
        predictor.lm = None


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
    sys.dont_write_bytecode = True  # it would be hashed, too
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    program = compat.load_mlflow_model(folder)
    _forget_lms(program)
    # Nobody knows which of a pickle's instructions are its author's, and which it was compiled to.
    modules = {path: i.without_instructions() for path, i in module_interfaces(program).items()}
    return Loaded(program, interface_of(program).without_instructions(), modules=modules)

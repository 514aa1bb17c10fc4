"""Writing a program in Despina's own format (`manifest.py` describes it), and logging it to MLflow."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import dspy
import orjson
from pydantic import ValidationError
from pydantic_core import to_json

from despina_runtime import compat
from despina_runtime.problem import by_field
from despina_runtime.program.beside import check_complete
from despina_runtime.program.guarded import check_guarded, check_not_loading
from despina_runtime.program.interface import Interface, interface_of
from despina_runtime.program.manifest import CODE, FLAVOR, MANIFEST, STATE, CodeFile, Manifest, sha256
from despina_runtime.program.registering import check_names

log = logging.getLogger(__name__)


def log_program(
    program: dspy.Module,
    name: str,
    *,
    entrypoint: str | None = None,
    signature: str | type[dspy.Signature] | None = None,
    code_paths: Sequence[str | Path] | None = None,
    requirements: Sequence[str] = (),
    input_example: dict[str, Any] | None = None,
    alias: str | None = None,
) -> int:
    """Log a program as a new version of the registered model `name`; returns the version's number.

    A copy of it is tried out as a pod will do, without its LMs, and what that finds is logged as a warning, and so is
    that an LM of its own is left out.

    Args:
        program: the program, compiled or not. Its LMs are left out: the manifest names those.
        entrypoint: `module:name` that makes the program when called without arguments; its class by default.
        signature: what it takes and gives, where the program does not show that itself.
        code_paths: source files and package folders that the entry point needs; its own module by default.
        requirements: further distributions, such as "httpx>=0.28"; a pod checks them before it loads.
        input_example: inputs for the warm-up; made up from the signature when left out.
        alias: an alias to move to the new version.

    Raises:
        ProgramError: the program's interface is unknown, or it can never give its outputs.
        ValueError: the example does not fit; the entry point cannot be found again in the code, or is not callable
            without arguments; or the code imports a file of yours that is not in it, or calls this as it is imported,
            or an output that is a decision has no description; or MLflow would refuse the name or the alias.
    """
    import mlflow
    from mlflow.models import Model

    check_not_loading()
    check_names(name, alias)
    text = _signature_text(signature)
    interface = interface_of(program, text)
    check_example(interface, input_example)
    for said in remarks_on(program, interface, input_example):
        log.warning("%s", said)
    info = Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=name,
        program=program,
        entrypoint=entrypoint,
        signature_text=text,
        code_paths=code_paths,
        requirements=requirements,
        input_example_json=input_example,
    )
    version = int(info.registered_model_version)
    if alias:
        mlflow.MlflowClient().set_registered_model_alias(name, alias, str(version))
    return version


def check_example(interface: Interface, example: dict[str, Any] | None) -> None:
    """Raise ValueError that names each field of an example that the program would refuse."""
    try:
        if example is not None:
            interface.inputs.model_validate_json(to_json(example))
    except ValidationError as exc:
        raise ValueError(f"input_example does not fit: {'; '.join(by_field(exc).values())}") from None


def remarks_on(program: dspy.Module, interface: Interface, example: dict[str, Any] | None) -> list[str]:
    """What its owner shall know, and what refuses nothing here: one sentence each."""
    owners = [name for name, predictor in program.named_predictors() if predictor.lm is not None]
    return [said for said in (_tried(program, interface, example), _of_own_lms(owners)) if said]


def _tried(program: dspy.Module, interface: Interface, example: dict[str, Any] | None) -> str:
    """What a pod would say of the program, in a thread: a notebook has an event loop of its own."""
    from despina_runtime.program.warmup import rehearse  # it needs what loads artefacts

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(rehearse, program, interface, example).result()


def _of_own_lms(owners: Sequence[str]) -> str:
    if not owners:
        return ""
    have = "have LMs of their own, which are" if len(owners) > 1 else "has an LM of its own, which is"
    return f"{', '.join(owners)} {have} not logged: pods ask spec.lm, or what spec.modules says for a module (lm: NAME)"


def save_model(path: str, mlflow_model: Any = None, **kwargs: Any) -> None:
    """Write the artefact; MLflow calls this with a folder of its own."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = write(folder, **kwargs)
    mlflow_model.add_flavor(FLAVOR, format=manifest.format, entrypoint=manifest.entrypoint)
    mlflow_model.save(str(folder / "MLmodel"))


def write(
    folder: Path,
    *,
    program: dspy.Module,
    entrypoint: str | None,
    signature_text: str | None,
    code_paths: Sequence[str | Path] | None,
    requirements: Sequence[str],
    input_example_json: dict[str, Any] | None,
) -> Manifest:
    """Write all of the artefact but MLflow's own MLmodel."""
    entry = entrypoint or _entrypoint_of(program)
    _check_can_be_made(program, entrypoint)
    for predictor in program.predictors():
        compat.check_decisions(predictor)
    sources = code_paths if code_paths is not None else [_source_of(program)]
    state = json.dumps(state_of(program), indent=1, sort_keys=True)
    code = tuple(_copy_code(sources, folder / CODE))
    check_guarded(_check_entrypoint(entry, code, folder / CODE))
    check_complete(folder / CODE, requirements, sources)
    (folder / STATE).write_text(state)
    (folder / "requirements.txt").write_text("".join(f"{r}\n" for r in requirements))
    manifest = Manifest(
        entrypoint=entry,
        signature=signature_text,
        interface=interface_of(program, signature_text).schema(),
        code=code,
        state_sha256=hashlib.sha256(state.encode()).hexdigest(),
        requirements=tuple(requirements),
        example=input_example_json,
        dspy_version=metadata.version("dspy"),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return manifest


def state_of(program: dspy.Module) -> dict[str, Any]:
    """The compiled state without any LM: DSPy's own dump keeps base URLs and AWS keys."""
    # As DSPy itself writes it: demonstrations may hold enumerations, moments and UUIDs.
    state: dict[str, Any] = orjson.loads(orjson.dumps(program.dump_state()))
    cleaned: dict[str, Any] = _without_lms(state)
    return cleaned


def _without_lms(node: Any) -> Any:
    """A module's `lm` stands beside its `signature`, or a Flex's source; a user's field named lm does not."""
    if isinstance(node, dict):
        is_module = bool({"signature", "demos", "module_src"} & node.keys())
        return {k: _without_lms(v) if not (k == "lm" and is_module) else None for k, v in node.items()}
    return [_without_lms(v) for v in node] if isinstance(node, list) else node


def _entrypoint_of(program: dspy.Module) -> str:
    cls = type(program)
    if cls.__module__.startswith("dspy."):
        raise ValueError(
            f"{cls.__name__} is one of DSPy's own modules: pass entrypoint='module:function' and code_paths, where"
            " the function gives the uncompiled program"
        )
    if "<locals>" in cls.__qualname__:
        raise ValueError(f"{cls.__qualname__} is defined inside a function: move it to the top of a module")
    return f"{_module_name(cls)}:{cls.__qualname__}"


def _check_can_be_made(program: dspy.Module, entrypoint: str | None) -> None:
    """A pod calls the class without arguments."""
    cls = type(program)
    if entrypoint is None and (missing := needed(cls)):
        raise ValueError(
            f"{cls.__qualname__} cannot be made without {', '.join(missing)}: give defaults, or pass"
            " entrypoint='module:function', where the function gives the uncompiled program"
        )


def needed(make: Callable[..., Any]) -> list[str]:
    """What a call of a class or function must be given."""
    if isinstance(make, type):
        parameters = [*inspect.signature(make.__init__).parameters.values()][1:]  # type: ignore[misc]
    else:
        parameters = [*inspect.signature(make).parameters.values()]
    return [p.name for p in parameters if _must_be_given(p)]


def _must_be_given(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _module_name(cls: type) -> str:
    """A script's module is __main__ only while it runs; in the artefact it goes by its file's name."""
    return _file_of(cls).stem if cls.__module__ == "__main__" else cls.__module__


def _file_of(cls: type) -> Path:
    try:
        file = Path(inspect.getfile(cls))
    except (OSError, TypeError):
        file = Path()
    if not file.is_file():
        raise ValueError(
            f"{cls.__qualname__} stands in no file, as in a notebook: write its code to one and import it from there"
        )
    return file


def _source_of(program: dspy.Module) -> Path:
    """The top of what must be copied so that the program's module can be imported."""
    cls = type(program)
    file = _file_of(cls)
    depth = _module_name(cls).count(".")
    return file.parents[depth - 1] if depth else file


def _copy_code(sources: Sequence[str | Path], target: Path) -> list[CodeFile]:
    target.mkdir()
    for source in map(Path, sources):
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, target / source.name, ignore=ignore)
        else:
            shutil.copy(source, target / source.name)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    return [CodeFile(path=str(p.relative_to(target)), sha256=sha256(p)) for p in files]


def _check_entrypoint(entrypoint: str, code: Sequence[CodeFile], folder: Path) -> Path:
    """The file that it names."""
    module, colon, name = entrypoint.partition(":")
    if not (module and colon and name):
        raise ValueError(f"entrypoint must be 'module:name', not {entrypoint!r}")
    path = module.replace(".", "/")
    found = {f"{path}.py", f"{path}/__init__.py"} & {file.path for file in code}
    if not found:
        raise ValueError(f"code_paths do not hold the module of entrypoint {entrypoint!r}")
    return folder / min(found)


def _signature_text(signature: str | type[dspy.Signature] | None) -> str | None:
    if signature is None or isinstance(signature, str):
        return signature
    return f"{_module_name(signature)}:{signature.__qualname__}"

"""The `despina-runtime` command: `serve` a program, in a pod or on a laptop; `log` one to MLflow; host `tools`.

Each command imports what it alone needs: a pod is served the sooner.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from despina.wire import (
    ADMIN_PORT,
    CACHE_DIR,
    CONFIG_FILE,
    EVALUATION_ENV,
    GENERATION_DIR,
    OPTIMIZATION_ENV,
    TOOL_HOST_ENV,
    DatasetConfig,
    ModelRef,
    OptimizationConfig,
    RuntimeConfig,
    ToolHostConfig,
)
from despina.wire.logs import LOG_FORMAT_ENV, set_up
from despina_runtime.http.server import EVERYWHERE
from despina_runtime.program.unservable import NotServable, ProgramError
from despina_runtime.tools.errors import NotATool
from despina_runtime.tracking import without_passwords

if TYPE_CHECKING:
    from despina.api.program import Program
    from despina_runtime.tools.functions import Function

OF_OPTIMIZATION: dict[str, tuple[str, ...]] = {
    "module": ("modules",),
    "optimizer": ("optimizer", "name"),
    "seed": ("optimizer", "seed"),
    "metric": ("metric",),
    "max_lm_calls": ("budget", "maxLMCalls"),
    "max_usd": ("budget", "maxUSD"),
    "seconds": ("budget", "maxSeconds"),
    "group_by": ("dataset", "groupBy"),
    "min_examples": ("promotion", "minExamples"),
}
"""Where in `spec.optimization` an option of `optimize` stands."""
OF_SERVER = "the MLflow server, in place of the manifest's; MLFLOW_TRACKING_URI says it where this does not"


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; the result is the exit code."""
    set_up(os.environ.get(LOG_FORMAT_ENV))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (NotServable, NotATool, ProgramError, ImportError, OSError, ValueError) as exc:
        sys.stderr.write(f"despina-runtime: {without_passwords(_explain(exc))}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="despina-runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a program")
    what = serve.add_mutually_exclusive_group(required=True)
    what.add_argument("-f", "--file", type=Path, help="a DSPyProgram manifest: serve it here, without a cluster")
    what.add_argument("--config", type=Path, help="the configuration that the operator wrote: serve it in a pod")
    serve.add_argument("--host", default="127.0.0.1", help="with -f: the address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=8080, help="with -f: the port to listen on (%(default)s)")
    serve.add_argument("--tracking-uri", help="with -f: " + OF_SERVER)
    serve.add_argument(
        "--secrets", type=Path, default=Path("secrets"), help="with -f: a folder of SECRET/KEY files (%(default)s)"
    )
    serve.add_argument("--lm-base-url", help="with -f: an OpenAI-compatible server in place of the manifest's")
    serve.add_argument(
        "--poll-seconds", type=float, default=2.0, help="with -f: how often the alias is looked up (%(default)s)"
    )
    serve.add_argument(
        "--admin-port", type=int, help="with -f: a port of 127.0.0.1, by which `despina dashboard --local` shows it"
    )
    serve.set_defaults(run=_serve)
    tools = commands.add_parser("tools", help="host the functions of Python packages as tools")
    tools.add_argument(
        "packages", nargs="*", metavar="PACKAGE", help=f"Python packages; in a pod, {TOOL_HOST_ENV} says"
    )
    tools.add_argument("--host", default="127.0.0.1", help="with packages: the address to listen on (%(default)s)")
    tools.add_argument("--port", type=int, default=8090, help="with packages: the port to listen on (%(default)s)")
    tools.set_defaults(run=_tools)
    contract = commands.add_parser("contract", help="print DSPyTool manifests for the functions of Python packages")
    contract.add_argument("packages", nargs="+", metavar="PACKAGE")
    contract.set_defaults(run=_contract)
    evaluate = commands.add_parser(
        "evaluate", help=f"score a version on examples: only in the Job of an Evaluate gate, by {EVALUATION_ENV}"
    )
    evaluate.set_defaults(run=_evaluate)
    _add_optimize(commands.add_parser("optimize", help="make a better version of a program from labelled predictions"))
    feedback = commands.add_parser("feedback", help="say what was right and what was wrong")
    ways = feedback.add_subparsers(dest="way", required=True)
    given = ways.add_parser("give", help="a label for one answer")
    given.add_argument("prediction", help="the answer's name, as the header despina-prediction-id has it")
    given.add_argument("label", choices=["success", "failure"])
    given.add_argument("--url", default="http://localhost:8080", help="where the program is served (%(default)s)")
    given.add_argument("--reason", default="", help="why, in words")
    given.add_argument("--expected", type=_object, help="what the outputs should have been, as a JSON object")
    given.add_argument("--source", default="", help="who says so")
    given.set_defaults(run=_give)
    taken = ways.add_parser("import", help="labels that exist already, as JSON Lines: inputs, expected, label, reason")
    taken.add_argument("labels", type=argparse.FileType("r"), metavar="FILE")
    taken.add_argument("-f", "--file", type=Path, required=True, help="the DSPyProgram manifest")
    taken.add_argument("--tracking-uri", help=OF_SERVER)
    taken.set_defaults(run=_import, lm_base_url=None)
    log = commands.add_parser("log", help="log a program to the MLflow server that MLFLOW_TRACKING_URI names")
    log.add_argument("entrypoint", help="module:name that makes the program when called without arguments")
    log.add_argument("--name", required=True, help="the registered model's name")
    log.add_argument("--state", type=Path, help="compiled state, as program.save('state.json') writes it")
    log.add_argument("--signature", help="'question -> answer' or module:Class, if the program does not show its own")
    log.add_argument("--code", type=Path, action="append", help="a file or folder that the entry point needs")
    log.add_argument("--requirement", action="append", default=[], help="a distribution that the program needs")
    log.add_argument("--alias", help="an alias to move to the new version")
    log.set_defaults(run=_log)
    return parser


def _add_optimize(optimize: argparse.ArgumentParser) -> None:
    optimize.add_argument(
        "-f",
        "--file",
        type=Path,
        help="a DSPyProgram manifest, by whose spec.optimization all is done that no option says otherwise;"
        f" without one, {OPTIMIZATION_ENV} says what to do",
    )
    optimize.add_argument("--labels", type=Path, help="labelled predictions, as JSON Lines, in place of MLflow's")
    optimize.add_argument("--golden", type=Path, help="examples from elsewhere, at which nothing may get worse")
    optimize.add_argument("--module", action="append", help="a module that may change; all without any")
    optimize.add_argument("--optimizer", help="DSPy's name, or module:function")
    optimize.add_argument("--param", action="append", default=[], help="NAME=JSON, for the optimiser")
    optimize.add_argument("--seed", type=int, help="for the optimiser")
    optimize.add_argument("--metric", help="ExactMatch, F1, Contains or module:function")
    optimize.add_argument("--max-lm-calls", type=int, help="how many attempts to ask an LM may be made")
    optimize.add_argument("--max-usd", help="what they may cost by the manifest's prices")
    optimize.add_argument("--seconds", type=int, help="after which no LM is asked any more")
    optimize.add_argument("--group-by", action="append", help="an input by which rows belong together")
    optimize.add_argument("--min-examples", type=int, help="held-out rows that a verdict needs")
    optimize.add_argument("--tracking-uri", help=OF_SERVER)
    optimize.add_argument(
        "--secrets", type=Path, default=Path("secrets"), help="a folder of SECRET/KEY files (%(default)s)"
    )
    optimize.add_argument("--lm-base-url", help="an OpenAI-compatible server in place of the manifest's")
    optimize.set_defaults(run=_optimize)


def _optimize(args: argparse.Namespace) -> int:
    from despina_runtime.manifests import parsed
    from despina_runtime.optimization.job import optimize, optimize_job, tell

    if args.file is None and OPTIMIZATION_ENV not in os.environ:
        raise NotServable(f"optimize needs -f MANIFEST; without one, {OPTIMIZATION_ENV} says what to do, as in a Job")
    if args.file is None:
        return asyncio.run(optimize_job(Path(CACHE_DIR), EVERYWHERE, ADMIN_PORT))
    manifest = _manifest(args)
    program = _asking(parsed(manifest), manifest["spec"].get("optimization") or {}, args)
    with tempfile.TemporaryDirectory(prefix="despina-models-") as cache:
        config = asyncio.run(_optimization(program, args, Path(cache)))
        return tell(asyncio.run(optimize(config, Path(cache))))


def _asking(program: Program, asked: dict[str, Any], args: argparse.Namespace) -> Program:
    """A program with `spec.optimization` as it is given, where no option says otherwise."""
    from despina.api.optimization import Optimization
    from despina_runtime.manifests import part, told

    for option, (*ways, name) in OF_OPTIMIZATION.items():
        if (value := getattr(args, option)) is not None:
            part(asked, ways)[name] = value
    if args.param:
        part(asked, ["optimizer", "params"]).update(map(_param, args.param))
    if "maxLMCalls" not in asked.get("budget", {}):
        raise NotServable("optimize needs --max-lm-calls where the manifest has no spec.optimization")
    try:
        optimization = Optimization.model_validate(asked)
    except ValidationError as exc:
        raise NotServable("; ".join(told(e, ("spec", "optimization")) for e in exc.errors(include_url=False))) from None
    spec = program.spec.model_copy(update={"optimization": optimization})
    return program.model_copy(update={"spec": spec})


async def _optimization(program: Program, args: argparse.Namespace, folder: Path) -> OptimizationConfig:
    """What is asked of the version that the manifest means now. The folder is for what is read once."""
    from despina.api.optimizing import optimization_config
    from despina_runtime.process.follow import config_of

    config = optimization_config(program, await config_of(program, args.secrets), None, None, "")
    labels, golden, feedback = config.labels, config.golden, program.spec.feedback
    if args.labels:
        labels = labels.model_copy(update={"file": str(args.labels), "experiment": None})
    elif feedback is None or feedback.sink.json_lines:
        raise NotServable("optimize needs --labels where no spec.feedback brings them to MLflow")
    if args.golden:
        golden = DatasetConfig(file=str(shutil.copy(args.golden, folder / "golden.jsonl")))
    elif golden and golden.file is not None:
        raise NotServable("dataset.goldenRef names a ConfigMap, which only a cluster has: give its rows with --golden")
    return config.model_copy(update={"labels": labels, "golden": golden})


def _param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise NotServable(f"--param takes NAME=JSON, not {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        raise NotServable(f"--param {text}: {value!r} is no JSON; a text has quotes: --param '{name}=\"…\"'") from None


def _serve(args: argparse.Namespace) -> int:
    if args.config:
        from despina_runtime.process.supervisor import latest, serve_pod

        config = RuntimeConfig.model_validate_json(args.config.read_bytes())
        set_up(os.environ.get(LOG_FORMAT_ENV) or config.log_format, program=config.program)
        generation = Path(GENERATION_DIR) / CONFIG_FILE
        return asyncio.run(serve_pod(latest(config, generation), Path(CACHE_DIR)))
    from despina_runtime.manifests import parsed
    from despina_runtime.process.follow import follow

    program, more = parsed(_manifest(args)), (args.secrets, args.poll_seconds, args.admin_port)
    return asyncio.run(follow(program, args.host, args.port, *more))


def _tools(args: argparse.Namespace) -> int:
    import uvloop

    from despina_runtime.toolhost.host import serve_tools

    given = os.environ.get(TOOL_HOST_ENV)
    if not args.packages and given:
        return int(uvloop.run(serve_tools(ToolHostConfig.model_validate_json(given))))
    if not args.packages:
        raise NotATool("name at least one Python package")
    sys.path.insert(0, str(Path.cwd()))
    config = ToolHostConfig(tool="local", packages=tuple(args.packages), port=args.port, drain_seconds=0)
    return int(uvloop.run(serve_tools(config, args.host, admin_port=None)))


def _contract(args: argparse.Namespace) -> int:
    import yaml

    from despina_runtime.tools.functions import find_tools

    sys.path.insert(0, str(Path.cwd()))
    documents = [manifest_of(f, package) for package in args.packages for f in find_tools([package]).values()]
    yaml.safe_dump_all(documents, sys.stdout, sort_keys=False)
    return 0


def manifest_of(function: Function, package: str) -> dict[str, Any]:
    """A DSPyTool that hosts a function; its idempotency is for its author to say."""
    from despina.api import API_VERSION

    contract: dict[str, Any] = {"name": function.name, "description": function.description}
    contract |= {"parameters": function.parameters, "returns": function.returns, "idempotency": "NonIdempotent"}
    return {
        "apiVersion": API_VERSION,
        "kind": "DSPyTool",
        "metadata": {"name": function.name},
        "spec": {
            "contract": contract,
            "backends": [{"name": "pods", "deployment": {"toolPackages": [package]}}],
        },
    }


def _evaluate(_: argparse.Namespace) -> int:
    from despina_runtime.evaluation.job import evaluate

    if EVALUATION_ENV not in os.environ:
        raise NotServable(f"evaluate is for the Job of an Evaluate gate, which the operator tells by {EVALUATION_ENV}")
    return asyncio.run(evaluate(Path(CACHE_DIR), EVERYWHERE, ADMIN_PORT))


def _give(args: argparse.Namespace) -> int:
    import httpx

    if not args.url.startswith(("http://", "https://")):
        raise NotServable(f"--url {args.url}: it begins with http:// or https://")
    body = {"prediction_id": args.prediction, "label": args.label, "reason": args.reason, "source": args.source}
    body |= {"expected": args.expected} if args.expected is not None else {}
    try:
        answer = httpx.post(f"{args.url.rstrip('/')}/feedback", json=body, timeout=30)
        said = _of_program(answer.json(), {"status"} if answer.status_code == 202 else {"title", "detail"})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        raise NotServable(f"no program answers at {args.url}: {type(exc).__name__}; --url says where it is") from None
    if answer.status_code != 202:
        raise NotServable(": ".join(str(said[name]) for name in ("title", "detail") if said.get(name)))
    sys.stdout.write(f"{args.prediction} {said['status']}\n")
    return 0


def _object(text: str) -> dict[str, Any]:
    """An option's JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"is no JSON object: {text}")
    return found


def _of_program(said: Any, names: set[str]) -> dict[str, Any]:
    """An answer that has one of the names at least; raises ValueError for what no program says."""
    if isinstance(said, dict) and names & said.keys():
        return said
    raise ValueError("no program's")


def _import(args: argparse.Namespace) -> int:
    from despina.api.revision import revision_of, runtime_config
    from despina_runtime.feedback.importing import read_lines, take_in
    from despina_runtime.feedback.sink import Away, MLflowSink, Refused
    from despina_runtime.manifests import parsed

    program = parsed(_manifest(args))
    model = ModelRef(name=program.name, version="0", tracking_uri=program.spec.source.mlflow.tracking_uri or "")
    config = runtime_config(program, revision_of(program, model))
    experiment = config.feedback.experiment if config.feedback else f"{program.namespace}/{program.name}"

    async def take() -> int:
        sink = MLflowSink(config, experiment)
        try:
            return await take_in([*read_lines(args.labels)], sink, experiment)
        finally:
            await sink.close()

    try:
        sys.stdout.write(f"{asyncio.run(take())} labels in the experiment {experiment}\n")
    except (Away, Refused) as exc:
        raise NotServable(str(exc)) from None
    return 0


def _manifest(args: argparse.Namespace) -> dict[str, Any]:
    """The file's, with what differs on this machine: addresses that only a cluster can resolve. Raises NotServable."""
    from despina_runtime.manifests import part, put_server, read_manifest

    manifest = read_manifest(args.file)
    put_server(manifest, args.tracking_uri)
    if args.lm_base_url:
        lms = part(manifest, ["spec"]).get("lms")
        for lm in lms if isinstance(lms, list) else ():
            if isinstance(lm, dict):
                lm["baseURL"] = args.lm_base_url
    return manifest


def _log(args: argparse.Namespace) -> int:
    from despina_runtime.program.artifact import log_program
    from despina_runtime.program.named import make_program
    from despina_runtime.program.registering import check_names, told_in_a_line

    check_names(args.name, args.alias)  # before their code runs
    program = make_program(args.entrypoint, args.state)
    with told_in_a_line():
        version = log_program(
            program,
            args.name,
            entrypoint=args.entrypoint,
            signature=args.signature,
            code_paths=args.code,
            requirements=args.requirement,
            alias=args.alias,
        )
    sys.stdout.write(f"{args.name} version {version}\n")
    return 0


def _explain(exc: Exception) -> str:
    """One line a mistake; for a manifest, each with the field's path."""
    if isinstance(exc, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False))
    return str(exc)


if __name__ == "__main__":
    sys.exit(main())

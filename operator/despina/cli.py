"""The `despina` command: run the operator or the page for people, say why a program is as it is, print the CRDs or what
a manifest becomes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from despina.api import GROUP
from despina.api.crd import program_crd, tool_crd
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.status import ProgramStatus
from despina.api.tool import Tool, ToolStatus
from despina.cluster.errors import ClusterError
from despina.decide.observed import Defaults, Observed, Resolution
from despina.decide.plan import Action, Apply, Create, each
from despina.decide.rollout import decide
from despina.decide.snapshot import Snapshot, SnapshotError, dump, load
from despina.decide.tool import ObservedTool, decide_tool
from despina.status.why import explain, printable
from despina.wire.logs import set_up

Found = TypeVar("Found", bound=BaseModel)


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="despina", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("operator", help="run the operator")
    page = commands.add_parser("dashboard", help="run the page for people")
    page.add_argument("--open", action="store_true", help="for everybody on this machine: loopback only, no sign-in")
    page.add_argument("--prometheus-url", metavar="URL", help="where curves come from, instead of its memory")
    page.add_argument("--prometheus-credentials", metavar="FOLDER", help="with token and ca.crt, as far as needed")
    page.add_argument(
        "--local", type=int, metavar="PORT", help="without a cluster: what serve -f --admin-port PORT serves here"
    )
    files = commands.add_parser("crds", help="print the CustomResourceDefinitions")
    files.add_argument("--folder", type=Path, help="write a file for each instead")
    show = commands.add_parser("render", help="print the objects that the programs and tools of a file would give")
    show.add_argument("file", type=Path)
    show.add_argument("--version", default="1", help="the model version to assume")
    look = commands.add_parser("why", help="say what a program waits for, and what the next pass will do")
    look.add_argument("name", nargs="?", help="the program, which is looked at with your own kubeconfig")
    look.add_argument("-n", "--namespace", help="its namespace; that of the present context when left out")
    look.add_argument("-f", "--file", type=Path, metavar="SNAPSHOT", help="a saved snapshot, instead of a cluster")
    look.add_argument("--save", type=Path, metavar="FILE", help="write what was seen, without secrets, to a file")
    args = parser.parse_args(argv)
    match args.command:
        case "operator":
            _operate(parser)
        case "dashboard":
            given = {"prometheus_url": args.prometheus_url, "prometheus_credentials": args.prometheus_credentials}
            if args.local is not None and (args.open or any(given.values())):
                page.error("--local shows what is served here, on loopback, from its memory: it takes no other option")
            _show(parser, args.open, args.local, {name: value for name, value in given.items() if value})
        case "crds":
            _write_crds(args.folder)
        case "render":
            try:
                sys.stdout.write(render(args.file, args.version))
            except (ValueError, yaml.YAMLError, OSError) as exc:
                parser.exit(1, f"{args.file}: {exc}\n")
        case "why":
            if (args.name is None) == (args.file is None):
                look.error("name a program, or a snapshot with -f")
            try:
                snapshot = _saved(args.file) if args.file else _looked(args.namespace, args.name)
                if args.save:
                    args.save.write_text(dump(snapshot))
            except (ClusterError, SnapshotError, OSError) as exc:
                parser.exit(1, f"despina why: {printable(str(exc))}\n")
            except ImportError as exc:
                parser.exit(1, f"despina why: {exc.name} is not installed: pip install '.[operator]' brings it\n")
            sys.stdout.write(why(snapshot))


def why(snapshot: Snapshot) -> str:
    """A snapshot in sentences, and what was not seen for it."""
    o, now = snapshot.observed, snapshot.now
    return "\n".join([*explain(o, decide(o, now), now), *(printable(f"({text})") for text in snapshot.unseen), ""])


def _saved(path: Path) -> Snapshot:
    try:
        return load(path.read_bytes())
    except SnapshotError as exc:
        raise SnapshotError(f"{path}: {exc}") from exc


def _looked(namespace: str | None, name: str) -> Snapshot:
    from despina.cluster.client import Onlooker, present_namespace  # the client is not needed for the other commands
    from despina.reconcile.look import look

    logging.disable()  # the client logs what the one line of an error says

    async def seen() -> Snapshot:
        cluster = await Onlooker.connect()
        try:
            return await look(cluster, namespace or present_namespace(), name, time.time())
        finally:
            await cluster.close()

    return asyncio.run(seen())


def _write_crds(folder: Path | None) -> None:
    if folder is None:
        sys.stdout.write("---\n".join(crds().values()))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in crds().items():
        (folder / name).write_text(text)


def crds() -> dict[str, str]:
    """The CRDs as YAML, by file name; `crds/` and the chart hold these files."""
    made = (program_crd(), tool_crd())
    return {f"{GROUP}_{c['spec']['names']['plural']}.yaml": str(yaml.safe_dump(c, sort_keys=False)) for c in made}


def render(path: Path, version: str) -> str:
    """The objects of the first pass over each program and tool."""
    manifests = [m for m in yaml.safe_load_all(path.read_text()) if m]
    if not all(isinstance(m, dict) for m in manifests):
        raise ValueError("every document must be a manifest")
    documents = [
        a.document for m in manifests for a in each(_first_actions(m, version)) if isinstance(a, Create | Apply)
    ]
    return str(yaml.safe_dump_all(documents, sort_keys=False))


def _first_actions(manifest: dict[str, Any], version: str) -> Iterable[Action]:
    defaults = Defaults(runtime_image="despina-runtime", tracking_uri="http://mlflow:5000")
    if manifest.get("kind") == Tool.kind:
        tool = Tool.parse(manifest)
        # Pools are the operator's configuration, which a manifest alone does not tell.
        pools = {b.placement.profile: PlacementProfile() for b in tool.spec.backends if b.placement}
        return decide_tool(ObservedTool(tool, ToolStatus(), replace(defaults, profiles=pools))).actions
    program, model = Program.parse(manifest), Resolution(version, "ModelFound")  # type: ignore[arg-type]
    return decide(Observed(program, ProgramStatus(), defaults, model), now=0.0).actions


def _operate(parser: argparse.ArgumentParser) -> None:
    from despina.main import run  # kopf and the client are not needed for the other commands
    from despina.settings import Settings

    settings = _settings(parser, Settings)
    set_up(settings.log_format, quotes_errors=True)
    for chatty in ("httpx", "kopf.objects", "kopf.activities"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it writes tracebacks of what tools' servers answer
    asyncio.run(run(settings))


def _show(parser: argparse.ArgumentParser, is_open: bool, local: int | None, given: Mapping[str, str]) -> None:
    try:
        from despina.dashboard.local import run_local
        from despina.dashboard.run import run  # aiohttp and jinja2 are not needed for the other commands
        from despina.settings import DashboardSettings
    except ImportError as exc:
        parser.exit(1, f"despina dashboard: {exc.name} is not installed: pip install '.[operator]' brings it\n")
    settings = _settings(parser, DashboardSettings, given)
    set_up(settings.log_format, quotes_errors=True)
    try:
        asyncio.run(run(settings, is_open) if local is None else run_local(settings, local))
    except (ClusterError, OSError) as exc:
        parser.exit(1, f"despina dashboard: {printable(str(exc))}\n")


def _settings(
    parser: argparse.ArgumentParser, kind: type[Found], given: Mapping[str, str] = MappingProxyType({})
) -> Found:
    try:
        return kind(**given)
    except ValidationError as exc:
        names = ((str(e["loc"][0]).upper().removeprefix("DESPINA_"), e["msg"]) for e in exc.errors())
        parser.exit(1, "".join(f"DESPINA_{name}: {text}\n" for name, text in names))


if __name__ == "__main__":
    main()

"""The `despina` command: run the operator, print the CRDs, show what a manifest would become."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from despina.api import GROUP
from despina.api.crd import program_crd, tool_crd
from despina.api.program import Program, ProgramStatus
from despina.api.tool import Tool, ToolStatus
from despina.decide.observed import Defaults, Observed, Resolution
from despina.decide.plan import Action, Apply, Create
from despina.decide.rollout import decide
from despina.decide.tool import ObservedTool, decide_tool


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="despina", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator")
    files = commands.add_parser("crds", help="print the CustomResourceDefinitions")
    files.add_argument("--folder", type=Path, help="write a file for each instead")
    render = commands.add_parser("render", help="print the objects that a manifest would give")
    render.add_argument("file", type=Path)
    render.add_argument("--version", default="1", help="the model version to assume")
    args = parser.parse_args(argv)
    match args.command:
        case "run":
            _run()
        case "crds":
            _write_crds(args.folder)
        case "render":
            sys.stdout.write(render_manifest(args.file, args.version))


def _write_crds(folder: Path | None) -> None:
    if folder is None:
        sys.stdout.write("---\n".join(crds().values()))
        return
    for name, text in crds().items():
        (folder / name).write_text(text)


def crds() -> dict[str, str]:
    """The CRDs as YAML, by file name; `crds/` and the chart hold these files."""
    made = (program_crd(), tool_crd())
    return {f"{GROUP}_{c['spec']['names']['plural']}.yaml": str(yaml.safe_dump(c, sort_keys=False)) for c in made}


def render_manifest(path: Path, version: str) -> str:
    """The objects of a program's, or a tool's, first pass."""
    manifest = yaml.safe_load(path.read_text())
    defaults = Defaults(runtime_image="despina-runtime", tracking_uri="http://mlflow:5000")
    if manifest.get("kind") == Tool.kind:
        observed_tool = ObservedTool(Tool.parse(manifest), ToolStatus(), defaults)
        return _dumped(decide_tool(observed_tool).actions)
    program = Program.parse(manifest)
    observed = Observed(
        program=program,
        status=ProgramStatus(),
        defaults=defaults,
        model=Resolution(version, "ModelFound"),  # type: ignore[arg-type]
    )
    return _dumped(decide(observed, now=0.0).actions)


def _dumped(actions: Iterable[Action]) -> str:
    documents = [a.document for a in actions if isinstance(a, Create | Apply)]
    return str(yaml.safe_dump_all(documents, sort_keys=False))


def _run() -> None:
    from despina.main import run  # kopf and the client are not needed for the other commands
    from despina.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "kopf.objects", "kopf.activities"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    asyncio.run(run(Settings()))


if __name__ == "__main__":
    main()

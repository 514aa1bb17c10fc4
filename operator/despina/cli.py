"""The `despina` command: run the operator, print the CRDs, show what a manifest would become."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from despina.api import GROUP
from despina.api.crd import program_crd, tool_crd
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.status import ProgramStatus
from despina.api.tool import Tool, ToolStatus
from despina.decide.observed import Defaults, Observed, Resolution
from despina.decide.plan import Action, Apply, Create, each
from despina.decide.rollout import decide
from despina.decide.tool import ObservedTool, decide_tool


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="despina", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("operator", help="run the operator")
    files = commands.add_parser("crds", help="print the CustomResourceDefinitions")
    files.add_argument("--folder", type=Path, help="write a file for each instead")
    show = commands.add_parser("render", help="print the objects that the programs and tools of a file would give")
    show.add_argument("file", type=Path)
    show.add_argument("--version", default="1", help="the model version to assume")
    args = parser.parse_args(argv)
    match args.command:
        case "operator":
            _operate()
        case "crds":
            _write_crds(args.folder)
        case "render":
            try:
                sys.stdout.write(render(args.file, args.version))
            except (ValueError, yaml.YAMLError, OSError) as exc:
                parser.exit(1, f"{args.file}: {exc}\n")


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


def render(path: Path, version: str) -> str:
    """The objects of the first pass over each program and tool."""
    manifests = [m for m in yaml.safe_load_all(path.read_text()) if m]
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


def _operate() -> None:
    from despina.main import run  # kopf and the client are not needed for the other commands
    from despina.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "kopf.objects", "kopf.activities"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    asyncio.run(run(Settings()))


if __name__ == "__main__":
    main()

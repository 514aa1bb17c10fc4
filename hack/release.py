"""Running the example's `release.py` against a server: one version logged, the alias moved."""

from __future__ import annotations

import os
from collections.abc import Sequence

from services import BIN, QUIET
from tools import ROOT, run

EXAMPLE = ROOT / "examples" / "ticket-triage"


def release(kind: str, tracking_uri: str, lm: dict[str, str], prefix: Sequence[str] = ()) -> str:
    """Log a version of ticket-triage (`uncompiled` or `compiled`); returns its number."""
    env = {**os.environ, **QUIET, "MLFLOW_TRACKING_URI": tracking_uri, **lm}
    python = str(BIN / "python")
    out = run([*prefix, python, "release.py", kind], cwd=EXAMPLE, env=env, capture=True)
    return out.strip().splitlines()[-1]


def release_command(tracking_uri: str, lm: dict[str, str], prefix: Sequence[str] = ()) -> list[str]:
    """The command line that does so, but for the kind. A key of the LM it takes from whoever runs it."""
    env = {**QUIET, "MLFLOW_TRACKING_URI": tracking_uri, **lm}
    given = [f"{name}={value}" for name, value in env.items() if name != "LM_API_KEY"]
    return [*prefix, "env", f"--chdir={EXAMPLE}", *given, str(BIN / "python"), "release.py"]


def lm_environment(base_url: str) -> dict[str, str]:
    """The LM that LM, LM_BASE_URL and LM_API_KEY name, or the stand-in."""
    if os.environ.get("LM"):
        names = ("LM", "LM_BASE_URL", "LM_API_KEY")
        return {name: os.environ[name] for name in names if os.environ.get(name)}
    return {"LM": "openai/stand-in", "LM_BASE_URL": base_url}

"""Small tools of all scripts here: where things are, telling the user, waiting, running commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AXE_CORE, LIGHTHOUSE = "4.14.1", "12.8.2"
CACHE = Path(os.environ.get("DESPINA_CACHE", Path.home() / ".cache" / "despina"))


class Failed(Exception):
    """A step failed; the text says what and where the log is."""


def say(text: str) -> None:
    """Tell the user."""
    print(text, flush=True)


def wait_for(what: str, is_done, seconds: float):
    """Wait until `is_done()` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        found = is_done()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.1)


def run(command: list[str], *, capture=False, quiet=False, check=True, **kwargs) -> str:
    """Run a command; a failure shows the end of what it printed."""
    piped = subprocess.PIPE if capture or quiet else None
    errors = subprocess.STDOUT if quiet else piped
    done = subprocess.run(command, stdout=piped, stderr=errors, text=True, check=False, **kwargs)
    if done.returncode and check:
        tail = ((done.stderr or "") + (done.stdout or ""))[-3000:] if piped else ""
        raise Failed(f"{' '.join(command[:6])} … ended with {done.returncode}\n{tail}")
    if quiet:
        return "" if done.returncode == 0 else "failed"
    return done.stdout or ""


def install_packages(wanted: Sequence[str]) -> None:
    """Debian packages that are not there yet."""
    listed = run(["dpkg-query", "-W", "-f", "${Package} ${Status}\n"], capture=True)
    present = {line.split()[0] for line in listed.splitlines() if line.endswith("install ok installed")}
    missing = [p for p in wanted if p not in present]
    if missing:
        say(f"Installing Debian packages: {' '.join(missing)}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=env)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=env, quiet=True)


def unpacked(package: str) -> Path:
    """The files of a Debian package, in the cache. It is not installed, so that none of its services starts."""
    folder = CACHE / "packages" / package
    if not folder.exists():
        say(f"Unpacking the Debian package {package}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as there:
            run(["apt-get", "update", "-qq"])
            run(["apt-get", "download", "-qq", package], cwd=there, quiet=True)
            (archive,) = Path(there).glob("*.deb")
            run(["dpkg-deb", "--extract", str(archive), f"{there}/files"])
            os.replace(f"{there}/files", folder)
    return folder


def fetch_axe() -> Path | None:
    """axe-core, which looks for what keeps people from using the page; nothing where there is no npm."""
    folder = CACHE / "axe"
    script = folder / "package" / "axe.min.js"
    if not script.exists() and shutil.which("npm"):
        folder.mkdir(parents=True, exist_ok=True)
        if run(["npm", "pack", "--silent", f"axe-core@{AXE_CORE}"], quiet=True, check=False, cwd=folder) == "":
            run(["tar", "-xzf", f"axe-core-{AXE_CORE}.tgz"], quiet=True, check=False, cwd=folder)
    return script if script.exists() else None


def fetch_lighthouse() -> Path | None:
    """Lighthouse, which scores a page; nothing where there is no npm, or no node that is new enough."""
    folder = CACHE / f"lighthouse-{LIGHTHOUSE}"
    script = folder / "node_modules" / "lighthouse" / "cli" / "index.js"
    if not script.exists() and shutil.which("npm"):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", f"--prefix={folder}"]
        run([*command, f"lighthouse@{LIGHTHOUSE}"], quiet=True, check=False, cwd=folder)
    return script if script.exists() else None

"""Building the two images from the repository's Dockerfile, without a container engine's daemon.

buildah and a Debian base made by mmdebstrap stand in where no public image can be pulled. An image is named by
the digest of what it is made from, so that a build that was made is not made again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tools import CACHE, ROOT, run, say

INPUTS = {
    "operator": ("Dockerfile", "locks/operator.txt", "operator/despina"),
    "runtime": ("Dockerfile", "locks/runtime.txt", "operator/despina", "runtime_image/despina_runtime"),
}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def tag_of(target: str) -> str:
    """The image's name, from what it is made of."""
    digest = hashlib.sha256()
    for top in INPUTS[target]:
        path = ROOT / top
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return f"localhost/despina-{target}:{digest.hexdigest()[:12]}"


def build_archive(target: str) -> Path:
    """The image as a docker-archive, built if it is not there yet."""
    tag = tag_of(target)
    archive = CACHE / "images" / f"{tag.rpartition('/')[2].replace(':', '-')}.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    base = _base_image()
    say(f"Building image {tag}")
    args = ["--build-arg", f"BASE_IMAGE={base}", "--target", target, "--layers", "-q", "-t", tag]
    volume = ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]  # package clients trust what this machine trusts
    run([*_buildah(), "bud", "--isolation", "chroot", *volume, *args, str(ROOT)], quiet=True)
    for old in archive.parent.glob(f"despina-{target}-*.tar"):
        old.unlink()
    part = archive.with_suffix(".part")
    part.unlink(missing_ok=True)
    run([*_buildah(), "push", "-q", tag, f"docker-archive:{part}:{tag}"], quiet=True)
    part.rename(archive)
    return archive


def _base_image() -> str:
    """A public image named by BASE_IMAGE, or a Debian with Python made here."""
    chosen = os.environ.get("BASE_IMAGE")
    if chosen:
        return chosen
    packages = "python3,python3-venv,ca-certificates,libstdc++6"  # the last as in the public Python images
    key = hashlib.sha256(packages.encode()).hexdigest()[:8]
    name = f"localhost/despina-base:{key}"
    if run([*_buildah(), "images", "-q", name], capture=True, check=False).strip():
        return name
    tarball = CACHE / f"base-{key}.tar"
    if not tarball.exists():
        say("Making a Debian base image")
        part = tarball.with_name("base.part.tar")
        run(["mmdebstrap", "--variant=essential", f"--include={packages}", "bookworm", str(part)], quiet=True)
        part.rename(tarball)
    container = run([*_buildah(), "from", "scratch"], capture=True).strip()
    run([*_buildah(), "add", "-q", container, str(tarball), "/"], quiet=True)
    run([*_buildah(), "commit", "-q", "--rm", container, name], quiet=True)
    return name


def _buildah() -> list[str]:
    store = CACHE / "buildah"
    folders = ["--root", str(store / "root"), "--runroot", str(store / "run")]
    return ["buildah", "--storage-driver", "overlay", *folders]

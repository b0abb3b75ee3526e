"""A Debian base image without an image registry: debootstrap, a slim tarball in the cache, `docker import`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from infra.images.commands import ImageBuildError, private_mounts, require_root, run, succeeds

SUITE = "bookworm"
# What a task never reads, and what only says where and on which host the base was made.
LEFT_OUT = (
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./etc/apt/sources.list",
    "./etc/hostname",
    "./etc/resolv.conf",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/lintian/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./var/cache/apt/*",
    "./var/cache/debconf/*-old",
    "./var/lib/apt/lists/*",
    "./var/log/*",
)
_ROOT_HINT = "Run `sudo ./farhand image --from debootstrap`, or name a base image with `--from IMAGE`."
_DEBOOTSTRAP_HINT = "Install it (`apt-get install debootstrap`), or name a base image with `--from IMAGE`."


def cache_dir() -> Path:
    """Where base tarballs are kept: outside the repository, so that a fresh clone finds them."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "farhand"


def debian_base(packages: tuple[str, ...], *, fresh: bool = False) -> str:
    """The tag of a Debian base image that has the packages; makes it when the engine has none, or when `fresh`.

    Takes about 45 s and 500 MB of disk the first time, 3 s from the cached tarball, nothing when it is there.
    Raises ImageBuildError.
    """
    architecture = run("dpkg", "--print-architecture", deadline_s=10, hint=_DEBOOTSTRAP_HINT)
    recipe = "\n".join((SUITE, architecture, *packages, "", *LEFT_OUT))
    name = f"{SUITE}-{architecture}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    tag = f"farhand-base:{name}"
    if not fresh and succeeds("docker", "image", "inspect", tag, deadline_s=30):
        return tag
    tarball = cache_dir() / f"base-{name}.tar.gz"
    if fresh or not tarball.is_file():
        _make_tarball(tarball, packages)
    print(f"farhand: importing the base from {tarball} …", flush=True)
    hint = f"If the file is damaged, remove it; the command then makes it anew: {tarball}"
    run("docker", "import", str(tarball), tag, deadline_s=300, hint=hint, code="base_import_failed")
    return tag


def host_mirror() -> str | None:
    """The mirror that this host's own apt sources name for the suite, or None: then debootstrap's default holds."""
    try:
        listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", deadline_s=30)
    except ImageBuildError:
        return None
    targets = (line.split() for line in listed.splitlines())
    mirrors = (target[0] for target in targets if target[1:] == [SUITE, "main"])
    return next((mirror for mirror in mirrors if mirror.startswith(("http://", "https://", "file:"))), None)


def _make_tarball(tarball: Path, packages: tuple[str, ...]) -> None:
    """Writes the tarball in one step: whoever looks sees the whole of it, or none."""
    require_root(hint=_ROOT_HINT)
    print(f"farhand: making a Debian {SUITE} base with debootstrap (about 45 s, once) …", flush=True)
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=tarball.parent) as scratch:
        root = Path(scratch) / "root"
        packed = Path(scratch) / tarball.name
        bootstrap = ("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root))
        mirror = host_mirror()
        command = (*private_mounts(), *bootstrap, *((mirror,) if mirror else ()))
        run(*command, deadline_s=1200, hint=_DEBOOTSTRAP_HINT, code="debootstrap_failed")
        left_out = (f"--exclude={pattern}" for pattern in LEFT_OUT)
        level = {"GZIP": "-1"}
        tar = ("tar", "--create", "--gzip", "--numeric-owner", *left_out, "--directory", str(root))
        run(*tar, "--file", str(packed), ".", deadline_s=300, env=level)
        packed.replace(tarball)

"""`python -m infra.images.build`: builds the agent image, verifies it, and only then gives it its tag.

The docker client does the work, as a process of its own: only workers speak to the engine's API.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from infra.images.commands import ImageBuildError, run, succeeds
from infra.images.debian_base import debian_base

AGENT_IMAGE = "farhand-agent:1"
REGISTRY_BASE = "debian:bookworm-slim"
DEBOOTSTRAP = "debootstrap"
PACKAGES = ("ca-certificates", "git", "python3", "python3-pip", "python3-venv", "ripgrep")

_DOCKERFILE = Path(__file__).with_name("agent.Dockerfile")
_PULL_HINT = "Where no image registry answers, `./farhand image --from debootstrap` makes the base (as root, Debian)."
_ENGINE_HINT = "Install Docker, start its engine, and see that `docker version` shows a server for this user."
# As a sandbox will run it: a read-only root, no network, a uid that the image does not know.
_AS_SANDBOX = ("--rm", "--read-only", "--network=none", "--user=54321:54321", "--entrypoint=sh")
_CHECKS = """
set -eu
python3 -I -S -c 'import sys; assert sys.version_info >= (3, 11), sys.version; print("Python", sys.version.split()[0])'
python3 -m pip --version >/dev/null
python3 -c 'import ensurepip, venv'
git --version
found=$(rg --version)
echo "$found" | head -n 1
"""


def build(tag: str = AGENT_IMAGE, *, base: str | None = None, fresh: bool = False) -> str:
    """Builds the agent image as `tag` and returns its id, printing a line for each thing it waits for.

    `base` is an image to build from, or "debootstrap" to make a Debian base without an image registry; None
    means `debian:bookworm-slim`. `fresh` takes nothing from earlier builds, so that Debian's updates come in.
    Raises ImageBuildError; the tag then still names what it named before.
    """
    _require_engine()
    source = _base_image(base or REGISTRY_BASE, fresh=fresh)
    image = _build_from(source, fresh=fresh)
    for line in _verify(image).splitlines():
        print(f"farhand:   {line}", flush=True)
    run("docker", "tag", image, tag, deadline_s=30)
    return image


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="farhand image", description="Build the image that sandboxes run.")
    parser.add_argument("--tag", default=AGENT_IMAGE, help="name of the image (%(default)s)")
    parser.add_argument(
        "--from",
        dest="base",
        metavar=f"IMAGE|{DEBOOTSTRAP}",
        help=f"base image ({REGISTRY_BASE}); `{DEBOOTSTRAP}` makes one where no image registry answers",
    )
    parser.add_argument("--fresh", action="store_true", help="take nothing from earlier builds")
    options = parser.parse_args(argv)
    started = time.monotonic()
    try:
        build(options.tag, base=options.base, fresh=options.fresh)
    except ImageBuildError as error:
        print(f"farhand: {error.message}\n  {error.hint} [{error.code}]", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("farhand: stopped; the image is what it was before.", file=sys.stderr)
        return 130
    print(f"farhand: {options.tag} is ready ({time.monotonic() - started:.0f} s)")
    return 0


def _require_engine() -> None:
    code = "docker_unavailable"
    run("docker", "version", "--format", "{{.Server.Version}}", deadline_s=20, hint=_ENGINE_HINT, code=code)


def _base_image(base: str, *, fresh: bool) -> str:
    """The name of an image that the engine has: made, found, or pulled."""
    if base == DEBOOTSTRAP:
        return debian_base(PACKAGES, fresh=fresh)
    if fresh or not succeeds("docker", "image", "inspect", base, deadline_s=30):
        print(f"farhand: pulling {base} …", flush=True)
        run("docker", "pull", base, deadline_s=600, hint=_PULL_HINT, code="base_image_unavailable")
    return base


def _build_from(source: str, *, fresh: bool) -> str:
    print(f"farhand: building the agent image from {source} …", flush=True)
    arguments = (f"--build-arg=BASE={source}", f"--build-arg=PACKAGES={' '.join(PACKAGES)}")
    # The host's network: an engine may run without a bridge that reaches Debian's mirrors.
    options = ("--quiet", "--network=host", *arguments, *(("--no-cache",) if fresh else ()))
    with _DOCKERFILE.open("rb") as dockerfile:
        return run("docker", "build", *options, "-", deadline_s=900, stdin=dockerfile, code="image_build_failed")


def _verify(image: str) -> str:
    command = ("docker", "run", *_AS_SANDBOX, image, "-c", _CHECKS)
    hint = "The base lacks what a sandbox needs: Python 3.11 with pip and venv, git, ripgrep. Choose another `--from`."
    return run(*command, deadline_s=60, hint=hint, code="image_unusable")


if __name__ == "__main__":
    raise SystemExit(main())

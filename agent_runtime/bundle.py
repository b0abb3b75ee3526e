"""The runtime as it is shipped: a read-only directory that any `python3 -I -S` can run. Used on the host."""

from __future__ import annotations

import hashlib
import py_compile
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parent


def write_bundle(target_dir: Path) -> Path:
    """Write `<target_dir>/<hash>/{__main__.py,agent_runtime/}` unless it is there, and return its path.

    Atomic, so that many workers may do it at once. Compiled for this interpreter; a sandbox with another one
    compiles for itself. The hash is of sources and interpreter, so a directory never changes once it is there.
    """
    sources = {path.relative_to(PACKAGE): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))}
    bundle = target_dir / _digest(sources)
    if bundle.exists():
        return bundle
    target_dir.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target_dir, prefix=".draft-"))
    try:
        _write(draft, sources)
        draft.rename(bundle)
    except OSError:
        if not bundle.exists():
            raise
    finally:
        if draft.exists():  # another worker was first
            remove_bundle(draft)
    return bundle


def entry_command(
    python: str,
    bundle: str,
    link: str,
    objects: str,
    work: str,
    *,
    uids: tuple[int, int] | None = None,
) -> list[str]:
    """Command line that starts a sandbox, with paths as the sandbox sees them. `uids`: of loop and helper."""
    command = [python, "-I", "-S", bundle, "supervise", "--link", link, "--objects", objects, "--work", work]
    return command + (["--loop-uid", str(uids[0]), "--helper-uid", str(uids[1])] if uids else [])


def _digest(sources: dict[Path, bytes]) -> str:
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for name, source in sources.items():
        digest.update(f"\0{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()[:16]


def _write(draft: Path, sources: dict[Path, bytes]) -> None:
    (draft / "__main__.py").write_bytes(sources[Path("__main__.py")])
    for name, source in sources.items():
        target = draft / PACKAGE.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source)
        py_compile.compile(
            str(target),
            dfile=f"{PACKAGE.name}/{name}",
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    for path in draft.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    draft.chmod(0o755)


def remove_bundle(bundle: Path) -> None:
    """Remove a bundle that no sandbox uses any more, or a draft of one. Its directories are read-only until then."""
    for path in [bundle, *bundle.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(bundle)

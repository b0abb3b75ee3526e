"""Files of an object store: packs that are shared by hard link, their sizes, and what a crash leaves behind."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_SHARED = (".pack", ".idx")  # in this order: a pack counts from the moment that its index exists


def share_packs(objects: Path, target: Path) -> int:
    """Put the packs of one object store into another, without copying where the disk is the same.

    Only packs and their indexes: nothing that is shared names a path outside `target`. Repeating it adds what is new.
    Everyone may read the result, as the user of a sandbox must. Returns how many packs there are.
    """
    for directory in (target, target / "pack", target / "info"):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    indexes = sorted((objects / "pack").glob("pack-*.idx"))
    for index in indexes:
        for suffix in _SHARED:
            _link(index.with_suffix(suffix), target / "pack" / index.with_suffix(suffix).name)
    return len(indexes)


def pack_sizes(objects: Path) -> dict[str, int]:
    """File names of complete packs, and their bytes."""
    packs = (index.with_suffix(".pack") for index in (objects / "pack").glob("pack-*.idx"))
    return {pack.name: pack.stat().st_size for pack in packs if pack.exists()}


def total_bytes(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file())


def has_loose(objects: Path) -> bool:
    """Whether any object lies outside a pack (servers of the dumb HTTP protocol send such)."""
    return any(len(entry.name) == 2 for entry in objects.iterdir())


def sweep_leftovers(objects: Path) -> None:
    """Remove what killed git processes left. Call it only while nothing else writes there."""
    for leftover in [*objects.glob("pack/tmp_*"), *objects.glob("pack/*.keep"), *objects.glob("tmp_*")]:
        leftover.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return  # packs are named by their content
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}:
            raise
        partial = target.with_name(f"tmp_{target.name}")
        shutil.copyfile(source, partial)
        partial.chmod(0o444)
        partial.rename(target)

"""Packages and repositories as their hosts serve them: a wheel on an index, an npm package, a git repository."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

from tests.standin.git_command import run_git

NAME = "farhand-parcel"


def python_index() -> dict[str, bytes]:
    """The simple index of one wheel, whose module prints what it is."""
    wheel = "farhand_parcel-1.0-py3-none-any.whl"
    info = "farhand_parcel-1.0.dist-info"
    files = {
        "farhand_parcel.py": 'print("the parcel is here")\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    page = f'<html><body><a href="/files/{wheel}">{wheel}</a></body></html>'
    return {f"/simple/{NAME}/": page.encode(), f"/files/{wheel}": packed.getvalue()}


def npm_registry(address: str) -> dict[str, bytes]:
    """One package, at `address`."""
    manifest = {"name": NAME, "version": "1.0.0", "main": "index.js"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", 'console.log("the parcel is here")')):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    data = packed.getvalue()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    tarball = f"/{NAME}/-/{NAME}-1.0.0.tgz"
    dist = {"tarball": f"{address}{tarball}", "integrity": f"sha512-{digest}"}
    packument = {"name": NAME, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
    return {f"/{NAME}": json.dumps(packument).encode(), tarball: data}


def bare_repository(path: Path) -> Path:
    """`<path>.git` with one commit of one file, in one pack."""
    tree, bare = path.with_suffix(".tree"), path.with_suffix(".git")
    tree.mkdir(parents=True)
    (tree / "parcel.txt").write_text("the parcel is here\n")
    run_git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    for command in (("add", "--all"), ("commit", "--quiet", "--message=First commit")):
        run_git(f"--git-dir={bare}", "-c", "core.bare=false", f"--work-tree={tree}", *command)
    run_git(f"--git-dir={bare}", "repack", "-qad")
    return bare


def dumb_repository(bare: Path) -> dict[str, bytes]:
    """A bare repository as plain files, at `/parcel.git`."""
    run_git(f"--git-dir={bare}", "update-server-info")
    files = (file for file in bare.rglob("*") if file.is_file())
    return {f"/parcel.git/{file.relative_to(bare)}": file.read_bytes() for file in files}

"""A registry of images, as far as an engine's pull needs it: manifests and blobs by digest, over HTTP on loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any, Self

from tests.standin.loopback import LoopbackHandler, LoopbackServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry(LoopbackServer):
    """Put an image in, pull `address/name:tag`. A context manager."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.pulled: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return self.base_url.removeprefix("http://")

    def put(self, name: str, files: dict[str, bytes], *, pretended_bytes: int | None = None) -> str:
        """An image of one layer; returns what to pull. `pretended_bytes`: what its manifest says of the layer."""
        layer = _tar(files)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "test"}],
        }
        packed = gzip.compress(layer, mtime=0)
        layers = [self._blob(packed, "application/vnd.docker.image.rootfs.diff.tar.gzip")]
        if pretended_bytes is not None:
            layers[0]["size"] = pretended_bytes
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(json.dumps(config).encode(), "application/vnd.docker.container.image.v1+json"),
            "layers": layers,
        }
        stored = json.dumps(manifest).encode()
        self.manifests[f"/v2/{name}/manifests/latest"] = self.manifests[_digest(stored)] = stored
        return f"{self.address}/{name}"

    def _blob(self, content: bytes, kind: str) -> dict[str, Any]:
        self.blobs[_digest(content)] = content
        return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


class _Handler(LoopbackHandler):
    server: Registry

    def do_HEAD(self) -> None:  # noqa: N802 - the base class looks for this name
        self._answer(with_body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        last = self.path.rpartition("/")[2]
        if self.path == "/v2/":
            return self._send(b"{}", "application/json", with_body=with_body)
        manifest = self.server.manifests.get(self.path) or self.server.manifests.get(last)
        if "/manifests/" in self.path and manifest is not None:
            self.server.pulled.append(self.path)
            return self._send(manifest, _MANIFEST, with_body=with_body)
        if "/blobs/" in self.path and last in self.server.blobs:
            return self._send(self.server.blobs[last], "application/octet-stream", with_body=with_body)
        problem = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return self._send(json.dumps(problem).encode(), "application/json", with_body=with_body, status=404)

    def _send(self, body: bytes, kind: str, *, with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", _digest(body))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

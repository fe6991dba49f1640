"""A registry with one small image, for fetching over the wire: the engine pulls from it as from any other. OCI distribution 1.1, reading only."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass

from aiohttp import web

LAYERS = 3
LAYER_BYTES = 2_000_000
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Blob:
    """Content under its digest."""

    content: bytes

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()

    def named(self, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "size": len(self.content), "digest": self.digest}


class Registry:
    """Serves the image; the second half of each layer waits until `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.port = 0
        tars = [_layer(number) for number in range(LAYERS)]
        layers = [Blob(gzip.compress(one, 1)) for one in tars]
        rootfs = {"type": "layers", "diff_ids": [Blob(one).digest for one in tars]}
        config = Blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode())
        listed = [one.named("application/vnd.docker.image.rootfs.diff.tar.gzip") for one in layers]
        named = config.named("application/vnd.docker.container.image.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": named, "layers": listed}
        self._manifest = Blob(json.dumps(manifest).encode())
        self._blobs = {one.digest: one for one in (config, *layers)}

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/commons/small@{self._manifest.digest}"

    async def start(self) -> web.AppRunner:
        """Serve on a free port of the loopback; the caller cleans the runner up."""
        app = web.Application()
        app.router.add_get("/v2/", self._version)
        app.router.add_get("/v2/commons/small/manifests/{digest}", self._get_manifest)
        app.router.add_get("/v2/commons/small/blobs/{digest}", self._get_blob)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(runner.addresses[0][1])
        return runner

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _get_manifest(self, request: web.Request) -> web.Response:
        headers = {"Docker-Content-Digest": self._manifest.digest}
        return web.Response(body=self._manifest.content, content_type=_MANIFEST, headers=headers)

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        blob = self._blobs[request.match_info["digest"]]
        answer = web.StreamResponse(headers={"Content-Length": str(len(blob.content))})
        await answer.prepare(request)
        half = len(blob.content) // 2
        await answer.write(blob.content[:half])
        await self.go_on.wait()
        await answer.write(blob.content[half:])
        return answer


def _layer(number: int) -> bytes:
    """A tar with one file that does not compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(f"layer-{number}")
        member.size = LAYER_BYTES
        archive.addfile(member, io.BytesIO(os.urandom(LAYER_BYTES)))
    return buffer.getvalue()

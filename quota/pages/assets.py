"""Style and script: ours from this package, Bootstrap, its icons and htmx from the folder of web parts.

Only the files named here are served, whatever the address says; the address carries a hash of the content, so that browsers
may keep them for a year.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_HERE: Final = Path(__file__).resolve().parent / "static"
OURS: Final = ("theme.js", "portal.js", "portal.css", "icon.svg")
VENDOR: Final[Mapping[str, str]] = {
    "vendor/bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    "vendor/htmx.min.js": "htmx.org/dist/htmx.min.js",
    "vendor/bootstrap-icons.min.css": "bootstrap-icons/font/bootstrap-icons.min.css",
    "vendor/fonts/bootstrap-icons.woff2": "bootstrap-icons/font/fonts/bootstrap-icons.woff2",
    "vendor/fonts/bootstrap-icons.woff": "bootstrap-icons/font/fonts/bootstrap-icons.woff",
}
_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str
    version: str


class Assets:
    """All served files, read once at start; a web part that is missing there is missing (404) and the page still works."""

    def __init__(self, web_parts: Path) -> None:
        paths = {name: _HERE / name for name in OURS} | {name: web_parts / path for name, path in VENDOR.items()}
        self._assets = {name: _read(path) for name, path in paths.items() if path.is_file()}

    def url(self, prefix: str, name: str) -> str:
        """The address of `name`, with its version."""
        asset = self._assets.get(name)
        return f"{prefix}static/{name}" + (f"?v={asset.version}" if asset is not None else "")

    async def serve(self, request: Request) -> Response:
        """Answer with the file, to be kept for long where the address names its version."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        kept = request.query_params.get("v") == asset.version
        caching = "public, max-age=31536000, immutable" if kept else "public, max-age=300"
        return Response(asset.content, media_type=asset.content_type, headers={"Cache-Control": caching})


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _TYPES[path.suffix], sha256(content).hexdigest()[:12])

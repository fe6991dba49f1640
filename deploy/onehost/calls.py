"""HTTP calls of the launcher to its own programs on 127.0.0.1.

Invariant: every call has a deadline, no call goes through a proxy that the environment names, and silence raises `Silent`
instead of looking like an answer.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEADLINE_S: Final = 5.0
_CHUNK_BYTES: Final = 256 * 1024

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Silent(Exception):
    """No answer: nothing listens, or nothing came within the deadline."""


@dataclass(frozen=True)
class Answer:
    """Any HTTP answer, errors included."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def call(
    method: str,
    url: str,
    *,
    credential: str | None = None,
    body: object = None,
    deadline_s: float = DEADLINE_S,
    host: str = "",
) -> Answer:
    """Make one request, with `body` as JSON where there is one; raises Silent where no answer comes.

    `host` is the Host header, where it is not the address's own.
    """
    headers = {"Accept": "application/json, text/html"} | ({"Host": host} if host else {})
    if credential is not None:
        headers["Authorization"] = f"Bearer {credential}"
    data = b"" if method in ("POST", "PUT") else None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 (our own http URLs)
    try:
        with _opener.open(request, timeout=deadline_s) as response:
            return Answer(response.status, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())
    except (OSError, http.client.HTTPException) as error:
        raise Silent(f"{method} {url}: {error}") from error


def fetch(url: str, target: Path, *, credential: str, deadline_s: float = DEADLINE_S) -> Answer:
    """GET a file of any size into `target`, which is there whole or not at all; raises Silent, and OSError for the disk.

    The answer carries a body where it is no success, and then nothing was written. `deadline_s` is between two bytes.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {credential}"})  # noqa: S310 (our own http URLs)
    part = target.with_name(f"{target.name}.part")
    try:
        with _opener.open(request, timeout=deadline_s) as response:
            with part.open("wb") as file:
                os.chmod(part, 0o600)
                while chunk := _next_of(response, url):
                    file.write(chunk)
            part.replace(target)
            return Answer(response.status, b"")
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())
    except urllib.error.URLError as error:
        raise Silent(f"GET {url}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _next_of(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Silent(f"GET {url}: {error}") from error

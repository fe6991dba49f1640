"""The portal's interface as this package calls it: typed where it matters, with deadlines, and errors in the portal's own words.

Address and token are those that every session has (COMMONS_EXCHANGE_URL where it reaches the portal by another way than browsers, else
COMMONS_PUBLIC_URL; JUPYTERHUB_API_TOKEN). An upload is written down before it
begins, so that a cut line, a restart of the portal or of this session leads to the same upload again and never to a second submission.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests
from jupyter_core.paths import jupyter_data_dir

PART_BYTES: Final = 4 * 1024 * 1024
_ATTEMPTS: Final = 8
_DEADLINE_S: Final = (5, 120)  # to connect, between two bytes


class PortalError(Exception):
    """The portal refused or could not be reached; the text is for people."""

    def __init__(self, text: str, code: str = "unavailable", params: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.params = params or {}


class Portal:
    """`pending`: a folder in which uploads under way are written down."""

    def __init__(self, root: str, token: str, pending: Path) -> None:
        self._root = f"{root.rstrip('/')}/services/quota/api/exchange"
        self._token = token
        self._pending = pending
        self._local = threading.local()

    @classmethod
    def of_session(cls) -> Portal:
        """The portal that this session belongs to."""
        root = os.environ.get("COMMONS_EXCHANGE_URL") or os.environ.get("COMMONS_PUBLIC_URL", "")
        # A course's formgrader is a service of the hub's and acts in an instructor's name.
        token = os.environ.get("COMMONS_EXCHANGE_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN", "")
        if not root or not token:
            raise PortalError("This is no session of a portal: COMMONS_PUBLIC_URL or JUPYTERHUB_API_TOKEN is not set.")
        return cls(root, token, Path(jupyter_data_dir()) / "commons-uploads")

    def json(self, method: str, path: str, body: object = None) -> Any:
        """One request; tried again while the portal does not answer. Every route that is called here may be repeated."""
        return self._answer(method, path, json=body).json()

    def bundle(self, path: str) -> bytes:
        """A bundle."""
        return self._answer("GET", path).content

    def upload(self, content: bytes, order: Mapping[str, object]) -> dict[str, Any]:
        """Send a bundle; its receipt with `upload_id`. Goes on where an earlier call for the same order was cut."""
        body = {**order, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        note = self._pending / f"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}.json"
        upload_id = _noted(note)
        state = self.json("PUT", f"/uploads/{upload_id}", body)
        for _ in range(_ATTEMPTS + len(content) // PART_BYTES + 1):
            if state["receipt"] is not None:
                break
            try:
                state = self._step(upload_id, content, int(state["offset"]))
            except PortalError as error:
                if error.code != "wrong_offset":
                    raise
                state = self.json("PUT", f"/uploads/{upload_id}", body)
        if state["receipt"] is None:
            raise PortalError("The upload did not come to its end. Nothing is lost: submit again to go on with it.")
        note.unlink(missing_ok=True)
        return {"upload_id": upload_id, **state["receipt"]}

    def _step(self, upload_id: str, content: bytes, offset: int) -> Any:
        if offset >= len(content):
            return self.json("POST", f"/uploads/{upload_id}/finish")
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        part = content[offset : offset + PART_BYTES]
        return self._answer("PATCH", f"/uploads/{upload_id}", data=part, headers=headers).json()

    def _answer(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"token {self._token}", **more.pop("headers", {})}
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._session().request(
                    method, self._root + path, headers=headers, timeout=_DEADLINE_S, allow_redirects=False, **more
                )
            except requests.RequestException:
                answer = None
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                return _checked(answer)
            if attempt + 1 < _ATTEMPTS:
                time.sleep(min(5.0, 0.2 * 2**attempt))
        if answer is not None:
            return _checked(answer)
        raise PortalError("The portal does not answer. Nothing is lost: try again in a minute.")

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False  # no proxy, no .netrc; a CA of the site's own counts
            self._local.session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session: requests.Session = self._local.session
        return session


def _noted(note: Path) -> str:
    """The id of this upload: the one that an earlier try wrote down, or a new one, on disk before it is used."""
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["upload_id"])
    except (OSError, ValueError, KeyError):
        upload_id = uuid.uuid4().hex
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({"upload_id": upload_id}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(note)
    return upload_id


def _checked(answer: requests.Response) -> requests.Response:
    if answer.ok and not answer.is_redirect:
        return answer
    try:
        error = answer.json()["error"]
        fields = "; ".join(f"{one['field']} {one['text']}" for one in error["params"].get("fields", ()))
        text = " ".join(part for part in (error["message"], fields, error["next"]) if part)
        raise PortalError(text, error["code"], error["params"])
    except (ValueError, KeyError, TypeError):
        raise PortalError(f"The portal answered {answer.status_code} and gave no reason.") from None

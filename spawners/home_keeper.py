"""Makes the folders that sessions in containers live in: a person's home, a project's shared folder. Runs as root, has one verb.

`python -m spawners.home_keeper` reads $COMMONS_PORTAL_FILE and $COMMONS_DATA and serves `PUT /folders/<volume name>` on a Unix
socket. Invariants: a folder has its owner and its limit before any session sees it, and keeps its content for ever (removal is an
operator's work); owner and mode follow from the name, so that nobody can ask for another's; a kept folder is never formatted again.
"""

import asyncio
import logging
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from spawners.container_settings import PROJECT_GID, UID_MAX, UID_MIN, HomeKind, HomesTable

log = logging.getLogger("commons.homes")

COMMAND_DEADLINE_S: Final = 120
_HOME: Final = re.compile(r"cc-home-cc-([1-9][0-9]{4,5})")
_PROJECT: Final = re.compile(r"cc-project-[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class NoFolder(Exception):
    """The folder could not be made; the text says why."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a folder is."""

    uid: int
    gid: int
    mode: int


def owner_of(name: str) -> Owner | None:
    """Who owns the folder of this volume; None for a name that is no home and no project's folder."""
    if found := _HOME.fullmatch(name):
        uid = int(found[1])
        return Owner(uid, uid, 0o700) if UID_MIN <= uid <= UID_MAX else None
    return Owner(0, PROJECT_GID, 0o2770) if _PROJECT.fullmatch(name) else None


class HomeKeeper:
    """Keeps one root folder."""

    def __init__(self, root: Path, table: HomesTable) -> None:
        self._root = root
        self._table = table
        self._locks: dict[str, asyncio.Lock] = {}

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=1024)
        app.router.add_put("/folders/{name}", self._put)
        return app

    async def _put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        owner = owner_of(name)
        if owner is None:
            return web.json_response({"message": "this is the name of no home and no project's folder"}, status=400)
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                folder = await asyncio.to_thread(self.ensure, name, owner)
        except (NoFolder, OSError) as error:
            log.error("%s: %s", name, error)
            return web.json_response({"message": f"the folder could not be made: {error}"}, status=503)
        return web.json_response({"folder": str(folder)})

    def ensure(self, name: str, owner: Owner) -> Path:
        """Make the folder, or find it as it was left; gives its path. Raises NoFolder or OSError."""
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder = self._root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        size = self._table.size if owner.gid == owner.uid else self._table.project_size
        if self._table.kind is HomeKind.LOOP:
            self._mount(name, folder, size)
        elif self._table.kind is HomeKind.COMMAND:
            _run([self._table.command, str(folder), str(owner.uid), str(owner.gid), str(size)])
        os.chown(folder, owner.uid, owner.gid)
        folder.chmod(owner.mode)
        return folder

    def _mount(self, name: str, folder: Path, size: int) -> None:
        """Mount the folder's own ext4; made at first, sparse, so that it takes the space that is used."""
        if folder.is_mount():
            return
        images = self._root / ".images"
        images.mkdir(mode=0o700, exist_ok=True)
        image = images / f"{name}.ext4"
        if not image.exists():
            draft = image.with_suffix(".new")
            with draft.open("wb") as file:
                file.truncate(size)
            _run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(draft)])
            draft.rename(image)
        _run(["mount", "-o", "loop,nosuid,nodev,noatime", str(image), str(folder)])
        lost = folder / "lost+found"
        if lost.is_dir() and not any(lost.iterdir()):
            lost.rmdir()


def _run(argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoFolder(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        raise NoFolder(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-500:]}")

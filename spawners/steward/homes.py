"""Home folders: one a person, mode 0700, owned by that person alone.

Invariant: a folder that is there and is somebody else's, or no folder, is refused and left as it is; no link is followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from spawners.steward.books import AccountConflict


def ensure_home(home: Path, uid: int) -> None:
    """Make the home, or see that it is right; idempotent. Raises AccountConflict, OSError."""
    parent = os.open(home.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        half = f".{home.name}.new"
        try:
            found = os.stat(home.name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            try:
                os.mkdir(half, 0o700, dir_fd=parent)
            except FileExistsError:  # left by a step that was interrupted
                if not stat.S_ISDIR(os.stat(half, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise
            os.chmod(half, 0o700, dir_fd=parent)
            os.chown(half, uid, uid, dir_fd=parent, follow_symlinks=False)
            os.rename(half, home.name, src_dir_fd=parent, dst_dir_fd=parent)  # a home appears with its owner
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
            raise AccountConflict(f"{home} is not this person's folder")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder = os.open(home.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                os.fchmod(folder, 0o700)
            finally:
                os.close(folder)
    finally:
        os.close(parent)

"""The key that signs checkpoints: a secret of the data folder, made once, 0600 in a folder of 0700."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

NAME: Final = "checkpoint_key"
_LEAST: Final = 32


def read_key(data: Path) -> bytes | None:
    """The key, or None where none was made yet. Raises OSError, or ValueError for a file that is no key."""
    try:
        key = (data / "secrets" / NAME).read_bytes().strip()
    except FileNotFoundError:
        return None
    if len(key) < _LEAST:
        raise ValueError(f"{data / 'secrets' / NAME}: holds fewer than {_LEAST} characters")
    return key


def make_key(data: Path) -> bytes:
    """The key, made where there is none. Raises OSError, ValueError."""
    known = read_key(data)
    if known is not None:
        return known
    folder = data / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = folder / f".{NAME}.{os.getpid()}"
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(aside, folder / NAME)  # of two that make one at once, the first counts
    except FileExistsError:
        pass
    finally:
        aside.unlink()
    return read_key(data) or b""

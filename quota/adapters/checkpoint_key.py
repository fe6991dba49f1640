"""The key that signs checkpoints: a secret of the data folder, made once, 0600 in a folder of 0700; and those that signed before it.

Invariant: a retired key is known before its successor signs, so that a crash in between leaves no checkpoint that nobody's key explains.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

NAME: Final = "checkpoint_key"
RETIRED: Final = "checkpoint_keys_retired"
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


def retired_keys(data: Path) -> list[bytes]:
    """Keys that signed before this one, and are good for nothing new. Raises OSError."""
    try:
        return (data / "secrets" / RETIRED).read_bytes().split()
    except FileNotFoundError:
        return []


def replace_key(data: Path) -> bytes:
    """Retire the key and make another; what the old one signed stays explained, and is no start any more. Raises OSError, ValueError."""
    old = read_key(data)
    if old is None:
        return make_key(data)
    known = retired_keys(data)
    if old not in known:
        aside = data / "secrets" / f".{RETIRED}.{os.getpid()}"
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(b"".join(one + b"\n" for one in [*known, old]))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(data / "secrets" / RETIRED)
    (data / "secrets" / NAME).unlink()
    return make_key(data)

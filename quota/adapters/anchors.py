"""Anchors: which checkpoints were made, in a file outside the database, so that nobody with the database alone can turn it back.

A database that lost its newest rows together with every trace of them, checkpoints included, is consistent in itself; only something
outside knows better. One line a checkpoint, appended and fsynced; the file may lie on another machine's disk, or be copied there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "anchors.jsonl"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A checkpoint as it was made; `at` is for people."""

    checkpoint: int
    hash: str
    at: str


def keep(folder: Path, anchor: Anchor) -> None:
    """Write a checkpoint down, once. Raises OSError."""
    if anchor in read(folder):
        return
    line = json.dumps({"checkpoint": anchor.checkpoint, "hash": anchor.hash, "at": anchor.at}).encode() + b"\n"
    fd = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def read(folder: Path) -> list[Anchor]:
    """Every anchor, oldest first; none where nothing was anchored yet. Raises OSError, or ValueError for a line that is none."""
    try:
        lines = (folder / NAME).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    try:
        said = [json.loads(line) for line in lines if line]
        return [Anchor(int(one["checkpoint"]), str(one["hash"]), str(one["at"])) for one in said]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / NAME}: holds a line that is no anchor") from error

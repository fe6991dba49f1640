"""The one wire between a submission's container and whoever grades it: frames of several streams over the container's own input and output.

A kernel's five sockets become streams; so the container needs no network, no mount and no port. Standard library only, since it runs on
both sides. Invariant: a frame is `kind, stream, length` and that many bytes; what is no frame, or larger than one may be, is WireError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

FRAME_BYTES: Final = 256 * 1024  # of what a kernel says; files come in one frame
FILES_BYTES: Final = 128 * 1024 * 1024
_HEAD: Final = struct.Struct(">BII")


class Kind(IntEnum):
    FILES = 1  # to the container: a tar of the submission's files
    START = 2  # to the container: how the kernel is started, as JSON
    OPEN = 3  # to the container: somebody connected to the socket whose number is the content
    DATA = 4
    CLOSE = 5


class Frame(NamedTuple):
    kind: Kind
    stream: int
    content: bytes


class WireError(Exception):
    """The other side sent what is no frame."""


def packed(kind: Kind, stream: int = 0, content: bytes = b"") -> bytes:
    """A frame as it goes over the wire."""
    return _HEAD.pack(kind, stream, len(content)) + content


class Reader:
    """Cuts what comes in into frames; `largest` is the longest content that is taken."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._waiting = bytearray()

    def feed(self, content: bytes) -> Iterator[Frame]:
        """The frames that are complete with `content`. Raises WireError."""
        self._waiting += content
        while len(self._waiting) >= _HEAD.size:
            kind, stream, length = _HEAD.unpack_from(self._waiting)
            if kind not in Kind._value2member_map_ or length > self._largest:
                raise WireError(f"a frame of kind {kind} and {length} bytes")
            if len(self._waiting) < _HEAD.size + length:
                return
            frame = Frame(Kind(kind), stream, bytes(self._waiting[_HEAD.size : _HEAD.size + length]))
            del self._waiting[: _HEAD.size + length]
            yield frame

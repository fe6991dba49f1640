"""The first program of a submission's container: takes files, starts the kernel, and carries its five sockets over the wire.

Standard library only. Invariants: the container ends with its kernel, with its time, or with whoever grades it (the wire's end), whichever
comes first; what the kernel writes elsewhere than to its sockets goes nowhere. The student's code runs under the same uid and may do to this
program what it likes: it holds nothing that the kernel does not have, and the limits are the container's.
"""

from __future__ import annotations

import io
import json
import os
import selectors
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from commons_exchange.wires import FILES_BYTES, FRAME_BYTES, Frame, Kind, Reader, packed

WORK: Final = Path("/notebook")
_SOCKETS: Final = Path("/tmp/kernel")  # noqa: S108  (the container's own)
_LISTENS_S: Final = 60.0
_READ_BYTES: Final = 64 * 1024


class Inside:
    """One kernel and its wire."""

    def __init__(self, wire_in: int, wire_out: int, work: Path = WORK, sockets: Path = _SOCKETS) -> None:
        self._in, self._out = wire_in, wire_out
        self._work, self._sockets = work, sockets
        self._reader = Reader(FILES_BYTES)
        self._selector = selectors.DefaultSelector()
        self._selector.register(wire_in, selectors.EVENT_READ, self._take)
        self._streams: dict[int, socket.socket] = {}
        self._kernel: subprocess.Popen[bytes] | None = None
        self._ends_at = time.monotonic() + _LISTENS_S
        self._over = False

    def run(self) -> int:
        """Until the end; the kernel's exit status."""
        try:
            while not self._over and (left := self._ends_at - time.monotonic()) > 0:
                for key, _ in self._selector.select(left):
                    key.data()
        finally:
            if self._kernel is not None:
                self._kernel.kill()
                self._kernel.wait()
        return 0 if self._kernel is None else self._kernel.returncode & 0xFF

    def _take(self) -> None:
        content = os.read(self._in, _READ_BYTES)
        if not content:
            self._over = True
        for frame in self._reader.feed(content):
            self._obey(frame)

    def _obey(self, frame: Frame) -> None:
        if frame.kind is Kind.FILES:
            unpack(frame.content, self._work)
        elif frame.kind is Kind.START:
            self._start(json.loads(frame.content))
        elif frame.kind is Kind.OPEN:
            self._open(frame.stream, int(frame.content))
        elif frame.stream in self._streams:
            if frame.kind is Kind.CLOSE:
                self._close(frame.stream)
            else:
                try:
                    self._streams[frame.stream].sendall(frame.content)
                except OSError:
                    self._close(frame.stream)

    def _start(self, order: Mapping[str, Any]) -> None:
        """Start the kernel on sockets of its own, under the key that was sent."""
        self._sockets.mkdir(mode=0o700)
        file = self._sockets / "connection.json"
        file.write_text(
            json.dumps({**order["connection"], "transport": "ipc", "ip": str(self._sockets / "s")}), encoding="utf-8"
        )
        argv = [str(file) if word == "{connection_file}" else str(word) for word in order["argv"]]
        self._ends_at = time.monotonic() + int(order["seconds"])
        self._kernel = subprocess.Popen(
            [sys.executable, *argv],
            cwd=self._work,
            env={**os.environ, "HOME": str(self._work), "IPYTHONDIR": str(self._sockets / "ipython")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._selector.register(os.pidfd_open(self._kernel.pid), selectors.EVENT_READ, self._ended)

    def _ended(self) -> None:
        """The kernel is gone; what it said last is still passed on."""
        for stream in list(self._streams):
            self._streams[stream].setblocking(False)
            while stream in self._streams:
                self._pass_on(stream)
        self._over = True

    def _open(self, stream: int, number: int) -> None:
        one = socket.socket(socket.AF_UNIX)
        give_up = time.monotonic() + _LISTENS_S
        while time.monotonic() < give_up and self._kernel is not None and self._kernel.poll() is None:
            try:
                one.connect(f"{self._sockets}/s-{number}")
            except OSError:  # it does not listen yet
                time.sleep(0.01)
            else:
                self._streams[stream] = one
                self._selector.register(one, selectors.EVENT_READ, lambda: self._pass_on(stream))
                return
        self._say(packed(Kind.CLOSE, stream))

    def _pass_on(self, stream: int) -> None:
        if stream not in self._streams:  # its client closed it in this same round
            return
        try:
            content = self._streams[stream].recv(FRAME_BYTES)
        except OSError:
            content = b""
        if content:
            self._say(packed(Kind.DATA, stream, content))
        else:
            self._close(stream)
            self._say(packed(Kind.CLOSE, stream))

    def _close(self, stream: int) -> None:
        one = self._streams.pop(stream)
        self._selector.unregister(one)
        one.close()

    def _say(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:  # bounded: each write takes something or raises
                view = view[os.write(self._out, view) :]
        except OSError:
            self._over = True


def unpack(content: bytes, folder: Path) -> None:
    """Write the plain files of a tar below `folder`."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            parts = member.name.split("/")
            source = archive.extractfile(member) if member.isreg() else None
            if source is None or any(part in ("", ".", "..") for part in parts):
                continue
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())


def main() -> None:
    """Speak over standard input and output, and leave neither to the kernel."""
    wire_in, wire_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.umask(0o077)
    sys.exit(Inside(wire_in, wire_out).run())

"""What nbgrader takes for the kernel's process: makes one container by the engine's helper, and carries the kernel's sockets into it.

`python -m commons_exchange.container_run ORDER.json`. It knows the helper's socket and the course's order, and no code of a student ever
runs in it. Invariants: the container is named by its hold; its wire is open before it starts, so that it ends where this process dies; more
than `output_bytes` from inside end it. What it could not do stands in the file `failed` beside the order.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import websocket

from commons_exchange.wires import FRAME_BYTES, Frame, Kind, Reader, WireError, packed

FAILED: Final = "failed"
GONE: Final = "gone"  # the container was removed before anybody here saw its end
_DEADLINE_S: Final = 120
_SOCKETS: Final = range(1, 6)
_ENDS_S: Final = 15.0
_ENDED: Final = ("exited", "dead")


class HelperRefused(Exception):
    """The helper did not do what it was asked; its words."""


class NoContainer(HelperRefused):
    """The helper knows no such container."""


class Helper:
    """The engine helper's socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call; the JSON of its answer. Raises HelperRefused."""
        try:
            connection = http.client.HTTPConnection("helper", timeout=_DEADLINE_S)
            connection.sock = self.connected()
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise HelperRefused(f"the engine's helper does not answer: {type(error).__name__}") from error
        if answer.status >= 400:
            kind = NoContainer if answer.status == 404 else HelperRefused
            raise kind(f"the engine's helper answered {answer.status}: {text[:300]}")
        return json.loads(text) if text.strip() else None

    def wire(self, hold_id: str) -> websocket.WebSocket:
        """The wire into a container that was made and has not been started. Raises HelperRefused."""
        try:
            url = f"ws://helper/commons/gradings/{hold_id}/wire"
            return websocket.create_connection(url, socket=self.connected(), suppress_origin=True)
        except (OSError, websocket.WebSocketException) as error:
            raise HelperRefused(f"there is no wire into the container: {error}") from error

    def connected(self) -> socket.socket:
        """A connection to it."""
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(_DEADLINE_S)
        one.connect(self._path)
        return one


class Wires:
    """Listens where the kernel's client looks for it, and carries each connection over the wire."""

    def __init__(self, folder: Path, output_bytes: int) -> None:
        self._room = output_bytes
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, socket.socket] = {}
        self._waiting: dict[int, bytearray] = {}
        self._arrived: list[Frame] = []
        self._lock = threading.Lock()
        self._over, self._last = False, 0
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda _: self._deliver())
        for number in _SOCKETS:
            one = socket.socket(socket.AF_UNIX)
            one.bind(f"{folder}/k-{number}")
            one.listen(8)
            self._selector.register(one, selectors.EVENT_READ, self._acceptor(one, number))

    def run(self, wire: websocket.WebSocket) -> None:
        """Until the container's end, or its output's."""
        self._wire = wire
        threading.Thread(target=self._read, daemon=True).start()
        while not self._over:
            for key, events in self._selector.select():
                key.data(events)

    def _read(self) -> None:
        """In a thread of its own: what comes out of the container is always taken, so that neither side waits for the other."""
        reader = Reader(FRAME_BYTES)
        with contextlib.suppress(OSError, websocket.WebSocketException, WireError):
            while content := self._wire.recv():
                content = content.encode() if isinstance(content, str) else content
                self._room -= len(content)
                if self._room < 0:
                    break
                with self._lock:
                    self._arrived += reader.feed(content)
                self._wake.send(b"1")
        with self._lock:
            self._over = True
        self._wake.send(b"1")

    def _acceptor(self, listening: socket.socket, number: int) -> Callable[[int], None]:
        def accept(_: int) -> None:
            one, _address = listening.accept()
            one.setblocking(False)
            self._last += 1
            stream = self._last
            self._streams[stream], self._waiting[stream] = one, bytearray()
            self._selector.register(one, selectors.EVENT_READ, self._server(stream))
            self._wire.send_binary(packed(Kind.OPEN, stream, str(number).encode()))

        return accept

    def _server(self, stream: int) -> Callable[[int], None]:
        def serve(events: int) -> None:
            if events & selectors.EVENT_WRITE:
                self._write(stream)
            if events & selectors.EVENT_READ:
                self._take(stream)

        return serve

    def _take(self, stream: int) -> None:
        if stream not in self._streams:
            return
        try:
            content = self._streams[stream].recv(FRAME_BYTES)
        except OSError:
            content = b""
        self._wire.send_binary(packed(Kind.DATA if content else Kind.CLOSE, stream, content))
        if not content:
            self._close(stream)

    def _deliver(self) -> None:
        self._woken.recv(4096)
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for frame in arrived:
            if frame.stream not in self._streams:
                continue
            if frame.kind is Kind.CLOSE:
                self._close(frame.stream)
            elif frame.kind is Kind.DATA:
                self._waiting[frame.stream] += frame.content
                self._write(frame.stream)

    def _write(self, stream: int) -> None:
        """As much as the client takes; the rest when it takes more. All that waits is less than the output that is allowed."""
        if stream not in self._streams:
            return
        one, waiting = self._streams[stream], self._waiting[stream]
        try:
            while waiting:  # bounded: each send takes something or raises
                del waiting[: one.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        self._selector.modify(one, events, self._server(stream))

    def _close(self, stream: int) -> None:
        one = self._streams.pop(stream)
        del self._waiting[stream]
        self._selector.unregister(one)
        one.close()


def run(order: Mapping[str, Any], folder: Path) -> None:
    """Make, start and serve one container. Raises HelperRefused."""
    helper, hold_id = Helper(order["helper"]), str(order["hold_id"])
    wires = Wires(Path(order["sockets"]), int(order["output_bytes"]))
    helper.call("POST", f"/containers/create?name=cc-{hold_id}", order["body"])
    wire = helper.wire(hold_id)
    try:
        helper.call("POST", f"/containers/cc-{hold_id}/start")
        wire.settimeout(None)
        wire.send_binary(packed(Kind.FILES, 0, (folder / "files.tar").read_bytes()))
        start = {name: order[name] for name in ("connection", "argv", "seconds")}
        wire.send_binary(packed(Kind.START, 0, json.dumps(start).encode()))
        wires.run(wire)
    finally:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            wire.close(timeout=1)
    if not _saw_its_end(helper, hold_id):
        (folder / GONE).touch()


def _saw_its_end(helper: Helper, hold_id: str) -> bool:
    """False where it is removed already: by the portal, which has read its end, or by somebody while it ran.

    A wire that broke while the container goes on, or that nobody can tell of, is no student's doing. Raises HelperRefused.
    """
    give_up = time.monotonic() + _ENDS_S
    while True:
        try:
            status = helper.call("GET", f"/containers/cc-{hold_id}/json")["State"]["Status"]
        except NoContainer:
            return False
        if status == "removing":
            return False
        if status in _ENDED:
            return True
        if time.monotonic() >= give_up:
            raise HelperRefused("the wire into the container broke while it ran")
        time.sleep(0.02)


def main() -> int:
    """Run the order of the command line; 1 with the reason in `failed`."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    file = Path(sys.argv[1])
    try:
        run(json.loads(file.read_text(encoding="utf-8")), file.parent)
    except HelperRefused as error:
        (file.parent / FAILED).write_text(str(error), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

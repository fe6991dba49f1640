"""Small servers on Unix sockets whose callers are known from the kernel (SO_PEERCRED): the signer and the steward.

One JSON object each way over a connection of its own. Invariants: an accident in one request ends that request only; requests are
bounded in size and time; what goes over the wire is in no log.
"""

from __future__ import annotations

import json
import logging
import pwd
import signal
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

log = logging.getLogger("commons.peers")
Peer = tuple[int, int]  # (pid, uid) of who asks
Answering = Callable[[Mapping[str, Any], Peer], dict[str, Any]]
REQUEST_DEADLINE_S: Final = 10
LARGEST_REQUEST_BYTES: Final = 64 * 1024
LARGEST_ANSWER_BYTES: Final = 64 * 2**20
V = TypeVar("V", bound=str)
_UCRED: Final = struct.Struct("3i")


class BadRequest(ValueError):
    """The request is none that this server knows."""


class NotSent(ConnectionError):
    """Nobody listens: nothing was asked."""


class PeerServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each request by `answering`, which decides what the peer may."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, answering: Answering) -> None:
        self.answering = answering
        Path(path).unlink(missing_ok=True)
        super().__init__(path, _Conversation)
        Path(path).chmod(0o666)  # the kernel says who asks; the settings say who may

    def serve_until_terminated(self) -> None:
        """Serve until SIGTERM; to be called in the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=self.shutdown).start())
        with self:
            self.serve_forever(poll_interval=0.2)
        Path(str(self.server_address)).unlink(missing_ok=True)


class _Conversation(socketserver.StreamRequestHandler):
    server: PeerServer
    timeout = REQUEST_DEADLINE_S

    def handle(self) -> None:
        try:
            answer = self.server.answering(self._request(), _peer(self.connection))
        except BadRequest as error:
            answer = {"error": "bad_request", "message": f"no request of this server's: {error}"}
        except OSError as error:  # such as a full disk: nothing was given
            log.exception("a request was not carried out")
            answer = {"error": "unreachable", "message": f"cannot work: {type(error).__name__}"}
        except Exception:  # the edge of the process
            log.exception("a request failed")
            answer = {"error": "unreachable", "message": "failed; see the server's log"}
        self.connection.settimeout(REQUEST_DEADLINE_S)
        self.wfile.write(json.dumps(answer).encode())

    def _request(self) -> Mapping[str, Any]:
        line = self.rfile.readline(LARGEST_REQUEST_BYTES + 1)
        if len(line) > LARGEST_REQUEST_BYTES:
            raise BadRequest("too long")
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            raise BadRequest("not JSON") from None
        if not isinstance(body, dict):
            raise BadRequest("not an object")
        return body


def ask(path: str, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
    """One request to a server on `path`. Raises NotSent where nobody listens, OSError or ValueError where no answer came."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(deadline_s)
        try:
            connection.connect(path)
        except OSError as error:
            raise NotSent(f"{path}: {error.strerror or error}") from None
        connection.sendall(json.dumps(request).encode() + b"\n")
        pieces, size = [], 0
        while piece := connection.recv(2**16):
            size += len(piece)
            if size > LARGEST_ANSWER_BYTES:
                raise ValueError("too long an answer")
            pieces.append(piece)
    answer = json.loads(b"".join(pieces))
    if not isinstance(answer, dict):
        raise ValueError("the answer is not an object")
    return answer


def text(body: Mapping[str, Any], name: str) -> str:
    """A text of a request. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text")
    return value


def whole(body: Mapping[str, Any], name: str) -> int:
    """A whole number of a request. Raises BadRequest."""
    value = body.get(name)
    if type(value) is not int:
        raise BadRequest(f"{name} must be a whole number")
    return value


def allowed(peers: Mapping[str, Sequence[V]], uid: int) -> frozenset[V]:
    """What settings let the process of this uid ask for: verbs by Unix login; nothing where it is not named."""
    verbs: set[V] = set()
    for name, some in peers.items():
        try:
            known = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        if known == uid:
            verbs |= set(some)
    return frozenset(verbs)


def _peer(connection: socket.socket) -> Peer:
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return (pid, uid)

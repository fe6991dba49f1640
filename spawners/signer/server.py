"""The signer's socket: who asks is known from the kernel (SO_PEERCRED), and may use the verbs that signer.toml gives them.

Invariants: a peer that is not named gets an error and no verb; an accident in one request ends that request only; a token is in no log.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import struct
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from spawners.signer import protocol
from spawners.signer.office import Office, Peer
from spawners.signer.protocol import BadRequest
from spawners.signer.settings import SignerSettings, Verb
from spawners.slurmrestd.errors import ActionRefused, SlurmError
from spawners.slurmrestd.model import SubmitOrder

log = logging.getLogger("commons.signer")
REQUEST_DEADLINE_S: Final = 10
_UCRED: Final = struct.Struct("3i")


class SignerServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves an office on its socket."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: SignerSettings, office: Office) -> None:
        self.settings = settings
        self.office = office
        Path(settings.socket).unlink(missing_ok=True)
        super().__init__(settings.socket, _Conversation)
        Path(settings.socket).chmod(0o666)  # the kernel says who asks; `peers` says who may


class _Conversation(socketserver.StreamRequestHandler):
    server: SignerServer
    timeout = REQUEST_DEADLINE_S

    def handle(self) -> None:
        peer = _peer(self.connection)
        try:
            answer = self._answer(peer)
        except SlurmError as error:
            answer = protocol.error_body(error)
        except (BadRequest, ValueError) as error:
            answer = {"error": "action_refused", "message": f"no request of the signer's: {error}", "number": 0}
        except OSError as error:  # the audit or the tickets cannot be written: nothing is given
            log.exception("a request was not carried out")
            answer = {"error": "unreachable", "message": f"the signer cannot work: {type(error).__name__}"}
        except Exception:  # the edge of the process
            log.exception("a request failed")
            answer = {"error": "unreachable", "message": "the signer failed; see its log"}
        self.connection.settimeout(REQUEST_DEADLINE_S)
        self.wfile.write(json.dumps(answer).encode())

    def _answer(self, peer: Peer) -> dict[str, Any]:
        line = self.rfile.readline(protocol.LARGEST_REQUEST_BYTES + 1)
        if len(line) > protocol.LARGEST_REQUEST_BYTES:
            raise BadRequest("too long")
        body = json.loads(line)
        if not isinstance(body, dict):
            raise BadRequest("not an object")
        verb = Verb(protocol.text(body, "verb"))
        if verb not in self.server.settings.verbs_of(peer[1]):
            log.warning("uid %d may not %s", peer[1], verb)
            raise ActionRefused("this process may not ask for that")
        return {"ok": perform(self.server.office, verb, body, peer)}


def perform(office: Office, verb: Verb, body: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
    """Carry one request out; the body of its answer."""
    if verb is Verb.SUBMIT_AS:
        permit = office.submit_as(_order(body.get("order")), peer)
        return {"login": permit.credential.login, "token": permit.credential.token, "ticket": permit.ticket}
    if verb is Verb.CANCEL:
        office.cancel(protocol.whole(body, "job_id"), peer)
        return {}
    if verb is Verb.EXTEND:
        office.extend(protocol.whole(body, "job_id"), protocol.whole(body, "minutes"), peer)
        return {}
    params = body.get("params", [])
    if not isinstance(params, list) or not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one) for one in params
    ):
        raise BadRequest("params must be pairs of texts")
    answer = office.get(protocol.text(body, "path"), [(one[0], one[1]) for one in params], peer)
    return {"status": answer.status, "body": answer.body}


def _order(body: object) -> SubmitOrder:
    if not isinstance(body, dict) or set(body) != {one.name for one in fields(SubmitOrder)}:
        raise BadRequest("an order has exactly the fields of SubmitOrder")
    texts = {name: protocol.text(body, name) for name in body if name != "time_limit_min"}
    return SubmitOrder(**texts, time_limit_min=protocol.whole(body, "time_limit_min"))


def _peer(connection: socket.socket) -> Peer:
    """(pid, uid) of the process at the other end, by the kernel."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return (pid, uid)

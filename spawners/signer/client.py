"""The other end of the signer's socket: a Signer and a Reader for SlurmClient. Thread-safe; one connection a call.

A signer that is away, slow or incoherent is SlurmUnreachable; for a verb that changes something, OutcomeUnknown where it may have
been carried out.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict
from typing import Any, Final

from spawners.signer import protocol
from spawners.signer.settings import Verb
from spawners.slurmrestd.errors import OutcomeUnknown, SlurmUnreachable
from spawners.slurmrestd.model import SubmitOrder
from spawners.slurmrestd.wire import LARGEST_ANSWER_BYTES, Answer, Credential, Params, Permit

DEADLINE_S: Final = 75.0  # two calls to slurmrestd behind it, each with 30 s to answer


class SignerClient:
    """Asks the signer at `path`."""

    def __init__(self, path: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = path
        self._deadline_s = deadline_s

    def submit_as(self, order: SubmitOrder) -> Permit:
        """See `spawners.slurmrestd.wire.Signer`. Nothing was submitted whatever is raised."""
        given = self._ask({"verb": Verb.SUBMIT_AS, "order": asdict(order)}, changes=False)
        try:
            return Permit(Credential(str(given["login"]), str(given["token"])), str(given["ticket"]))
        except KeyError:
            raise SlurmUnreachable("the signer gave half a permit") from None

    def cancel(self, job_id: int) -> None:
        """See `spawners.slurmrestd.wire.Signer`."""
        self._ask({"verb": Verb.CANCEL, "job_id": job_id}, changes=True)

    def extend(self, job_id: int, time_limit_min: int) -> None:
        """See `spawners.slurmrestd.wire.Signer`."""
        self._ask({"verb": Verb.EXTEND, "job_id": job_id, "minutes": time_limit_min}, changes=True)

    def get(self, path: str, params: Params = ()) -> Answer:
        """See `spawners.slurmrestd.wire.Reader`."""
        given = self._ask({"verb": Verb.READ, "path": path, "params": [list(one) for one in params]}, changes=False)
        status, body = given.get("status"), given.get("body")
        if type(status) is not int or not isinstance(body, dict | None):
            raise SlurmUnreachable("the signer read something else than an answer")
        return Answer(status, body)

    def _ask(self, request: dict[str, Any], *, changes: bool) -> dict[str, Any]:
        sent = False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._deadline_s)
                connection.connect(self._path)
                sent = True
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(_read_all(connection))
        except (OSError, ValueError) as error:
            kind = OutcomeUnknown if changes and sent else SlurmUnreachable
            raise kind(f"the signer does not answer: {type(error).__name__}") from None
        if isinstance(answer, dict) and isinstance(answer.get("ok"), dict):
            given: dict[str, Any] = answer["ok"]
            return given
        protocol.raise_error(answer if isinstance(answer, dict) else {})
        raise AssertionError("raise_error returned")


def _read_all(connection: socket.socket) -> bytes:
    pieces, size = [], 0
    while piece := connection.recv(2**16):
        size += len(piece)
        if size > LARGEST_ANSWER_BYTES:
            raise ValueError("too long")
        pieces.append(piece)
    return b"".join(pieces)

"""The other end of the signer's socket: a Signer and a Reader for SlurmClient. Thread-safe; one connection a call.

A signer that is away, slow or incoherent is SlurmUnreachable; for a verb that changes something, OutcomeUnknown where it may have
been carried out.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from spawners import peers
from spawners.signer import protocol
from spawners.signer.settings import Verb
from spawners.slurmrestd.errors import OutcomeUnknown, SlurmUnreachable
from spawners.slurmrestd.model import SubmitOrder
from spawners.slurmrestd.wire import Answer, Credential, Params, Permit

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
        try:
            answer = peers.ask(self._path, request, self._deadline_s)
        except (OSError, ValueError) as error:
            kind = OutcomeUnknown if changes and not isinstance(error, peers.NotSent) else SlurmUnreachable
            raise kind(f"the signer does not answer: {type(error).__name__}") from None
        given = answer.get("ok")
        if isinstance(given, dict):
            return given
        protocol.raise_error(answer)
        raise AssertionError("raise_error returned")

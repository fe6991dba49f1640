"""The signer's wire: one JSON object each way over a connection of its own. Pure.

    {"verb": "submit_as", "order": {…}}          → {"ok": {"login", "token", "ticket"}}
    {"verb": "cancel", "job_id": 7}              → {"ok": {}}
    {"verb": "extend", "job_id": 7, "minutes": 90} → {"ok": {}}
    {"verb": "read", "path": "/slurm/…", "params": [["k", "v"]]} → {"ok": {"status": 200, "body": {…} or null}}

An error is `{"error": kind, "message", "number", "name"}` with a kind of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spawners.slurmrestd.errors import (
    ActionRefused,
    JobUnknown,
    OutcomeUnknown,
    SlurmError,
    SlurmUnreachable,
    SubmitRefused,
)

KINDS: Final[Mapping[str, type[SlurmError]]] = {
    "outcome_unknown": OutcomeUnknown,
    "unreachable": SlurmUnreachable,
    "job_unknown": JobUnknown,
    "submit_refused": SubmitRefused,
    "action_refused": ActionRefused,
}


def error_body(error: SlurmError) -> dict[str, Any]:
    """An error as it goes over the wire."""
    kind = next((name for name, known in KINDS.items() if type(error) is known), "unreachable")
    number, name = getattr(error, "number", 0), getattr(error, "name", "")
    return {"error": kind, "message": str(error), "number": number, "name": name}


def raise_error(body: Mapping[str, Any]) -> None:
    """Raise what `error_body` wrote; what it did not write is an outage."""
    message = str(body.get("message", ""))
    kind = KINDS.get(str(body.get("error")), SlurmUnreachable)
    if kind is SubmitRefused or kind is ActionRefused:
        number = body.get("number")
        raise kind(message, number if type(number) is int else 0)
    if kind is OutcomeUnknown:
        raise OutcomeUnknown(message, str(body.get("name", "")))
    raise kind(message or "the signer gave no reason")

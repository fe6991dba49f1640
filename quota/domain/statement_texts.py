"""The lines of a statement: what each is about, and its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quota.domain.message import Message

SUBJECTS: Final[Mapping[str, Message]] = {
    "award": Message("Award: {title}"),
    "session": Message("Session: {profile_title} ({server_name})"),
    "session.unnamed": Message("Session: {profile_title}"),
    "request": Message("Model request: {model}"),
    "grading": Message("Autograding: {assignment}, {student}"),
    "adjustment": Message("Adjustment"),
    "reversal": Message("Adjustment taken back"),
    "refund": Message("Refund"),
}

KINDS: Final[Mapping[str, Message]] = {
    "kind.deposit": Message("awarded"),
    "kind.hold": Message("held"),
    "kind.top_up": Message("extended"),
    "kind.withdraw": Message("extension undone"),
    "kind.charge": Message("charged"),
    "kind.settle": Message("settled"),
    "kind.release": Message("released"),
    "kind.expire": Message("expired"),
    "kind.adjustment": Message("adjusted"),
    "kind.refund": Message("refunded"),
}

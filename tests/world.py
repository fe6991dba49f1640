"""Situations that tests start from, made through the portal's own interfaces."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from tests.people import Person


async def submitted_application(
    pi: Person, *, title: str = "Protein folding at night", gpu_hours: str = "10", tokens: int = 100_000
) -> str:
    """An application that waits for a decision; answers its id."""
    application = uuid.uuid4().hex
    today = datetime.now(UTC).date()
    ask = {
        "title": title,
        "purpose": "We fold proteins to understand misfolding diseases.",
        "gpu_hours": gpu_hours,
        "tokens": tokens,
        "starts_on": today.isoformat(),
        "ends_on": (today + timedelta(days=120)).isoformat(),
    }
    status, answer = await pi.api("PUT", f"/applications/{application}", ask)
    assert status == 201, (status, answer)
    return application


async def awarded_project(pi: Person, admin: Person, *, gpu_hours: str, tokens: int) -> str:
    """A project that `pi` applied for and `admin` awarded; answers its id."""
    application = await submitted_application(pi, gpu_hours=gpu_hours, tokens=tokens)
    decision = {"decision": "approve", "gpu_hours": gpu_hours, "tokens": tokens, "message": "Welcome."}
    status, answer = await admin.api("POST", f"/applications/{application}/decision", decision)
    assert status == 200, (status, answer)
    return str(answer["project_id"])

"""What a person's session was charged on a whole portal, and what its runner wrote down, which it has to equal."""

from __future__ import annotations

import json

from tests.people import Person
from tests.waiting import PATIENCE_S, eventually


async def session_record(person: Person) -> dict[str, int]:
    """What the runner of somebody's newest session wrote down."""
    status, listed = await person.api("GET", "/sessions")
    assert status == 200, listed
    hold_id = listed["sessions"][0]["hold_id"]
    record: dict[str, int] = json.loads((person.portal.data / "sessions" / hold_id / "record.json").read_text())
    return record


async def settled_charge(person: Person, project_id: str) -> int:
    """GPU-milliseconds that a project was charged, once nothing is held any more."""

    async def look() -> int | None:
        status, project = await person.api("GET", f"/projects/{project_id}")
        if status != 200:
            return None
        balance = next(b for b in project["balances"] if b["unit"] == "gpu_ms")
        return int(balance["charged"]) if balance["held"] == 0 else None

    return await eventually(look, within_s=PATIENCE_S, what="the hold is settled")

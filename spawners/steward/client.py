"""The other end of the steward's socket, for spawners and the quota service. Thread-safe; one connection a call."""

from __future__ import annotations

from typing import Any, Final

from spawners import peers
from spawners.steward.settings import Verb

DEADLINE_S: Final = 90.0


class StewardUnreachable(OSError):
    """The steward did not do it, as far as is known: ask again, everything it does is idempotent."""


class StewardRefusal(ValueError):
    """The steward says no."""


class StewardClient:
    """Asks the steward at `path`."""

    def __init__(self, path: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = path
        self._deadline_s = deadline_s

    def ensure(self, login: str, account: str) -> None:
        """Give a person an account, a home and their place in Slurm. Raises StewardRefusal, StewardUnreachable."""
        self._ask({"verb": Verb.ENSURE, "login": login, "account": account})

    def remove(self, login: str, account: str) -> None:
        """Take a person off a project's Slurm account."""
        self._ask({"verb": Verb.REMOVE, "login": login, "account": account})

    def retire(self, login: str) -> None:
        """Take a person's associations and Unix account away; files stay."""
        self._ask({"verb": Verb.RETIRE, "login": login})

    def limit(self, account: str, gpu_minutes: int) -> None:
        """Let Slurm refuse what goes beyond so many GPU-minutes, past ones included."""
        self._ask({"verb": Verb.LIMIT, "account": account, "gpu_minutes": gpu_minutes})

    def members(self) -> list[tuple[str, str]]:
        """(account, login) of every association of the portal's accounts."""
        rows = self._ask({"verb": Verb.MEMBERS}).get("members")
        if not isinstance(rows, list):
            raise StewardUnreachable("the steward listed something else than members")
        return [(str(account), str(login)) for account, login in rows]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = peers.ask(self._path, request, self._deadline_s)
        except (OSError, ValueError) as error:
            raise StewardUnreachable(f"the steward does not answer: {error}") from None
        given = answer.get("ok")
        if isinstance(given, dict):
            return given
        message = str(answer.get("message", "no reason given"))
        raise (
            StewardRefusal(message)
            if answer.get("error") in ("refused", "bad_request")
            else StewardUnreachable(message)
        )

"""What a backend's spawner must do: the contract between the dispatcher and its delegates (docs/reference/backends.md).

Invariants: silence of a backend is `BackendUnreachable` (or None from `poll`), never an end and never "nothing runs here"; the
hold's id is on what was submitted before it can run; a deadline is an absolute instant, so that setting it twice changes nothing.
Held for every delegate by tests/delegate_contract.py.
"""

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from spawners.session_traits import RunningSession, StopOrder

GRACE_S: Final = 60  # between SIGTERM and SIGKILL, inside the hold's stop margin of two minutes


class BackendUnreachable(RuntimeError):
    """The backend cannot be asked or does not make sense: nothing is known, so nothing ended and nothing may start anew."""


class DeadlineRefused(RuntimeError):
    """The backend will not move the session's end; the old end stands. The text says why, for the session's owner."""


class Delegate(Protocol):
    """One session of one (user, server name) on one backend. Implementations are JupyterHub Spawners with `SessionTraits`.

    Traits that the dispatcher sets before the calls: `hold_id`, `session_environment`, `deadline_ms`, `resource_request`,
    `data_folder`, `stop_order`.
    """

    hold_id: str
    stop_order: StopOrder

    async def find_running(self) -> RunningSession | None:
        """What the backend runs (or has queued) for this person and server name, found by label or name; None: positively nothing.

        Raises BackendUnreachable (or OSError) where it cannot be asked.
        """

    def adopt(self, running: RunningSession) -> None:
        """Take over a session that this object did not start, its API token included so that a stop revokes it."""

    async def start(self) -> Any:
        """Adopt what runs, else start under `hold_id`, and return where it listens.

        A hold starts one session, ever. Raises `session_traits.refused(…, log_lines=…)` where the session cannot be had: nothing
        of it may be left behind; the last lines that it logged are shown to its owner.
        """

    async def poll(self) -> int | None:
        """None while the session waits, runs or cannot be judged; its exit status once its end is certain."""

    async def stop(self, now: bool = False) -> None:
        """End the session as `stop_order` says: SIGTERM, SIGKILL `grace_s` later; the reason goes with the evidence.

        Returns once the end was seen; raises StopUnconfirmedError where it was not.
        """

    async def set_deadline(self, deadline_ms: int) -> None:
        """Move the session's end to `deadline_ms` (UTC), earlier or later, on the backend and in the watchdog's file; idempotent.

        Raises DeadlineRefused where the backend says no (the old end stands on both), BackendUnreachable where it is not known.
        """

    def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Steps of a pending start as JupyterHub shows them: `{"progress": 0–100, "message": plain words}`."""

    def get_state(self) -> dict[str, Any]:
        """What finds the session again; the hold's id at least."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the session that `get_state` described."""

    def clear_state(self) -> None:
        """Forget the session, whose end was seen or whose next start will find it again."""

"""What the dispatcher and its delegates have in common: the attributes that admission sets, and how a running session is adopted.

Invariant: a session is named by its hold's id from before it is submitted until its end is known, whatever the hub has
forgotten meanwhile. JupyterHub saves spawner state only after `start()` returned, so what runs is also found by its label.
"""

from dataclasses import dataclass
from typing import Any, Final

from jupyterhub.spawner import SpawnException
from traitlets import Any as AnyTrait
from traitlets import Dict, HasTraits, Integer, Unicode

# Marks every process of a session, so that what a killed runner left behind can be told from everything else.
HOLD_VARIABLE: Final = "COMMONS_HOLD_ID"


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session that a backend runs for one (user, server name)."""

    hold_id: str
    profile: str


class StopUnconfirmedError(RuntimeError):
    """A session was told to stop and its end could not be seen: it is not forgotten, its next start adopts it."""


class SessionTraits(HasTraits):
    """Attributes of one session; `clear_state` of the dispatcher empties them."""

    hold_id = Unicode(help="The hold that pays for the session; set before start. Nothing starts without one.")
    session_environment = Dict(
        key_trait=Unicode(), value_trait=Unicode(), help="Variables for this session only, its gateway key among them."
    )
    deadline_ms = Integer(
        help="UTC milliseconds at which the backend stops the session; 0: chosen runtime after its true start."
    )
    resource_request = AnyTrait(help="The checked ResourceRequest; None before user_options were checked.")
    data_folder = Unicode(help="The portal's data folder ($COMMONS_DATA).").tag(config=True)


def refused(message: str, *, reason: str, status_code: int = 400) -> SpawnException:
    """Make a refusal whose text the person sees on every page.

    JupyterHub 6.1.1 shows a refused start's message on the first page only; later visits read `jupyterhub_message`.
    """
    refusal: Any = SpawnException(message, reason=reason, status_code=status_code)
    refusal.jupyterhub_message = message
    return refusal

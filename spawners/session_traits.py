"""What the dispatcher and its delegates have in common: the attributes that admission sets, and how a running session is adopted.

Invariant: a session is named by its hold's id from before it is submitted until its end is known, whatever the hub has
forgotten meanwhile. JupyterHub saves spawner state only after `start()` returned, so what runs is also found by its label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jupyterhub.spawner import SpawnException
from markupsafe import Markup, escape
from traitlets import Any as AnyTrait
from traitlets import Callable as CallableTrait
from traitlets import Dict, HasTraits, Instance, Integer, Unicode

# Marks every process of a session, so that what a killed runner left behind can be told from everything else.
HOLD_VARIABLE: Final = "COMMONS_HOLD_ID"


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session that a backend runs for one (user, server name)."""

    hold_id: str
    profile: str


@dataclass(frozen=True, slots=True)
class StopOrder:
    """How to stop a session: why, in a word that is kept with its evidence, and how long after SIGTERM it is killed."""

    reason: str = "stopped"
    grace_s: int | None = None  # None: what the site configured for the backend


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
    stop_order = Instance(StopOrder, args=(), help="How the next stop is done; set before it by who asks for it.")
    login = Unicode(help="The person's Unix login, the same in containers and jobs; set by admission.")
    uid = Integer(help="The person's uid, never reused; 0: not known, and nothing starts that needs it.")
    language = Unicode("en", help="The language of who starts the session: `en` or `zh`.")
    keep_state = CallableTrait(
        default_value=None,
        allow_none=True,
        help="Coroutine function: saves the session's state in the hub's database now; set by the dispatcher.",
    )
    end_credential = CallableTrait(
        default_value=None,
        allow_none=True,
        help="Called with the hub's credential of a session that nobody takes up again: it opens nothing any more; set by the dispatcher.",
    )
    data_folder = Unicode(help="The portal's data folder ($COMMONS_DATA).").tag(config=True)


def refused(message: str, *, reason: str, status_code: int = 400, log_lines: Sequence[str] = ()) -> SpawnException:
    """Make a refusal whose text the person sees on every page, with the last lines that the session logged.

    JupyterHub 6.1.1 shows a refused start's message on the first page only; later visits read `jupyterhub_message`.
    """
    html = escape(message)
    if log_lines:
        html += Markup('<pre class="mt-2 mb-0">{}</pre>').format("\n".join(log_lines))
    refusal: Any = SpawnException(message, reason=reason, status_code=status_code, message_html=str(html))
    refusal.jupyterhub_message = message
    refusal.jupyterhub_html_message = str(html)
    return refusal

"""Spawn hooks: a hold before a session starts, a hint when it has ended. The hub computes no amounts.

Invariants: nothing starts without a hold that the quota service confirmed, but rescue sessions, which are journalled while it is away
(hub.rescue); the hold's id is minted here and kept on the spawner
before the hold is asked for, so that a lost answer leads to a hint and no orphan; a session that is adopted keeps its hold
(the dispatcher runs this hook for new sessions only). Hooks are hints: the quota service's reconciliation is the truth.
Every call has a deadline, because JupyterHub runs `pre_spawn_hook` outside `start_timeout`.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from jupyterhub.spawner import SpawnException
from jupyterhub.utils import url_escape_path, url_path_join
from markupsafe import Markup, escape

from hub.durations import duration_text
from hub.language import language_of, translator
from hub.people import People
from hub.rescue import Rescue, UsedUp
from hub.settings import Settings
from hub.turns import Turns
from quota.client import Held, HoldOrder, QuotaClient, QuotaUnavailable, Refused
from spawners.profiles import Profile
from spawners.resources import ResourceRequest
from spawners.session_view import COURSE, TEACHES

Hook = Callable[[Any], Awaitable[None]]
_UNAVAILABLE: Final = "quota_unavailable"

log = logging.getLogger("jupyterhub.commons")
_background: set[asyncio.Future[None]] = set()  # the loop itself keeps no strong reference to them


class QuotaExceeded(SpawnException):
    """A start that is refused; carries the text for every page that may show it.

    JupyterHub 6.1.1 shows a refused start's message on the first page only: later visits to /user/NAME read
    `jupyterhub_message` and `jupyterhub_html_message`. Held by tests/integration/test_hub_refusals.py.
    """

    def __init__(self, message: str, *, code: str, status: int, html: Markup | None = None) -> None:
        page = escape(message) if html is None else html
        super().__init__(message, reason=code, message_html=str(page), status_code=status)
        self.jupyterhub_message = message
        self.jupyterhub_html_message = str(page)


def pre_spawn_hook(client: QuotaClient, people: People, settings: Settings, rescue: Rescue, turns: Turns) -> Hook:
    """Make the hook that places the hold, or journals a rescue session while it cannot be placed."""

    async def place_hold(spawner: Any) -> None:
        await turns.take()
        request: ResourceRequest = spawner.resource_request
        spawner.hold_id = spawner.hold_id or uuid.uuid4().hex  # kept while one start is pending; a new start has none
        language = language_of(spawner.handler)
        order = HoldOrder(
            actor=spawner.user.name,
            project_id=request.project,
            profile=request.profile,
            application=request.application,
            runtime_s=request.runtime_s,
            server_name=spawner.name,
        )
        try:
            answer = await _hold(client, spawner.hold_id, order, language)
            if isinstance(answer, Refused) and answer.code == "unknown_person":
                # Told at sign-in, and lost there: tell again. A refusal is kept under its id, so this is another one.
                await people.tell_again(spawner.user)
                spawner.hold_id = uuid.uuid4().hex
                answer = await _hold(client, spawner.hold_id, order, language)
        except QuotaUnavailable as error:
            profile = settings.profiles.get(request.profile)
            if profile is None or not profile.rescue:
                log.error("Refusing %s: no hold %s: %s", spawner._log_name, spawner.hold_id, error)
                raise unavailable(language) from None
            log.warning("Journalling %s: no hold %s: %s", spawner._log_name, spawner.hold_id, error)
            await _journal(rescue, spawner, order, profile, settings.public_url)
            return
        if isinstance(answer, Refused):
            log.info("Refusing %s: %s", spawner._log_name, answer.code)
            raise refusal(answer, request, chooser_url(spawner), language)
        spawner.login, spawner.uid, spawner.language = answer.login, answer.uid, language
        # `deadline_ms` stays 0: the backend counts the chosen runtime from the session's true start, so that a slow start costs
        # its owner nothing; the hold's stop margin covers the rest.
        profile = settings.profiles.get(request.profile)
        await rescue.remember(order, answer, rescue=profile is not None and profile.rescue)
        spawner.session_environment = session_environment(answer, request, profile, settings.public_url)

    return place_hold


async def _journal(rescue: Rescue, spawner: Any, order: HoldOrder, profile: Profile, public_url: str) -> None:
    """Let a rescue session start without an answer, written down first; refuse whoever is not known or has had the day's share."""
    language = language_of(spawner.handler)
    owner = await rescue.begin(spawner.hold_id, order, profile.longest_runtime_s)
    if owner is None:
        raise unavailable(language)
    if isinstance(owner, UsedUp):
        raise rescue_used_up(owner.left_s, language)
    spawner.login, spawner.uid, spawner.language = owner.login, owner.uid, language
    # No gateway key: the gateway is as far away as the quota service that makes them.
    spawner.session_environment = {
        "COMMONS_PROJECT": order.project_id,
        "COMMONS_HOLD_ID": spawner.hold_id,
        "COMMONS_PROFILE": order.profile,
        "COMMONS_RUNTIME_S": str(order.runtime_s),
        "COMMONS_PUBLIC_URL": public_url,
    }


def post_stop_hook(client: QuotaClient) -> Hook:
    """Make the hook that hints at an end; JupyterHub runs it after a refused start, too, and more than once."""

    async def hint_end(spawner: Any) -> None:
        if spawner.hold_id:
            await _hint_end(client, spawner.hold_id, "stopped")

    return hint_end


async def _hold(client: QuotaClient, hold_id: str, order: HoldOrder, language: str) -> Held | Refused:
    """Place the hold; a start that is cancelled meanwhile waits for the answer in the background and gives the hold back."""
    asking = asyncio.ensure_future(client.hold(hold_id, order, language))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        giving_back = asyncio.ensure_future(_give_back(client, hold_id, asking))
        _background.add(giving_back)
        giving_back.add_done_callback(_background.discard)
        raise


async def _give_back(client: QuotaClient, hold_id: str, asking: Awaitable[Held | Refused]) -> None:
    with contextlib.suppress(QuotaUnavailable):  # whether it was placed or not: the hint is harmless
        await asking
    await _hint_end(client, hold_id, "cancelled")


async def _hint_end(client: QuotaClient, hold_id: str, reason: str) -> None:
    try:
        refused = await client.ended(hold_id, reason)
    except QuotaUnavailable as error:
        log.warning("Could not say that hold %s ended: %s; reconciliation will find it", hold_id, error)
        return
    if refused is not None and refused.code != "unknown_hold":
        log.warning("The hint that hold %s ended was not taken: %s", hold_id, refused.code)


def session_environment(
    held: Held, request: ResourceRequest, profile: Profile | None, public_url: str
) -> dict[str, str]:
    """The variables that a session gets beside the hub's: its gateway key, which dies with the hold, and who pays."""
    gateway = public_url + held.gateway_path.strip("/")
    variables = {
        "OPENAI_BASE_URL": gateway,
        "OPENAI_API_BASE": gateway,
        "OPENAI_API_KEY": held.gateway_key,
        "ANTHROPIC_BASE_URL": gateway.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": held.gateway_key,
        "COMMONS_PROJECT": request.project,
        "COMMONS_HOLD_ID": held.hold_id,
        "COMMONS_PROFILE": request.profile,
        "COMMONS_RUNTIME_S": str(held.runtime_s),
        "COMMONS_PUBLIC_URL": public_url,
    }
    if held.course:
        variables[COURSE] = held.course
    if held.teaches:
        variables[TEACHES] = "1"
    if profile is not None and profile.simulated:
        variables["COMMONS_SIMULATED_GPUS"] = str(profile.gpus)
    return variables


def refusal(refused: Refused, request: ResourceRequest, url: str, language: str) -> QuotaExceeded:
    """What, why and what next; with a way to start for as long as fits."""
    _ = translator(language)
    parts = [refused.message, refused.next]
    html = escape(" ".join(part for part in parts if part))
    if 0 < refused.fits_runtime_s < request.runtime_s:
        shorter: Mapping[str, str | int] = {**request.to_user_options(), "runtime_s": refused.fits_runtime_s}
        label = _("Start for %(duration)s instead") % {"duration": duration_text(refused.fits_runtime_s, language)}
        html += Markup(' <a class="alert-link" href="{}">{}</a>').format(f"{url}?{urlencode(shorter)}", label)
        parts.append(label)
    message = " ".join(part for part in parts if part)
    return QuotaExceeded(message, code=refused.code, status=refused.status, html=html)


def unavailable(language: str) -> QuotaExceeded:
    """The refusal while the quota service cannot be asked."""
    _ = translator(language)
    message = _(
        "The quota service cannot be reached, so nothing was started and nothing is charged. "
        "Sessions that run go on. Try again in a minute; if it stays so, tell the portal's operators."
    )
    return QuotaExceeded(message, code=_UNAVAILABLE, status=503)


def rescue_used_up(left_s: int, language: str) -> QuotaExceeded:
    """The refusal of a rescue session beyond the day's share, while only the hub counts."""
    _ = translator(language)
    left = duration_text(left_s, language) if left_s else _("nothing")
    message = _(
        "The quota service cannot be reached. Until it is back, of today's time for rescue sessions you have %(left)s left. "
        "Choose a shorter runtime, or try again later."
    )
    return QuotaExceeded(message % {"left": left}, code="rescue_used_up", status=402)


def chooser_url(spawner: Any) -> str:
    """The start chooser for this server."""
    hub_path = spawner.hub.base_url
    return str(url_path_join(hub_path, "spawn", spawner.user.escaped_name, url_escape_path(spawner.name)))

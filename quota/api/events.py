"""Notices as server-sent events (WHATWG HTML §9.2): for a notebook by its session's key, for pages by their cookie, for scripts by a hub token.

Invariants: each event's id is its notice's seq, so `Last-Event-ID` resumes without a gap; a stream ends within ALIVE_S
(quota.service.notice_stream) after its credential is worth nothing any more; with a session's key only that session's notices and its
project's are seen.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from quota.api import views
from quota.api.bodies import SeqCursor
from quota.api.errors import NotSignedIn, language_for
from quota.api.principals import PartsDep, authorization, parts_of, reader
from quota.domain.errors import Forbidden, Unavailable
from quota.domain.hold import Hold, HoldKind, HoldState
from quota.domain.ids import HoldId
from quota.domain.messages import Translate, render
from quota.domain.notice import Notice
from quota.locales import translations
from quota.service.callers import Caller
from quota.service.keys import PREFIX, verify_session_key
from quota.service.notices import titled
from quota.service.services import Services

router = APIRouter(tags=["people"])
_RETRY_MS: Final = 3000


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens, to what, and whether they still may."""

    caller: Caller
    hold: Hold | None  # with a session's key: the session whose notices are seen
    still: Callable[[], Awaitable[bool]]

    def sees(self, notice: Notice) -> bool:
        return self.hold is None or notice.subject == self.hold.id or notice.project_id == self.hold.project_id


async def listener(request: Request) -> Listener:
    """By a session's key, else as any reader."""
    parts = parts_of(request)
    scheme, credential = authorization(request)
    if scheme != "bearer" or not credential.startswith(PREFIX):
        return Listener(await reader(request, parts), None, lambda: _still_reads(request))
    hold_id = verify_session_key(parts.services.session_key_secret, credential)
    hold = await _open_session(parts.services, hold_id) if hold_id is not None else None
    if hold is None:
        raise NotSignedIn("no open session has this key")
    person = await parts.services.store.read(lambda tx: tx.people.by_id(hold.actor))
    if person is None:
        raise NotSignedIn("nobody has this key")
    request.state.language = person.language
    services, key_of = parts.services, hold.id

    async def still() -> bool:
        return await _open_session(services, key_of) is not None

    return Listener(Caller(person), hold, still)


LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,18}$")]
ForS = Annotated[str | None, Query(pattern=r"^[0-9]{1,5}$")]


@router.get("/events", response_class=StreamingResponse)
async def get_events(
    request: Request,
    parts: PartsDep,
    who: Annotated[Listener, Depends(listener)],
    last_event_id: LastEventId = None,
    after: SeqCursor = None,
    for_s: ForS = None,
) -> StreamingResponse:
    """The listener's notices as they happen; after `Last-Event-ID` (or `after`), else beginning with the unread ones.

    With `for_s` the stream ends after so many seconds, with 0 after what is there already.
    """
    seen = last_event_id or after
    language = language_for(request)
    notices = parts.streams.follow(who.caller, None if seen is None else int(seen), alive_s=_alive_s(for_s))
    ends_s = None if for_s is None else time.monotonic() + int(for_s)
    stream = _events(notices, who, lambda one: _data(one, parts.services, language), ends_s)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(
    notices: AsyncGenerator[Notice | None, None],
    who: Listener,
    data: Callable[[Notice], views.Json],
    ends_s: float | None,
) -> AsyncIterator[str]:
    yield f"retry: {_RETRY_MS}\n\n"
    with contextlib.suppress(Unavailable):  # the reader comes back, after its last id
        async with contextlib.aclosing(notices):
            async for one in notices:
                if one is None:
                    yield ": alive\n\n"
                    if (ends_s is not None and time.monotonic() >= ends_s) or not await who.still():
                        return
                elif who.sees(one):
                    yield f"id: {one.seq}\nevent: notice\ndata: {json.dumps(data(one), ensure_ascii=False)}\n\n"


def _data(notice: Notice, services: Services, language: str) -> views.Json:
    translate: Translate = translations(language).gettext
    full = titled(notice, services.catalogue, language)
    words = render(full.code, full.params, translate)
    return {
        "id": notice.id,
        "kind": notice.kind.value,
        "at": views.instant(notice.at),
        "until": views.instant(notice.until),
        "subject": notice.subject,
        "project_id": notice.project_id,
        "message": words.message,
        "next": words.next,
        "params": dict(full.params),
    }


def _alive_s(for_s: str | None) -> float | None:
    return None if for_s is None else max(float(for_s), 0.01)


async def _open_session(services: Services, hold_id: HoldId | None) -> Hold | None:
    hold = await services.ledger.hold(hold_id) if hold_id is not None else None
    is_open = hold is not None and hold.kind is HoldKind.SESSION and hold.state is HoldState.HELD
    return hold if is_open else None


async def _still_reads(request: Request) -> bool:
    try:
        await reader(request, parts_of(request))
    except (NotSignedIn, Forbidden):
        return False
    return True

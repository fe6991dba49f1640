"""Relay an admitted request to a model server and its answer to the client.

Invariants: the tally is right at every await, since the relay may be cut at any of them; nothing of the client's headers goes up
and of the server's headers only its media type comes down; the last bytes are returned, not sent, so that what is charged
is known before the client can know that it is over. Another try is made only before the first byte of an answer, under the same hold.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from quota.gateway import denials
from quota.gateway.deadlines import Deadlines
from quota.gateway.denials import Denied
from quota.gateway.event_stream import EventStream, StreamBroken, text_tokens
from quota.gateway.exchange import Exchange
from quota.gateway.model_request import ModelRequest
from quota.gateway.models import Server
from quota.gateway.tally import Outcome, Tally
from quota.gateway.usage import read_report
from quota.service.upstreams import Answer, Interrupted, NotReached, TimedOut, TooLarge, UpstreamError, Upstreams, ask

log = logging.getLogger("quota.gateway")
EVENTS: Final = "text/event-stream"
ANSWER_BYTES_MAX: Final = 64 * 2**20
_REFUSAL_BYTES_MAX: Final = 64 * 2**10
_ATTEMPTS: Final = 3
_COUNT_DEADLINE_S: Final = 10.0
_LATE_REPORT_S: Final = 1.0  # how long a report may lag behind the end of a stream
_OVERLOADED: Final = frozenset({429, 502, 503, 504})
_REFUSALS: Final = frozenset({400, 413, 415, 422})


@dataclass(slots=True)  # not frozen: made with every request
class Whole:
    """A whole answer, not sent yet."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """What is left to send of a stream."""

    data: bytes


Last = Whole | Tail | Denied
HeaderLines = Callable[[], bytes]  # made when a stream starts; a whole answer has newer ones


class Relay:
    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._deadlines = Deadlines()

    async def run(self, exchange: Exchange, tally: Tally, lines: HeaderLines) -> Last:
        """Everything but the last bytes. A failure is an answer, too."""
        admitted = tally.admitted
        try:
            with self._deadlines.within(admitted.server.target.total_deadline_s) as deadline:
                exchange.relaying(deadline)
                try:
                    return await self._run(exchange, tally, lines)
                finally:
                    exchange.relaying(None)
        except TimeoutError:
            return self._ended(exchange, tally, denials.late_answer())
        except TimedOut:
            return self._ended(exchange, tally, denials.late_answer())
        except NotReached:
            return self._ended(exchange, tally, denials.unreachable())
        except (UpstreamError, StreamBroken) as error:
            log.warning("request %s: the model server broke off: %s", admitted.hold_id, type(error).__name__)
            return self._ended(exchange, tally, denials.broken_answer())

    def _ended(self, exchange: Exchange, tally: Tally, denied: Denied) -> Last:
        """An early end: note whose doing it was. A client that gets a part of a stream reads the reason in it."""
        if exchange.left:
            if tally.outcome in (Outcome.FAILED, Outcome.CUT):
                tally.outcome = Outcome.CLIENT_LEFT
            return Tail(b"")
        if exchange.stopping:
            denied = denials.stopping()
        if not exchange.started:
            return denied
        return Tail(denied.event(anthropic=exchange.anthropic))

    async def _run(self, exchange: Exchange, tally: Tally, lines: HeaderLines) -> Last:
        server, answer = await self._ask(tally)
        try:
            if answer.status != 200:
                return await _refused(answer, tally)
            if answer.content_type == EVENTS:
                return await _stream(exchange, answer, tally, lines)
            return await _whole(answer, tally)
        finally:
            answer.close()
            server.busy -= 1

    async def count(self, request: ModelRequest) -> Whole | Denied:
        """Pass a question on that costs no tokens, to one server, for a few seconds."""
        server = request.model.least_busy()
        if server is None:
            return denials.no_server(request.model.name)
        try:
            async with asyncio.timeout(_COUNT_DEADLINE_S):
                answer = await ask(self._upstreams, server.target, request.endpoint, request.forwarded(0))
                try:
                    body = await answer.read(_REFUSAL_BYTES_MAX)
                finally:
                    answer.close()
        except (TimeoutError, TimedOut):
            return denials.late_answer()
        except NotReached:
            return denials.unreachable()
        except UpstreamError:
            return denials.broken_answer()
        if answer.status == 200 and _object(body) is not None:
            return Whole(body)
        if answer.status in _REFUSALS:
            return denials.refused_upstream(400, _refusal_text(body))
        return denials.broken_answer()

    async def _ask(self, tally: Tally) -> tuple[Server, Answer]:
        """The first answer of a server that takes the request; its `busy` is the caller's to lower. Raises UpstreamError."""
        request, server = tally.admitted.request, tally.admitted.server
        body = request.forwarded(tally.admitted.cap)
        tried: list[Server] = []
        failure: UpstreamError | None = None
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                answer = await self._post(server, body, tally)
                tried.append(server)
                other = request.model.least_busy(tried) if answer.status in _OVERLOADED else None
                if other is None or not attempts_left:
                    return server, answer
                answer.close()
                server.busy -= 1
                server.failed()
            except NotReached as error:
                failure, other = error, request.model.least_busy([*tried, server])
                tried.append(server)
                server.failed()
            except Interrupted as error:
                # An idle connection may have been closed under us: once more, over a new one, and only then another server.
                again = not isinstance(failure, Interrupted)
                failure, other = error, server if again else request.model.least_busy([*tried, server])
            if other is None or not attempts_left:
                break
            server = other
        raise failure or NotReached("no server")

    async def _post(self, server: Server, body: bytes, tally: Tally) -> Answer:
        request = tally.admitted.request
        # Sent, as far as anybody can know, from here on; only `NotReached` takes it back.
        before, tally.outcome, tally.server = tally.outcome, Outcome.FAILED, server
        slot = tally.admitted.slot
        if slot is not None:
            slot.sent(request.prompt_estimate)
        server.busy += 1
        try:
            return await self._upstreams.post(server.target, request.endpoint, body, streamed=request.streamed)
        except BaseException as error:
            server.busy -= 1
            if isinstance(error, NotReached):
                tally.outcome = before
                if slot is not None and before is Outcome.NOT_SENT:
                    slot.not_sent()
            raise


async def _stream(exchange: Exchange, answer: Answer, tally: Tally, lines: HeaderLines) -> Last:
    request = tally.admitted.request
    events = EventStream(
        strip_usage=not request.wants_usage, most_tokens=request.most_believed, endpoint=request.endpoint
    )
    tally.stream, tally.outcome = events, Outcome.CUT
    slot = tally.admitted.slot
    prompt = request.prompt_estimate if slot is not None else 0
    await exchange.start_events(lines())
    try:
        while piece := await answer.next_piece():
            data = events.feed(piece)
            if data:
                if slot is not None:  # before it goes out: who pays for it must be known whatever happens
                    slot.emits(events.prompt_reported or prompt, events.output_tokens)
                await exchange.piece(data)
            if events.done:
                tally.outcome = Outcome.COMPLETE
                await _late_report(answer, events)
                return Tail(events.tail)
    except asyncio.CancelledError:
        if events.finished and events.reported is None:
            await _late_report(answer, events)  # the client hung up at the last word: the report is on its way
        raise
    tally.outcome = Outcome.COMPLETE
    return Tail(events.end())


async def _late_report(answer: Answer, events: EventStream) -> None:
    """Read to the true end, for a report behind `[DONE]` and so that the connection can be used again."""
    try:
        async with asyncio.timeout(_LATE_REPORT_S):
            while piece := await answer.next_piece():
                events.feed(piece)
        events.end()
    except (TimeoutError, UpstreamError, StreamBroken):
        return


async def _whole(answer: Answer, tally: Tally) -> Last:
    body = await answer.read(ANSWER_BYTES_MAX)
    found = _object(body)
    if found is None or (found.get("error") is not None and not (found.get("choices") or found.get("output"))):
        log.warning("request %s: 200 without an answer in it", tally.admitted.hold_id)
        return denials.broken_answer()
    request = tally.admitted.request
    tally.reported = read_report(found.get("usage"), most=request.most_believed, endpoint=request.endpoint)
    if tally.reported is None:
        tally.counted_output = text_tokens(body)
    tally.outcome = Outcome.COMPLETE
    return Whole(body)


async def _refused(answer: Answer, tally: Tally) -> Denied:
    tally.outcome = Outcome.REFUSED
    try:
        body = await answer.read(_REFUSAL_BYTES_MAX)
    except TooLarge:
        body = b""
    status = answer.status
    if status in _REFUSALS:
        return denials.refused_upstream(400, _refusal_text(body))
    log.warning("request %s: the model server answered %d", tally.admitted.hold_id, status)
    if status in _OVERLOADED:
        return denials.overloaded(answer.retry_after)
    return denials.broken_answer()  # its 401, 404 or 302 is a mistake between the servers, not the client's


def _refusal_text(body: bytes) -> str:
    found = _object(body) or {}
    inner = found.get("error")
    text = inner.get("message") if isinstance(inner, dict) else found.get("message", inner)
    return text[:2000] if isinstance(text, str) and text else "The model's server refuses this request."


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = _leniently(body)
    return found if isinstance(found, dict) else None


def _leniently(body: bytes) -> object:
    """What servers of Python write and JSON does not know (NaN, infinities, half surrogates) is an answer all the same."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None

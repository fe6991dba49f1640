"""A streamed answer on its way through: server-sent events, passed on as they came, with an eye on what is due.

Invariants: whole events only, byte for byte, in order; taken out is nothing but the usage-only chunk that the client did not ask
for, and the event that ends the stream with what follows it: the gateway sends it once the request is charged (`tail`). Events may
be split anywhere. (WHATWG HTML, section 9.2; OpenAI's `stream_options.include_usage`.)
"""

from __future__ import annotations

import json
import re
from typing import Final

from quota.gateway.dialects import DIALECTS, WHOLE_OUTPUT, Endpoint
from quota.gateway.usage import Counts, estimated_tokens, other_bytes, read_report, tokens_of

DONE: Final = b"data: [DONE]\n\n"
EVENT_BYTES_MAX: Final = 2**20
_UNCOUNTED_BYTES_MAX: Final = 2**16
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class StreamBroken(Exception):
    """What comes is no event stream: an event without an end."""


def text_tokens(body: bytes) -> int:
    """About how many tokens of output a JSON body holds, rather too many."""
    return estimated_tokens(b"".join(WHOLE_OUTPUT.findall(body)))


class EventStream:
    """Reads one stream. `feed` and `end` return the bytes to pass on."""

    def __init__(self, *, strip_usage: bool, most_tokens: int, endpoint: Endpoint = Endpoint.CHAT) -> None:
        self._endpoint = endpoint
        self._dialect = DIALECTS[endpoint]
        self._strip_usage = strip_usage
        self._most_tokens = most_tokens
        self._partial = b""
        self._uncounted: list[bytes] = []
        self._uncounted_bytes = 0
        self._text_bytes = 0
        self._other_bytes = 0
        self._pieces = 0
        self._finished = False
        self._report: dict[str, object] = {}  # Anthropic tells the prompt first and the output last
        self.reported: Counts | None = None  # the last believable report
        self.prompt_reported: int | None = None  # told before the output
        self.doubtful = False  # a report came that nobody can believe
        self.failed = False  # an error came in place of output
        self.done = False
        self.tail = b""  # what ends the stream, to be sent once the request is charged

    @property
    def output_tokens(self) -> int:
        """Output as counted here: servers send about a token a piece, so the pieces are the least that it can be."""
        self._count()
        return max(self._pieces, tokens_of(self._text_bytes, self._other_bytes))

    @property
    def finished(self) -> bool:
        """Whether the model said why it stopped."""
        self._count()
        return self._finished

    def feed(self, data: bytes) -> bytes:
        """Take what came. Raises StreamBroken."""
        if self._partial:
            data = self._partial + data
        # Nearly always the data ends where an event ends.
        end = len(data) if data.endswith(b"\n\n") else _end_of_events(data)
        self._partial = data[end:]
        if len(self._partial) > EVENT_BYTES_MAX:
            raise StreamBroken(f"an event of more than {EVENT_BYTES_MAX} bytes")
        return self._pass(data[:end] if end != len(data) else data)

    def end(self) -> bytes:
        """Take the end of the stream: what is left over is passed on as it is, read as if it were complete."""
        rest, self._partial = self._partial, b""
        return self._pass(rest)

    def _pass(self, events: bytes) -> bytes:
        if not events:
            return b""
        if self.done:  # only a late report still matters
            for event in _split(events):
                self._look(event)
            return b""
        special = self._dialect.first_special(events)
        if special < 0:
            self._remember(events)
            return events
        # Nearly all of it is plain even so: look closely from the event on that is special.
        start = events.rfind(b"\n\n", 0, special) + 2
        plain = events[:start] if start >= 2 else b""
        self._remember(plain)
        return plain + b"".join([event for event in _split(events[len(plain) :]) if self._keep(event)])

    def _keep(self, event: bytes) -> bool:
        if self.done:
            self._look(event)
            return False
        if self._ends(event):
            self.done = True
            self._look(event)
            return False
        self._remember(event)
        return not (self._look(event) and self._strip_usage)

    def _ends(self, event: bytes) -> bool:
        ends = self._dialect.ends
        if ends is None:
            ended, self.tail = _data_of(event).strip() == b"[DONE]", DONE
        else:
            ended, self.tail = ends.search(event) is not None, event
        return ended

    def _remember(self, events: bytes) -> None:
        """Keep what was passed on to be counted: most streams report their usage in the end and are never counted here."""
        self._uncounted.append(events)
        self._uncounted_bytes += len(events)
        if self._uncounted_bytes > _UNCOUNTED_BYTES_MAX:
            self._count()

    def _count(self) -> None:
        events = b"".join(self._uncounted)
        self._uncounted, self._uncounted_bytes = [], 0
        texts = [text for text in self._dialect.output.findall(events) if text]
        joined = b"".join(texts)
        self._pieces += len(texts)
        self._text_bytes += len(joined)
        self._other_bytes += other_bytes(joined)
        self._finished = self._finished or self._dialect.finish.search(events) is not None

    def _look(self, event: bytes) -> bool:
        """Read a report or an error out of an event; whether it carries a report and nothing else."""
        if b'"usage"' not in event and b"error" not in event and b"failed" not in event:
            return False
        try:
            chunk = json.loads(_data_of(event))
        except (ValueError, RecursionError):
            return False
        if not isinstance(chunk, dict):
            return False
        seen = self._dialect.seen(chunk)
        self.failed = self.failed or seen.failed
        if seen.report is None:
            return False
        report: object = seen.report
        if self._dialect.anthropic:
            self._report.update({name: value for name, value in seen.report.items() if value is not None})
            report = self._report
        counts = read_report(report, most=self._most_tokens, endpoint=self._endpoint)
        if not seen.final:
            self.prompt_reported = counts.prompt if counts is not None else None
            return False
        self.doubtful = counts is None
        if counts is not None:
            self.reported = counts
        return seen.only


def _end_of_events(data: bytes) -> int:
    ends = [found.end() for found in _BLANK_LINE.finditer(data)]
    return ends[-1] if ends else 0


def _split(events: bytes) -> list[bytes]:
    """Each event with its blank line, so that joining them gives the same bytes."""
    found, start = [], 0
    for blank in _BLANK_LINE.finditer(events):
        found.append(events[start : blank.end()])
        start = blank.end()
    if start < len(events):
        found.append(events[start:])
    return found


def _data_of(event: bytes) -> bytes:
    """The data of an event: its `data` fields, joined by line feeds."""
    lines = re.split(rb"\r\n|\n|\r", event)
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])

"""A streamed answer on its way through: server-sent events, passed on as they came, with an eye on what is due.

Invariants: whole events only, byte for byte, in order; taken out is nothing but the usage-only chunk that the client did not ask
for, and `[DONE]` with what follows it, which the gateway sends itself once the request is settled. Events may be split anywhere.
(WHATWG HTML, section 9.2; OpenAI's `stream_options.include_usage`.)
"""

from __future__ import annotations

import json
import re
from typing import Final

from quota.gateway.usage import Counts, estimated_tokens, other_bytes, read_report, tokens_of

DONE: Final = b"data: [DONE]\n\n"
EVENT_BYTES_MAX: Final = 4 * 2**20
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|arguments|refusal)"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"'
)
_REPORT: Final = re.compile(rb'"usage"\s*:\s*[^n\s]')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"')


class StreamBroken(Exception):
    """What comes is no event stream: an event without an end."""


def text_tokens(body: bytes) -> int:
    """About how many tokens of output a JSON body holds, rather too many."""
    return estimated_tokens(b"".join(_TEXT.findall(body)))


class EventStream:
    """Reads one stream. `feed` and `end` return the bytes to pass on."""

    def __init__(self, *, strip_usage: bool, most_tokens: int) -> None:
        self._strip_usage = strip_usage
        self._most_tokens = most_tokens
        self._partial = b""
        self._text_bytes = 0
        self._other_bytes = 0
        self._pieces = 0
        self.reported: Counts | None = None  # the last believable report
        self.doubtful = False  # a report came that nobody can believe
        self.failed = False  # an error came in place of output
        self.finished = False  # the model said why it stopped
        self.done = False

    @property
    def output_tokens(self) -> int:
        """Output as counted here: servers send about a token a piece, so the pieces are the least that it can be."""
        return max(self._pieces, tokens_of(self._text_bytes, self._other_bytes))

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
        if b"[DONE]" in events or b'"error"' in events or _REPORT.search(events) is not None:
            return b"".join([event for event in _split(events) if self._keep(event)])
        self._count(events)
        return events

    def _keep(self, event: bytes) -> bool:
        if self.done:
            self._look(event)
            return False
        if _data_of(event).strip() == b"[DONE]":
            self.done = True
            return False
        self._count(event)
        return not (self._look(event) and self._strip_usage)

    def _count(self, events: bytes) -> None:
        texts = [text for text in _TEXT.findall(events) if text]
        if texts:
            joined = b"".join(texts)
            self._pieces += len(texts)
            self._text_bytes += len(joined)
            self._other_bytes += other_bytes(joined)
        if not self.finished and _FINISH.search(events) is not None:
            self.finished = True

    def _look(self, event: bytes) -> bool:
        """Read a report or an error out of an event; whether it carries a report and nothing else."""
        if b'"usage"' not in event and b'"error"' not in event:
            return False
        try:
            chunk = json.loads(_data_of(event))
        except (ValueError, RecursionError):
            return False
        if not isinstance(chunk, dict):
            return False
        if chunk.get("error") is not None and not chunk.get("choices"):
            self.failed = True
        report = chunk.get("usage")
        if report is None:
            return False
        counts = read_report(report, most=self._most_tokens)
        self.doubtful = counts is None
        if counts is not None:
            self.reported = counts
        return chunk.get("choices") == []


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

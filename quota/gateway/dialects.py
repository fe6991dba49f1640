"""The interfaces that the gateway speaks, one a route: where each writes its cap, its usage, its output and its end.

Invariant: what differs between the routes stands here and in `bodies`; everything else treats them alike. Sources: OpenAI's API
reference (chat, completions, embeddings, responses), Anthropic's Messages API; what vLLM, SGLang and llama.cpp make of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Endpoint(StrEnum):
    """What is served; the value is the path at the model server."""

    CHAT = "/chat/completions"
    COMPLETIONS = "/completions"
    EMBEDDINGS = "/embeddings"
    RESPONSES = "/responses"
    MESSAGES = "/messages"
    COUNT_TOKENS = "/messages/count_tokens"

    __hash__ = str.__hash__  # looked up several times a request; Enum's own is a Python function


class Seen(NamedTuple):
    """What one event of a stream says: a report (final or not), whether it says nothing else, whether it is the end or a failure."""

    report: Mapping[str, Any] | None = None
    final: bool = True
    only: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """One interface."""

    caps: tuple[str, ...]  # fields that limit the answer; the first is the one that servers always read
    words: tuple[bytes, ...]  # with one of which everything special begins: found ten times as fast as by the pattern
    special: re.Pattern[bytes]  # an event to look into
    output: re.Pattern[bytes]  # pieces of output in a stream
    ends: re.Pattern[bytes] | None  # the event that ends a stream, withheld until its charge is known; None: [DONE]
    finish: re.Pattern[bytes]  # the model said why it stopped
    anthropic: bool = False

    def first_special(self, events: bytes) -> int:
        """Where the first thing to look into begins; -1 where there is none."""
        found = [at for word in self.words if (at := events.find(word)) >= 0]
        special = self.special.search(events, min(found)) if found else None
        return -1 if special is None else special.start()

    def seen(self, chunk: Mapping[str, Any]) -> Seen:
        """Read one event's object."""
        if self is OPENAI:
            failed = chunk.get("error") is not None and not chunk.get("choices")
            report = chunk.get("usage")
            return Seen(_mapping(report), only=report is not None and chunk.get("choices") == [], failed=failed)
        kind = chunk.get("type")
        if self is ANTHROPIC:
            if kind == "message_start":
                return Seen(_mapping(_inner(chunk, "message").get("usage")), final=False)
            report = _mapping(chunk.get("usage")) if kind == "message_delta" else None
            return Seen(report, failed=kind == "error")
        response = _inner(chunk, "response") if kind in _RESPONSE_ENDS else {}
        return Seen(_mapping(response.get("usage")), failed=kind in ("error", "response.failed"))


def _mapping(value: object) -> Mapping[str, Any] | None:
    """None where there is no report; a report that is no object is one that nobody can believe."""
    if value is None:
        return None
    return value if isinstance(value, dict) else {}


def _inner(chunk: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = chunk.get(name)
    return found if isinstance(found, dict) else {}


_RESPONSE_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_TEXT: Final = rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"'
OPENAI: Final = Dialect(
    caps=("max_tokens", "max_completion_tokens"),
    words=(b"[DONE]", b'"error"', b'"usage"'),
    special=re.compile(rb'\[DONE\]|"error"|"usage"\s*:\s*[^n\s]'),
    output=re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments|refusal)"' + _TEXT),
    ends=None,
    finish=re.compile(rb'"finish_reason"\s*:\s*"'),
)
RESPONSES: Final = Dialect(
    caps=("max_output_tokens",),
    words=(b"response.completed", b"response.incomplete", b"response.failed", b'"error"'),
    special=re.compile(rb'response\.(?:completed|incomplete|failed)|"error"'),
    output=re.compile(rb'"delta"' + _TEXT),
    ends=re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"'),
    finish=re.compile(rb'"response\.output_item\.done"'),
)
ANTHROPIC: Final = Dialect(
    caps=("max_tokens",),
    words=(b"message_start", b"message_delta", b"message_stop", b'"error"'),
    special=re.compile(rb'message_start|message_delta|message_stop|"error"'),
    output=re.compile(rb'"(?:text|partial_json|thinking)"' + _TEXT),
    ends=re.compile(rb'"type"\s*:\s*"message_stop"'),
    finish=re.compile(rb'"stop_reason"\s*:\s*"'),
    anthropic=True,
)
DIALECTS: Final[Mapping[Endpoint, Dialect]] = {
    Endpoint.CHAT: OPENAI,
    Endpoint.COMPLETIONS: OPENAI,
    Endpoint.EMBEDDINGS: OPENAI,
    Endpoint.RESPONSES: RESPONSES,
    Endpoint.MESSAGES: ANTHROPIC,
    Endpoint.COUNT_TOKENS: ANTHROPIC,
}
# Output in a whole answer: every text in it.
WHOLE_OUTPUT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|arguments|refusal|thinking|partial_json)"' + _TEXT
)

"""What a request used: read from the server's report, or counted by us where there is no believable one.

Invariants: an explicit zero is zero and a missing number is not; a report that no model can produce (negative, not whole, not
finite, far beyond the model) counts as missing. Counts are raw and unpriced: prompt (cached ones included), cached, output
(reasoning included), reasoning.

OpenAI's shapes, as vLLM, SGLang and llama.cpp send them, count cached tokens inside the prompt; Anthropic's tells them apart,
and so does llama.cpp on /messages: its `input_tokens` are those that were not cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from quota.gateway.dialects import Endpoint

_PLAIN: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "
_PLAIN_BYTES_PER_TOKEN: Final = 3


class Counts(NamedTuple):
    """Tokens of one request. `cached` and `reasoning` are None where the server does not tell them."""

    prompt: int
    output: int
    cached: int | None = None
    reasoning: int | None = None

    @property
    def total(self) -> int:
        return self.prompt + self.output


def read_report(report: object, *, most: int, endpoint: Endpoint = Endpoint.CHAT) -> Counts | None:
    """The counts in a response's `usage`; None where one is missing or beyond belief. `most` is the largest total believed."""
    if not isinstance(report, dict):
        return None
    if endpoint is Endpoint.MESSAGES:
        found = _anthropic(report)
    elif endpoint is Endpoint.RESPONSES:
        found = _openai(report, _RESPONSE_NAMES)
    elif endpoint is Endpoint.EMBEDDINGS:
        found = _openai({"completion_tokens": 0, **report}, _CHAT_NAMES)
    else:
        found = _openai(report, _CHAT_NAMES)
    return found if found is not None and found.total <= most else None


_CHAT_NAMES: Final = ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
_RESPONSE_NAMES: Final = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")


def _openai(report: Mapping[str, object], names: tuple[str, str, str, str]) -> Counts | None:
    prompt, output = _count(report.get(names[0])), _count(report.get(names[1]))
    if prompt is None or output is None:
        return None
    cached = _detail(report.get(names[2]), "cached_tokens", prompt)
    return Counts(prompt, output, cached, _detail(report.get(names[3]), "reasoning_tokens", output))


def _anthropic(report: Mapping[str, object]) -> Counts | None:
    """`input_tokens` are the uncached ones: what was read from and written to a cache comes on top."""
    uncached, output = _count(report.get("input_tokens")), _count(report.get("output_tokens"))
    extra = [report.get(name) for name in ("cache_read_input_tokens", "cache_creation_input_tokens")]
    read, written = (0 if one is None else _count(one) for one in extra)
    if uncached is None or output is None or read is None or written is None:
        return None
    return Counts(uncached + read + written, output, None if extra[0] is None else read)


def estimated_tokens(text: bytes) -> int:
    """About how many tokens a text has, rather too many: three letters or spaces a token, one for every other byte."""
    return tokens_of(len(text), len(text.translate(None, _PLAIN)))


def other_bytes(text: bytes) -> int:
    """The bytes of `text` that are neither ASCII letters nor spaces."""
    return len(text.translate(None, _PLAIN))


def tokens_of(size_bytes: int, others_bytes: int) -> int:
    """`estimated_tokens` from a text's size and `other_bytes`, so that a long text can be counted in pieces."""
    plain_bytes = size_bytes - others_bytes
    return others_bytes + -(-plain_bytes // _PLAIN_BYTES_PER_TOKEN)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _detail(details: object, name: str, most: int) -> int | None:
    value = _count(details.get(name)) if isinstance(details, dict) else None
    return value if value is not None and value <= most else None

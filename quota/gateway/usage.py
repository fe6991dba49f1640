"""What a request used: read from the server's report, or counted by us where there is no believable one.

Invariants: an explicit zero is zero and a missing number is not; a report that no model can produce (negative, not whole, not
finite, far beyond the model) counts as missing. Counts are raw and unpriced: prompt (cached ones included), cached, output
(reasoning included), reasoning.

OpenAI's shape, as vLLM, SGLang and llama.cpp send it, counts cached tokens inside the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PLAIN: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "
_PLAIN_BYTES_PER_TOKEN: Final = 3


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request. `cached` and `reasoning` are None where the server does not tell them."""

    prompt: int
    output: int
    cached: int | None = None
    reasoning: int | None = None

    @property
    def total(self) -> int:
        return self.prompt + self.output


def read_report(report: object, *, most: int) -> Counts | None:
    """The counts in a response's `usage`; None where one is missing or beyond belief. `most` is the largest total believed."""
    if not isinstance(report, dict):
        return None
    prompt, output = _count(report.get("prompt_tokens")), _count(report.get("completion_tokens"))
    if prompt is None or output is None or prompt + output > most:
        return None
    cached = _detail(report.get("prompt_tokens_details"), "cached_tokens", prompt)
    reasoning = _detail(report.get("completion_tokens_details"), "reasoning_tokens", output)
    return Counts(prompt, output, cached, reasoning)


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

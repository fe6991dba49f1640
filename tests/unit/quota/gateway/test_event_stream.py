"""A stream on its way through: the same bytes however they are cut, less what the client did not ask for."""

from __future__ import annotations

import json
import random

import pytest

from quota.gateway.event_stream import EVENT_BYTES_MAX, EventStream, StreamBroken
from quota.gateway.usage import Counts

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}


def chunk(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}], **more}).encode() + b"\n\n"


def report(usage: object = USAGE) -> bytes:
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
TEXTS = ["a", "", 'say "usage": 5', "[DONE]", "data: [DONE]\n\n", '"error"', "量化\u2028", '\\"', "\r\n\r\n"]
BODY = b": hello\n\n" + b"".join(chunk(text) for text in TEXTS)


def run(data: bytes, sizes: list[int] | None = None, *, strip: bool = True) -> tuple[bytes, EventStream]:
    events = EventStream(strip_usage=strip, most_tokens=1000)
    out, start = b"", 0
    for size in sizes or [len(data)]:
        out += events.feed(data[start : start + size])
        start += size
    out += events.feed(data[start:])
    return out + events.end(), events


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("seed", range(20))
def test_a_stream_is_read_alike_however_it_is_cut(ends: bytes, seed: int) -> None:
    data = (BODY + report() + DONE).replace(b"\n", ends)
    dice = random.Random(seed)
    sizes = [dice.randrange(0, 40) for _ in range(200)]
    out, events = run(data, sizes)
    assert out == BODY.replace(b"\n", ends)
    assert events.reported == Counts(11, 7, cached=4)
    assert events.done
    assert not events.failed


def test_byte_by_byte() -> None:
    data = BODY + report() + DONE
    out, events = run(data, [1] * len(data))
    assert out == BODY
    assert events.reported == Counts(11, 7, cached=4)


def test_who_asked_for_usage_gets_it() -> None:
    out, _ = run(BODY + report() + DONE, strip=False)
    assert out == BODY + report()


def test_usage_that_comes_with_text_is_not_taken_out() -> None:
    data = chunk("a", usage=USAGE)
    out, events = run(data + DONE)
    assert out == data
    assert events.reported == Counts(11, 7, cached=4)


def test_what_follows_done_is_read_and_not_passed() -> None:
    out, events = run(chunk("a") + DONE + report() + chunk("b"))
    assert out == chunk("a")
    assert events.reported == Counts(11, 7, cached=4)


def test_an_unfinished_event_at_the_end_is_passed_and_read() -> None:
    out, events = run(chunk("a") + report().rstrip(b"\n"), strip=False)
    assert out.endswith(b"}")
    assert events.reported == Counts(11, 7, cached=4)


def test_an_error_in_place_of_output_is_noticed_and_passed() -> None:
    data = b'data: {"error": {"message": "no"}}\n\n'
    out, events = run(data)
    assert out == data
    assert events.failed


def test_output_is_counted_by_pieces_and_by_bytes() -> None:
    _, events = run(b"".join(chunk("a") for _ in range(9)))
    assert events.output_tokens == 9
    _, events = run(chunk("1234567890"))
    assert events.output_tokens == 10
    _, events = run(chunk(""))
    assert events.output_tokens == 0


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
def test_every_kind_of_output_counts(field: str) -> None:
    data = b"data: " + json.dumps({"choices": [{"delta": {field: "x"}}]}).encode() + b"\n\n"
    assert run(data)[1].output_tokens == 1


def test_tool_arguments_count() -> None:
    call = {"function": {"arguments": '{"a": 1}'}}
    data = b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() + b"\n\n"
    assert run(data)[1].output_tokens >= 3


def test_an_event_without_an_end_breaks_the_stream() -> None:
    events = EventStream(strip_usage=True, most_tokens=10)
    events.feed(b"x" * EVENT_BYTES_MAX)
    with pytest.raises(StreamBroken):
        events.feed(b"x")


def test_the_end_of_the_models_words_is_noticed() -> None:
    data = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    assert run(data)[1].finished
    assert not run(b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n')[1].finished

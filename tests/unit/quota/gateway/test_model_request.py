"""Reading a model request: limits that clients cannot talk their way around."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest

from quota.gateway.denials import Denied
from quota.gateway.model_request import Endpoint, ModelRequest, read_request
from quota.gateway.models import CapField, Limits, Model, Models, Server
from quota.service.upstreams import Target

LIMITS = Limits(
    context_tokens=1000, default_output_tokens=50, largest_output_tokens=400, choices_max=4, template_tokens=10,
    message_tokens=2, tool_tokens=20, image_tokens=30,
)  # fmt: skip
SERVER = Server(Target("http://server/v1", "", 1, 1, 1), "p", "hw", "cl")
WEIGHT_1 = Fraction(1)
MESSAGES = [{"role": "user", "content": "hello"}]


def models(limits: Limits = LIMITS, cap_field: CapField = CapField.BOTH, weight: str = "1") -> Models:
    return Models([Model("m", "served/m", "M", "", limits, Fraction(weight), (SERVER,), cap_field)])


def read(endpoint: Endpoint = Endpoint.CHAT, offered: Models | None = None, **fields: Any) -> ModelRequest | Denied:
    given = {"messages": MESSAGES} if endpoint is Endpoint.CHAT and "messages" not in fields else {}
    return read_request(endpoint, json.dumps({"model": "m", **given, **fields}).encode(), offered or models())


def good(endpoint: Endpoint = Endpoint.CHAT, offered: Models | None = None, **fields: Any) -> ModelRequest:
    found = read(endpoint, offered, **fields)
    assert isinstance(found, ModelRequest), found
    return found


def forwarded(request: ModelRequest, cap: int | None = None) -> dict[str, object]:
    found = json.loads(request.forwarded(request.cap if cap is None else cap))
    assert isinstance(found, dict)
    return found


def test_fields_that_only_change_the_answer_pass() -> None:
    extra: dict[str, Any] = {
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["\n"],
        "chat_template_kwargs": {"enable_thinking": False},
        "seed": 1,
        "user": "é",
    }
    sent = forwarded(good(**extra))
    assert {name: sent[name] for name in extra} == extra
    assert sent["messages"] == MESSAGES


def test_the_server_sees_the_name_that_it_gave_the_model() -> None:
    assert forwarded(good())["model"] == "served/m"


@pytest.mark.parametrize(
    ("given", "cap"),
    [
        ({}, 50),
        ({"max_tokens": None}, 50),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 7),
        ({"max_tokens": 10**30}, 400),
        ({"max_tokens": 399}, 399),
    ],
)
def test_the_cap_is_the_clients_limit_or_the_models(given: dict[str, Any], cap: int) -> None:
    request = good(**given)
    assert request.cap == cap
    sent = forwarded(request)
    assert (sent["max_tokens"], sent["max_completion_tokens"]) == (cap, cap)


@pytest.mark.parametrize("field", [CapField.MAX_TOKENS, CapField.MAX_COMPLETION_TOKENS])
def test_a_server_that_wants_one_field_gets_one(field: CapField) -> None:
    sent = forwarded(good(offered=models(cap_field=field), max_tokens=7))
    assert [name for name in sent if name.startswith("max_")] == [field.value]


def test_completions_have_one_name_for_the_cap() -> None:
    assert [name for name in forwarded(good(Endpoint.COMPLETIONS, prompt="x")) if name.startswith("max_")] == [
        "max_tokens"
    ]


def test_of_a_key_that_comes_twice_one_is_sent() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5,"max_tokens":9}'
    request = read_request(Endpoint.CHAT, body, models())
    assert isinstance(request, ModelRequest)
    assert request.forwarded(request.cap).count(b'"max_tokens"') == 1


WRONG = [
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"), ({"max_completion_tokens": True}, "max_completion_tokens"),
    ({"n": 0}, "n"), ({"n": 5}, "n"), ({"n": "2"}, "n"), ({"n": True}, "n"), ({"best_of": 99}, "best_of"),
    ({"stream": "true"}, "stream"), ({"stream": 1}, "stream"), ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "include_usage"),
    ({"n_predict": 9999}, "n_predict"), ({"max_new_tokens": 9}, "max_new_tokens"), ({"chat_template": "{{x}}"}, "chat_template"),
    ({"model": 5}, "model"), ({"model": ""}, "model"), ({"model": None}, "model"),
    ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": ["hi"]}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages"), ({"messages": [{"role": "user", "content": 5}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,AA"}]}]}, "messages"),
    ({"tools": {}}, "tools"), ({"functions": "f"}, "functions"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "param"), WRONG, ids=range(len(WRONG)))
def test_nonsense_names_the_field(given: dict[str, Any], param: str) -> None:
    found = read(**given)
    assert isinstance(found, Denied)
    assert (found.status, found.param) == (400, param)


@pytest.mark.parametrize("prompt", [None, 5, [], {}, [1, "a"], [[]], [["a"]], [True], {"prompt_string": "x"}])
def test_a_prompt_is_text_or_token_numbers(prompt: object) -> None:
    found = read(Endpoint.COMPLETIONS, prompt=prompt)
    assert isinstance(found, Denied)
    assert found.param == "prompt"


def test_each_prompt_and_choice_is_an_answer_to_pay_for() -> None:
    assert good(n=3).answers == 3
    assert good(Endpoint.COMPLETIONS, prompt=["a", "b"], n=2).answers == 4
    assert good(Endpoint.COMPLETIONS, prompt=[[1, 2], [3]], best_of=2).answers == 4
    assert isinstance(read(Endpoint.COMPLETIONS, prompt=["a"] * 5), Denied)


def test_the_bound_covers_every_text_in_utf_8() -> None:
    text = "量" * 100
    assert good(messages=[{"role": "user", "content": text}]).prompt_bound >= 300 + 10 + 2
    escaped = b'{"model":"m","messages":[{"role":"user","content":"' + b"\\u91cf" * 100 + b'"}]}'
    request = read_request(Endpoint.CHAT, escaped, models())
    assert isinstance(request, ModelRequest)
    assert 300 <= request.prompt_bound < 600


def test_tools_count_twice_and_images_by_the_model() -> None:
    plain = good().prompt_bound
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    written = len(json.dumps([tool], separators=(",", ":")))
    assert good(tools=[tool]).prompt_bound >= plain + 2 * written + 20
    url = "data:image/png;base64," + "A" * 10_000
    parts = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": url}}]
    assert plain + 30 <= good(messages=[{"role": "user", "content": parts}]).prompt_bound < plain + 200


def nested(depth: int, inner: object = 1) -> object:
    for _ in range(depth):
        inner = [inner]
    return inner


DENSE: list[object] = [nested(100), [1] * 300, {"a": [{"b": nested(20)}] * 10}, [1e15] * 40, "量" * 50]


@pytest.mark.parametrize("schema", DENSE, ids=range(len(DENSE)))
def test_tools_are_bounded_as_templates_print_them_indented_by_four(schema: object) -> None:
    """Llama's templates do; a deep schema of a few hundred bytes becomes as many thousand."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"enum": schema}}}
    printed = len(json.dumps(tool, indent=4, ensure_ascii=False).encode())
    assert good(tools=[tool]).prompt_bound >= good().prompt_bound + printed
    documents = len(json.dumps([{"text": schema}], indent=4, ensure_ascii=False).encode())
    assert good(documents=[{"text": schema}]).prompt_bound >= good().prompt_bound + documents


@pytest.mark.parametrize("arguments", ["[" + "1e15," * 99 + "1]", "[" * 200 + "]" * 200, '{"a":[1,2,3]}', "no JSON"])
def test_calls_of_tools_are_bounded_as_templates_write_their_arguments_out(arguments: str) -> None:
    """A server parses them, and the template prints what it got: 1e15 has five times its bytes then."""
    function = {"name": "f", "arguments": arguments}
    try:
        printed = len(json.dumps(json.loads(arguments)))
    except ValueError:
        printed = 0
    said = {"role": "assistant", "content": "hello"}
    plain = good(messages=[said]).prompt_bound
    called = {**said, "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    assert good(messages=[called]).prompt_bound >= plain + printed
    assert good(messages=[{**said, "function_call": function}]).prompt_bound >= plain + printed
    if printed:
        used = {"type": "tool_use", "id": "t", "name": "f", "input": json.loads(arguments)}
        messages = [{"role": "assistant", "content": [used]}]
        assert good(Endpoint.MESSAGES, messages=messages).prompt_bound >= 2 * len(
            json.dumps(used["input"], separators=(",", ":"))
        )


@pytest.mark.parametrize(
    "fields",
    [{"tools": [{"type": "function", "function": nested(300)}]}, {"documents": nested(260)}],
    ids=["tools", "documents"],
)
def test_what_is_nested_beyond_printing_is_refused(fields: dict[str, Any]) -> None:
    assert isinstance(read(**fields), Denied)


def test_a_model_without_images_refuses_them() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    blind = Limits(context_tokens=1000)
    assert isinstance(read(offered=models(blind), messages=[{"role": "user", "content": parts}]), Denied)


def test_a_hold_is_bounded_by_the_context() -> None:
    request = good(messages=[{"role": "user", "content": "x" * 5000}], max_tokens=100)
    assert request.hold_tokens(100) == 1000
    assert good(max_tokens=100, n=2).hold_tokens(100) < 1000


def test_the_cap_shrinks_to_what_is_left_and_not_below_the_useful() -> None:
    request = good(max_tokens=100)
    enough = request.hold_tokens(100)
    assert request.cap_within(enough) == 100
    assert request.cap_within(enough - 1) == 99
    assert request.cap_within(request.prompt_bound + 16) == 16
    assert request.cap_within(request.prompt_bound + 15) is None
    assert good(max_tokens=3).cap_within(good(max_tokens=3).hold_tokens(3)) == 3
    for tokens in range(0, 300, 7):
        cap = request.cap_within(tokens)
        assert cap is None or request.hold_tokens(cap) <= tokens


def test_streams_are_asked_for_usage_and_nothing_else_is() -> None:
    asked = good(stream=True, stream_options={"include_usage": False, "other": 1})
    assert forwarded(asked)["stream_options"] == {"include_usage": True, "other": 1}
    assert not asked.wants_usage
    assert good(stream=True, stream_options={"include_usage": True}).wants_usage
    assert "stream_options" not in forwarded(good())


def test_an_estimate_is_no_more_than_the_bound() -> None:
    for text in ("hello world " * 50, "量化" * 50, "0123456789" * 20):
        request = good(messages=[{"role": "user", "content": text}])
        assert 0 < request.prompt_estimate <= request.prompt_bound


def test_weights_round_up_to_hold_and_down_to_charge() -> None:
    price = models(weight="1/3").offered()[0].price_at(datetime.now(UTC))
    assert (price.up(10), price.down(10)) == (4, 3)
    for amount in range(20):
        assert price.up(price.affordable(amount)) <= amount

"""What each interface may ask for: checked field by field, with the bytes and tokens that accounting needs.

Invariants: whatever can make a prompt or an answer longer than the body's text shows is counted or refused (images, tools, stored
conversations, templates, other servers' names for a limit); fields that only change how the model answers pass untouched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson

from quota.gateway import denials
from quota.gateway.denials import Denied
from quota.gateway.dialects import Endpoint
from quota.gateway.models import Limits

_PER_TOOL: Final = 64
INPUTS_MAX: Final = 2048
# Other servers' names for what is limited here, and what makes a prompt longer than its text.
_UNMETERED: Final = frozenset({
    "n_predict", "n_cmpl", "max_new_tokens", "max_length", "chat_template", "prompt_embeds",
    "response_fields", "input_suffix", "input_prefix", "input_extra", "mm_processor_kwargs", "media", "images", "audio",
    "previous_response_id", "conversation", "background", "prompt_cache_retention", "mcp_servers", "container", "web_search_options",
    "media_io_kwargs", "session_params", "kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room",
})  # fmt: skip
# What a chat template may print a second time, as it prints tools.
_PRINTED: Final = frozenset(
    {"documents", "chat_template_kwargs", "response_format", "json_schema", "guided_json", "structured_outputs"}
)
_OFFERED: Final = frozenset({"tools", "functions"})  # of a conversation
_CAPS: Final = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
Fields = dict[str, Any]


class Nonsense(Exception):
    """The body cannot be used; `denied` is the answer."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


@dataclass(slots=True)
class Shape:
    """What a body asks for, beyond its text: `extra` tokens of templates, tools and images; bytes that are images."""

    prompts: int = 1
    choices: int = 1
    image_bytes: int = 0
    images: int = 0
    extra: int = 0


def shape_of(endpoint: Endpoint, fields: Fields, limits: Limits, caps: tuple[str, ...]) -> Shape:
    """Check a body. Raises Nonsense."""
    for name in _UNMETERED.intersection(fields):
        if fields[name] not in (None, False):
            refuse(name, f"{name!r} is not metered here and therefore denied.")
    for name in _CAPS.intersection(fields).difference(caps):
        refuse(name, f"{name!r} is not metered here and therefore denied. Use {caps[0]!r} to limit the answer.")
    shape = _SHAPES[endpoint](fields, limits)
    for name in _PRINTED.intersection(fields):
        shape.extra += _printed(fields[name])
    shape.extra += shape.images * limits.image_tokens
    return shape


def _chat(fields: Fields, limits: Limits) -> Shape:
    shape = Shape(choices=_choices(fields, limits))
    messages = _list(fields, "messages", "message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            refuse("messages", "Each of 'messages' must be an object with a 'role'.")
        _content(shape, message.get("content"), limits, "messages", _chat_part)
        if "tool_calls" in message or "function_call" in message:
            shape.extra += _calls(message)
    shape.extra += limits.template_tokens + len(messages) * limits.message_tokens
    for name in _OFFERED.intersection(fields):
        shape.extra += _tools(fields, name, limits)
    return shape


def _completion(fields: Fields, limits: Limits) -> Shape:
    prompts = _texts(fields, "prompt")
    return Shape(prompts=prompts, choices=_choices(fields, limits), extra=prompts * limits.message_tokens)


def _embeddings(fields: Fields, limits: Limits) -> Shape:
    if flag(fields, "stream"):
        refuse("stream", "Embeddings are not streamed.")
    inputs = _texts(fields, "input")
    if inputs > INPUTS_MAX:
        refuse("input", f"A request may hold at most {INPUTS_MAX:,} inputs. Send several requests.")
    return Shape(prompts=inputs, extra=inputs * limits.message_tokens)


def _responses(fields: Fields, limits: Limits) -> Shape:
    if fields.get("prompt") is not None:
        refuse("prompt", "A stored 'prompt' is not metered here and therefore denied. Send its text.")
    shape = Shape(extra=limits.template_tokens + 2 * limits.message_tokens)
    given = fields.get("input")
    if not isinstance(given, str):
        items = _list(fields, "input", "item")
        shape.extra += len(items) * limits.message_tokens
        for item in items:
            _item(shape, item, limits)
    shape.extra += _tools(fields, "tools", limits, kinds=(None, "function", "custom"))
    fields["store"] = False  # what is not kept cannot be asked for by its id
    return shape


def _item(shape: Shape, item: object, limits: Limits) -> None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if not isinstance(item, dict) or kind not in _ITEMS:
        refuse("input", f"Items of 'input' must be one of {', '.join(_ITEMS)}.")
    content = item.get("output") if kind == "function_call_output" else item.get("content")
    _content(shape, content, limits, "input", _response_part)
    shape.extra += _written_out(item.get("arguments"))


_ITEMS: Final = (
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "custom_tool_call",
    "custom_tool_call_output",
)


def _counted(fields: Fields, limits: Limits) -> Shape:
    """A question for a number: a server that was asked to stream it would not answer in JSON."""
    if flag(fields, "stream"):
        refuse("stream", "A count of tokens is not streamed.")
    return _messages(fields, limits)


def _messages(fields: Fields, limits: Limits) -> Shape:
    shape = Shape()
    messages = _list(fields, "messages", "message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            refuse("messages", "Each of 'messages' must be an object with a 'role'.")
        _content(shape, message.get("content"), limits, "messages", _block)
    _content(shape, fields.get("system"), limits, "system", _block)
    shape.extra += limits.template_tokens + (1 + len(messages)) * limits.message_tokens
    shape.extra += _tools(fields, "tools", limits, kinds=(None, "custom", "function"))
    return shape


_SHAPES: Final[Mapping[Endpoint, Callable[[Fields, Limits], Shape]]] = {
    Endpoint.CHAT: _chat,
    Endpoint.COMPLETIONS: _completion,
    Endpoint.EMBEDDINGS: _embeddings,
    Endpoint.RESPONSES: _responses,
    Endpoint.MESSAGES: _messages,
    Endpoint.COUNT_TOKENS: _counted,
}
Part = Callable[[Shape, dict[str, Any], Limits, str], bool]


def _content(shape: Shape, content: object, limits: Limits, param: str, part: Part) -> None:
    """Check a content: nothing, a text, or parts."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        refuse(param, "A content must be a text or a list of parts.")
    for one in content:
        if not isinstance(one, dict) or not part(shape, one, limits, param):
            refuse(param, "A content's parts must be texts, images as data, or calls of tools and their results.")


def _chat_part(shape: Shape, part: dict[str, Any], limits: Limits, param: str) -> bool:
    kind = part.get("type")
    if kind == "image_url":
        inner = part.get("image_url")
        _image(shape, inner.get("url") if isinstance(inner, dict) else None, limits, param)
        return True
    return kind in ("text", "refusal") and isinstance(part.get(kind), str)


def _response_part(shape: Shape, part: dict[str, Any], limits: Limits, param: str) -> bool:
    kind = part.get("type")
    if kind == "input_image":
        _image(shape, part.get("image_url"), limits, param)
        return True
    if kind == "refusal":
        return isinstance(part.get("refusal"), str)
    return kind in ("input_text", "output_text", "reasoning_text", "text") and isinstance(part.get("text"), str)


def _block(shape: Shape, block: dict[str, Any], limits: Limits, param: str) -> bool:
    kind = block.get("type")
    if kind == "image":
        source = block.get("source")
        data = source.get("data") if isinstance(source, dict) and source.get("type") == "base64" else None
        _image(shape, None if not isinstance(data, str) else f"data:image/,{data}", limits, param)
        shape.image_bytes -= len("data:image/,")
        return True
    if kind == "tool_result":
        _content(shape, block.get("content"), limits, param, _block)
        return True
    if kind == "tool_use":
        shape.extra += _written_out(block.get("input"))
        return isinstance(block.get("name"), str)
    if kind in ("thinking", "redacted_thinking"):
        return True
    return kind == "text" and isinstance(block.get("text"), str)


def _image(shape: Shape, url: object, limits: Limits, param: str) -> None:
    if not limits.image_tokens:
        refuse(param, "This model takes no images.")
    if not isinstance(url, str) or not url.startswith("data:image/") or not url.isascii() or '"' in url or "\\" in url:
        refuse(param, "Send an image as data ('data:image/png;base64,…'): the gateway fetches nothing.")
    shape.images += 1
    shape.image_bytes += len(url)


def _tools(fields: Fields, name: str, limits: Limits, kinds: tuple[str | None, ...] = (None, "function")) -> int:
    """Tokens for tools: templates print them a second time, indented."""
    tools = fields.get(name)
    if tools is None:
        return 0
    if not isinstance(tools, list):
        refuse(name, f"{name!r} must be a list.")
    for tool in tools:
        if not isinstance(tool, dict) or tool.get("type") not in kinds:
            refuse(
                name, "Only functions of your own can be offered as tools: what a server runs itself is not metered."
            )
    return _printed(tools) + _PER_TOOL * len(tools) + limits.tool_tokens if tools else 0


def _printed(value: object) -> int:
    """The most bytes that a template makes of a value: JSON that is indented by four. Raises Nonsense."""
    if value is None:
        return 0
    try:
        indented_by_two = len(orjson.dumps(value, option=orjson.OPT_INDENT_2))
    except TypeError:
        refuse("tools", "What is nested deeper than 254 levels cannot be offered or printed.")
    return 2 * indented_by_two - len(encoded(value))


def _calls(message: Fields) -> int:
    """Bytes for the calls of tools in a message, beyond those that stand in the body."""
    calls, older = message.get("tool_calls"), message.get("function_call")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return sum(_written_out(one.get("arguments")) for one in [*functions, older] if isinstance(one, dict))


def _written_out(arguments: object) -> int:
    """The most bytes of a call's arguments: templates print them as JSON of their own, with blanks and numbers written out."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return 0  # no JSON: printed as it stands in the body
    try:
        return (
            len(json.dumps(arguments, ensure_ascii=False).encode(errors="surrogatepass"))
            if arguments is not None
            else 0
        )
    except RecursionError:
        refuse("tool_calls", "The arguments of a call are nested too deep.")


def _choices(fields: Fields, limits: Limits) -> int:
    """The most answers to one prompt."""
    found = 1
    for name in ("n", "best_of"):
        value = fields.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= limits.choices_max:
            refuse(name, f"{name!r} must be a whole number from 1 to {limits.choices_max}.")
        found = max(found, value)
    return found


def _list(fields: Fields, name: str, what: str) -> list[Any]:
    found = fields.get(name)
    if not isinstance(found, list) or not found:
        refuse(name, f"{name!r} must be a list with at least one {what}.")
    return found


def _texts(fields: Fields, name: str) -> int:
    """How many prompts: a text, texts, token numbers, or lists of token numbers."""
    given = fields.get(name)
    if isinstance(given, str):
        return 1
    if isinstance(given, list) and given:
        if all(type(one) is int for one in given):
            return 1
        if all(isinstance(one, str) for one in given):
            return len(given)
        if all(isinstance(one, list) and one and all(type(token) is int for token in one) for one in given):
            return len(given)
    return refuse(name, f"{name!r} must be a text, a list of texts, or a list of token numbers.")


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; absent is false."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        refuse(name, f"{name!r} must be true or false.")
    return value


def parsed(body: bytes) -> Fields:
    """The JSON object in a body. Raises Nonsense."""
    try:
        found = orjson.loads(
            body
        )  # strict: no NaN, no infinity, no half surrogates; of a key given twice the last counts
    except orjson.JSONDecodeError:
        raise Nonsense(denials.bad_request("The body is not valid JSON in UTF-8.", code="invalid_json")) from None
    if not isinstance(found, dict):
        raise Nonsense(denials.bad_request("The body must be one JSON object."))
    return found


def encoded(value: object) -> bytes:
    """JSON as it is forwarded. Raises Nonsense for what UTF-8 or JSON cannot write."""
    try:
        return orjson.dumps(value)
    except TypeError:
        raise Nonsense(
            denials.bad_request("The body holds a number or a character that cannot be written.", code="invalid_json")
        ) from None


def refuse(param: str, message: str) -> NoReturn:
    """Raises Nonsense."""
    raise Nonsense(denials.bad_request(message, param=param))

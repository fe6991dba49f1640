"""A model request: read, bounded, and written again for the model server.

Invariants: `prompt_bound` is never below what the model counts, `hold_tokens` never below what it may use. Servers are sent what
is written here and nothing else, so that they read the same limits as we do (a key given twice, `NaN`, another server's name for
a limit). Fields that only change how the model answers pass untouched.

The bound: no tokenizer makes more tokens of a text than it has bytes in UTF-8 (byte-level BPE; SentencePiece with byte fallback),
and the forwarded body holds every text that can reach the prompt. On top come what the chat template adds, tools a second time
(templates print them indented), and images by the model's own number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

from quota.gateway import denials
from quota.gateway.denials import Denied
from quota.gateway.models import CapField, Limits, Model, Models
from quota.gateway.usage import estimated_tokens

SMALLEST_OUTPUT: Final = 16
_PER_TOOL: Final = 64
_NAME_MAX: Final = 128
_CAPS: Final = ("max_tokens", "max_completion_tokens")
# Other servers' names for what is limited here, and what makes a prompt longer than its text.
_UNMETERED: Final = frozenset({
    "n_predict", "n_cmpl", "max_new_tokens", "max_output_tokens", "max_length", "chat_template", "prompt_embeds",
    "response_fields", "input_suffix", "input_prefix", "input_extra", "mm_processor_kwargs", "media", "images", "audio",
})  # fmt: skip


class Endpoint(StrEnum):
    """What is metered; the value is the path at the model server."""

    CHAT = "/chat/completions"
    COMPLETIONS = "/completions"


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What to ask a model server, but for the cap. Token counts; `cap` is the longest answer wanted, each of `answers`."""

    model: Model
    endpoint: Endpoint
    encoded: bytes = field(repr=False)  # the forwarded object without its caps and its last brace
    image_bytes: int
    prompt_bound: int
    cap: int
    prompts: int
    answers: int
    streamed: bool
    wants_usage: bool

    @property
    def smallest_cap(self) -> int:
        return min(self.cap, SMALLEST_OUTPUT)

    @property
    def prompt_estimate(self) -> int:
        """About what the model will count, rather too many: for requests whose count nobody told."""
        share = estimated_tokens(self.encoded) if not self.image_bytes else self.prompt_bound
        return min(share, self.prompt_bound)

    def hold_tokens(self, cap: int) -> int:
        """The most that can be used with answers of at most `cap`: text is bounded by its bytes, and all by the context."""
        by_text = self.prompt_bound + self.answers * cap
        by_context = self.prompts * self.model.limits.context_tokens + (self.answers - self.prompts) * cap
        return min(by_text, by_context)

    def cap_within(self, tokens: int) -> int | None:
        """The longest cap whose hold fits into `tokens`; None where even the smallest useful one does not."""
        if self.hold_tokens(self.cap) <= tokens:
            return self.cap
        cap = min((tokens - self.prompt_bound) // self.answers, self.cap)
        return cap if cap >= self.smallest_cap else None

    @property
    def most_believed(self) -> int:
        """A reported total beyond this is no count: four times what the model can do."""
        return 4 * max(self.hold_tokens(self.cap), self.answers * self.model.limits.context_tokens)

    def forwarded(self, cap: int) -> bytes:
        """The body for the model server."""
        names = _CAPS if self.endpoint is Endpoint.CHAT else _CAPS[:1]
        if self.endpoint is Endpoint.CHAT and self.model.cap_field is not CapField.BOTH:
            names = (self.model.cap_field.value,)
        caps = ",".join([f'"{name}":{cap}' for name in names])
        return b"%b,%b}" % (self.encoded, caps.encode())


class _Nonsense(Exception):
    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


def read_request(endpoint: Endpoint, body: bytes, models: Models) -> ModelRequest | Denied:
    """The request in a body, or what is wrong with it."""
    try:
        return _read(endpoint, _object(body), models)
    except _Nonsense as nonsense:
        return nonsense.denied


def _read(endpoint: Endpoint, fields: dict[str, Any], models: Models) -> ModelRequest:
    model = _model(fields.get("model"), models)
    limits = model.limits
    for name in _UNMETERED.intersection(fields):
        _refuse(name, f"{name!r} is not metered here and therefore denied. Use 'max_tokens' to limit the answer.")
    cap = _cap(endpoint, fields, limits)
    streamed = _flag(fields, "stream")
    wants_usage = _stream_options(fields, streamed=streamed)
    if endpoint is Endpoint.CHAT:
        prompts, image_bytes, extra = 1, *_conversation(fields, limits)
    else:
        prompts, image_bytes = _prompts(fields.get("prompt")), 0
        extra = prompts * limits.message_tokens
    answers = prompts * max(_choices(fields, "n", limits), _choices(fields, "best_of", limits))
    if answers > limits.choices_max:
        _refuse("n", f"A request may ask for at most {limits.choices_max} answers. Send several requests.")
    fields["model"] = model.served_as
    encoded = _encoded(fields)[:-1]
    return ModelRequest(
        model, endpoint, encoded, image_bytes, len(encoded) - image_bytes + extra, cap, prompts, answers, streamed, wants_usage
    )  # fmt: skip


def _model(name: object, models: Models) -> Model:
    if not isinstance(name, str) or not name:
        _refuse("model", "'model' must name a model. GET /models lists those that you may use.")
    model = models.get(name)
    if model is None:
        raise _Nonsense(denials.unknown_model(name))
    if not model.servers:
        raise _Nonsense(denials.no_server(name))
    return model


def _cap(endpoint: Endpoint, fields: dict[str, Any], limits: Limits) -> int:
    """Take the client's limits out of `fields`; the smallest counts."""
    wanted = []
    for name in _CAPS:
        value = fields.pop(name, None)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            _refuse(name, f"{name!r} must be a whole number of at least 1.")
        wanted.append(value)
    return min(
        [*wanted, limits.largest_output_tokens]
        if wanted
        else [limits.default_output_tokens, limits.largest_output_tokens]
    )


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        _refuse(name, f"{name!r} must be true or false.")
    return value


def _stream_options(fields: dict[str, Any], *, streamed: bool) -> bool:
    """Ask for usage in every stream; whether the client asked for it too."""
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        _refuse("stream_options", "'stream_options' must be an object.")
    wants_usage = _flag(options or {}, "include_usage")
    if streamed:
        fields["stream_options"] = {**(options or {}), "include_usage": True}
    return wants_usage


def _choices(fields: Mapping[str, Any], name: str, limits: Limits) -> int:
    value = fields.get(name)
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= limits.choices_max:
        _refuse(name, f"{name!r} must be a whole number from 1 to {limits.choices_max}.")
    return value


def _conversation(fields: Mapping[str, Any], limits: Limits) -> tuple[int, int]:
    """Bytes of images, and tokens beyond the body's text: templates, tools, images."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "'messages' must be a list with at least one message.")
    image_bytes, images = 0, 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            _refuse("messages", "Each of 'messages' must be an object with a 'role'.")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            _refuse("messages", "A message's 'content' must be a text or a list of parts.")
        for part in content:
            size_bytes = _part(part, limits)
            image_bytes += size_bytes
            images += size_bytes > 0
    extra = limits.template_tokens + len(messages) * limits.message_tokens + images * limits.image_tokens
    return image_bytes, extra + _tools(fields, limits)


def _part(part: object, limits: Limits) -> int:
    """Check a part of a message; the bytes of its image, 0 for a text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "refusal", "image_url"):
        _refuse("messages", "A message's parts must be texts or images ('text', 'image_url').")
    if kind != "image_url":
        if not isinstance(part.get(kind), str):
            _refuse("messages", f"A part of type {kind!r} must hold a text.")
        return 0
    if not limits.image_tokens:
        _refuse("messages", "This model takes no images.")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url.startswith("data:image/") or not url.isascii() or '"' in url or "\\" in url:
        _refuse("messages", "Send an image as a data URL ('data:image/png;base64,…'): the gateway fetches nothing.")
    return len(url)


def _tools(fields: Mapping[str, Any], limits: Limits) -> int:
    extra = 0
    for name in ("tools", "functions"):
        tools = fields.get(name)
        if tools is None:
            continue
        if not isinstance(tools, list):
            _refuse(name, f"{name!r} must be a list.")
        if tools:
            extra += len(_encoded(tools)) + _PER_TOOL * len(tools) + limits.tool_tokens
    return extra


def _prompts(prompt: object) -> int:
    """How many prompts a completion has: a text, texts, token numbers, or lists of token numbers."""
    if isinstance(prompt, str):
        return 1
    if isinstance(prompt, list) and prompt:
        if all(type(one) is int for one in prompt):
            return 1
        if all(isinstance(one, str) for one in prompt):
            return len(prompt)
        if all(isinstance(one, list) and one and all(type(token) is int for token in one) for one in prompt):
            return len(prompt)
    return _refuse("prompt", "'prompt' must be a text, a list of texts, or a list of token numbers.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        raise _Nonsense(denials.bad_request("The body is not valid JSON in UTF-8.", code="invalid_json")) from None
    if not isinstance(found, dict):
        raise _Nonsense(denials.bad_request("The body must be one JSON object."))
    return found


def _encoded(value: object) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, RecursionError):
        raise _Nonsense(
            denials.bad_request("The body holds a number or a character that cannot be written.", code="invalid_json")
        ) from None


def _refuse(param: str, message: str) -> NoReturn:
    raise _Nonsense(denials.bad_request(message, param=param))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

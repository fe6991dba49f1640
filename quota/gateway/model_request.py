"""A model request: read, bounded, and written again for the model server.

Invariants: `prompt_bound` is never below what the model counts, `hold_tokens` never below what it may use. Servers are sent what
is written here and nothing else, so that they read the same limits as we do (a key given twice, `NaN`, another server's name for
a limit). What each interface may ask for stands in `bodies`.

The bound: no tokenizer makes more tokens of a text than it has bytes in UTF-8 (byte-level BPE; SentencePiece with byte fallback),
and the forwarded body holds every text that can reach the prompt. On top come what the chat template adds, tools a second time
(templates print them indented), and images by the model's own number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from quota.gateway import denials
from quota.gateway.bodies import Nonsense, encoded, flag, parsed, refuse, shape_of
from quota.gateway.denials import Denied
from quota.gateway.dialects import DIALECTS, Dialect, Endpoint
from quota.gateway.models import CapField, Limits, Model, Models
from quota.gateway.usage import estimated_tokens

SMALLEST_OUTPUT: Final = 16
_LARGEST_INT: Final = 2**63
__all__ = ["Endpoint", "ModelRequest", "read_request"]


@dataclass(slots=True)  # not frozen: made with every request, and a frozen one takes three times as long
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
    def dialect(self) -> Dialect:
        return DIALECTS[self.endpoint]

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
        by_context = self.prompts * self.model.limits.context_tokens + max(self.answers - self.prompts, 0) * cap
        return min(by_text, by_context)

    def cap_within(self, tokens: int) -> int | None:
        """The longest cap whose hold fits into `tokens`; None where even the smallest useful one does not."""
        if self.hold_tokens(self.cap) <= tokens:
            return self.cap
        if not self.answers:
            return None
        cap = min((tokens - self.prompt_bound) // self.answers, self.cap)
        return cap if cap >= self.smallest_cap else None

    @property
    def most_believed(self) -> int:
        """A reported total beyond this is no count: four times what the model can do."""
        return 4 * max(self.hold_tokens(self.cap), max(self.answers, self.prompts) * self.model.limits.context_tokens)

    def forwarded(self, cap: int) -> bytes:
        """The body for the model server."""
        if not self.answers:
            return b"%b}" % self.encoded
        names = self.dialect.caps
        if self.endpoint is Endpoint.COMPLETIONS:
            names = names[:1]
        elif self.endpoint is Endpoint.CHAT and self.model.cap_field is not CapField.BOTH:
            names = (self.model.cap_field.value,)
        caps = ",".join([f'"{name}":{cap}' for name in names])
        return b"%b,%b}" % (self.encoded, caps.encode())


def read_request(endpoint: Endpoint, body: bytes, models: Models) -> ModelRequest | Denied:
    """The request in a body, or what is wrong with it."""
    try:
        return _read(endpoint, parsed(body), models)
    except Nonsense as nonsense:
        return nonsense.denied


def _read(endpoint: Endpoint, fields: dict[str, Any], models: Models) -> ModelRequest:
    model = _model(fields.get("model"), models, endpoint)
    limits, caps = model.limits, DIALECTS[endpoint].caps
    shape = shape_of(endpoint, fields, limits, caps)
    answers = 0
    cap = 0
    if endpoint not in (Endpoint.EMBEDDINGS, Endpoint.COUNT_TOKENS):
        cap = _cap(caps, fields, limits)
        answers = shape.prompts * shape.choices
        if answers > limits.choices_max:
            refuse("n", f"A request may ask for at most {limits.choices_max} answers. Send several requests.")
    streamed = flag(fields, "stream")
    openai = endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS)
    wants_usage = _stream_options(fields, streamed=streamed) if openai else True
    fields["model"] = model.served_as
    written = encoded(fields)[:-1]
    prompt_bound = len(written) - shape.image_bytes + shape.extra
    # Fields by position: by name it takes twice as long.
    return ModelRequest(
        model, endpoint, written, shape.image_bytes, prompt_bound, cap, shape.prompts, answers, streamed, wants_usage
    )


def _model(name: object, models: Models, endpoint: Endpoint) -> Model:
    if not isinstance(name, str) or not name:
        refuse("model", "'model' must name a model. GET /models lists those that you may use.")
    model = models.get(name)
    if model is None:
        raise Nonsense(denials.unknown_model(name))
    if not model.servers:
        raise Nonsense(denials.no_server(name))
    if not model.serves(endpoint):
        raise Nonsense(denials.not_served(name))
    return model


def _cap(names: tuple[str, ...], fields: dict[str, Any], limits: Limits) -> int:
    """Take the client's limits out of `fields`; the smallest counts."""
    cap = limits.largest_output_tokens
    named = False
    for name in names:
        value = fields.pop(name, None)
        if value is None:
            continue
        if type(value) is float and value > _LARGEST_INT:
            value = int(value)  # a whole number beyond 64 bits is read as a float
        if type(value) is not int or value < 1:
            refuse(name, f"{name!r} must be a whole number of at least 1.")
        cap, named = min(cap, value), True
    return cap if named else min(cap, limits.default_output_tokens)


def _stream_options(fields: dict[str, Any], *, streamed: bool) -> bool:
    """Ask for usage in every stream; whether the client asked for it too."""
    options = fields.get("stream_options")
    if options is None and not streamed:
        return False
    if options is not None and not isinstance(options, dict):
        refuse("stream_options", "'stream_options' must be an object.")
    wants_usage = flag(options or {}, "include_usage")
    if streamed:
        fields["stream_options"] = {**(options or {}), "include_usage": True}
    return wants_usage

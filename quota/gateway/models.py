"""The models that the gateway offers, and the servers that have them.

Invariant: a server that could not be reached is asked last for a few seconds, never forgotten: where all are out, the request
still tries one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final

from quota.gateway.dialects import Endpoint
from quota.service.upstreams import Target

_AVOID_S: Final = 5.0


class CapField(StrEnum):
    """The field by which a model's servers read the longest answer of a conversation."""

    BOTH = "both"
    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's numbers; portal.toml documents them key by key."""

    context_tokens: int
    default_output_tokens: int = 1024
    largest_output_tokens: int = 2**24
    choices_max: int = 8
    template_tokens: int = 256
    message_tokens: int = 16
    tool_tokens: int = 512
    image_tokens: int = 0


class Tokenizer(StrEnum):
    """How a model's servers are asked for the exact length of a prompt, near the end of a balance."""

    NONE = "none"
    LLAMA_CPP = "llama.cpp"  # /apply-template and /tokenize at the server's root
    VLLM = "vllm"  # /tokenize at the server's root; SGLang has the same


@dataclass(frozen=True, slots=True)
class Price:
    """Tokens charged for one token of a model, from an instant on; pinned to a request's hold."""

    weight: Fraction
    one: bool = field(init=False, repr=False, compare=False)  # the usual weight, for which nothing is computed
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "one", self.weight == 1)
        object.__setattr__(self, "text", str(self.weight))

    def up(self, tokens: int) -> int:
        """What `tokens` cost at most; rounds up, so that a hold always suffices."""
        return tokens if self.one else math.ceil(tokens * self.weight)

    def down(self, tokens: int) -> int:
        """What `tokens` cost; rounds down, once a request."""
        return tokens if self.one else math.floor(tokens * self.weight)

    def affordable(self, amount: int) -> int:
        """The most tokens whose hold fits into `amount`; unbounded where the model is free."""
        if self.one:
            return amount
        return math.floor(amount / self.weight) if self.weight else 2**62


@dataclass(slots=True, eq=False)
class Server:
    """One server of a model; `busy` counts this process's requests that it is working on."""

    target: Target
    provider: str
    hardware: str
    cloud: str
    gpus: int = 0
    busy: int = 0
    healthy: bool = True  # as the last look found it
    avoid_until_s: float = field(default=0.0, repr=False)  # monotonic

    def failed(self) -> None:
        self.avoid_until_s = time.monotonic() + _AVOID_S


CONVERSATIONS: Final = frozenset({
    Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.COUNT_TOKENS,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its servers. `later` are weights that replace `weight`, each from an instant on, oldest first."""

    name: str
    served_as: str
    title: str
    license: str
    limits: Limits
    weight: Fraction
    servers: tuple[Server, ...]
    cap_field: CapField = CapField.BOTH
    later: tuple[tuple[datetime, Fraction], ...] = ()
    endpoints: frozenset[Endpoint] = CONVERSATIONS
    projects: frozenset[str] = frozenset()  # slugs of those that may use it; empty: all
    license_flags: tuple[str, ...] = ()
    tokenizer: Tokenizer = Tokenizer.NONE
    price: Price = field(init=False, repr=False, compare=False)  # the first one

    def __post_init__(self) -> None:
        object.__setattr__(self, "price", Price(self.weight))

    def serves(self, endpoint: Endpoint) -> bool:
        return endpoint in self.endpoints

    def open_to(self, project_slug: str) -> bool:
        return not self.projects or project_slug in self.projects

    def price_at(self, at: datetime) -> Price:
        """What a token costs at an instant."""
        if not self.later:
            return self.price
        weight = self.weight
        for since, later in self.later:
            if since <= at:
                weight = later
        return Price(weight)

    def least_busy(self, tried: Collection[Server] = ()) -> Server | None:
        """The server to ask next: reachable before doubtful, then the least busy; None where all were tried."""
        if len(self.servers) == 1:
            return None if tried else self.servers[0]
        now_s = time.monotonic()
        left = [server for server in self.servers if server not in tried]
        return min(
            left, key=lambda server: (not server.healthy or server.avoid_until_s > now_s, server.busy), default=None
        )


class Models:
    """All models by name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def get(self, name: str) -> Model | None:
        return self._models.get(name)

    def offered(self, project_slug: str | None = None) -> Sequence[Model]:
        """Models that have a server, by name: those of a project, or all."""
        return [
            model
            for _, model in sorted(self._models.items())
            if model.servers and (project_slug is None or model.open_to(project_slug))
        ]

    def gpus(self, model: str, provider: str, hardware: str, cloud: str) -> int:
        """GPUs of a model's servers in one tier."""
        found = self._models.get(model)
        servers = found.servers if found is not None else ()
        return sum(
            one.gpus for one in servers if (one.provider, one.hardware, one.cloud) == (provider, hardware, cloud)
        )

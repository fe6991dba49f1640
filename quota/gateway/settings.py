"""The tables of portal.toml that the gateway owns: `[gateway]` and `[models.<name>]`.

Invariant: a server on a private, link-local or loopback address is used only where its table says `allow_private = true`, since an
upstream is a place to which the gateway sends what people wrote. `quota.settings` reads the file and includes these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from quota.domain.network import is_public
from quota.gateway.dialects import Endpoint
from quota.gateway.models import CapField, Limits, Model, Models, Server, Tokenizer
from quota.service.upstreams import Target
from spawners.profiles import ID_PATTERN, Duration

TABLES: Final = frozenset({"gateway", "models"})
DEMO: Final = "demo"  # the launcher's own model server, wherever it listens
MODEL_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
_FILE_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_FROZEN: Final = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]


def weight_fraction(text: object) -> Fraction:
    """Read "1", "0.5" or "3/2" as an exact weight."""
    if not isinstance(text, str) or not text.isascii() or len(text) > 20 or "e" in text.lower() or "_" in text:
        raise ValueError('write a weight as text, such as "1", "0.5" or "3/2"')
    try:
        weight = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError('write a weight as text, such as "1", "0.5" or "3/2"') from None
    if not 0 <= weight <= 1000:
        raise ValueError("must be between 0 and 1000")
    return weight


Weight = Annotated[Fraction, BeforeValidator(weight_fraction)]


class Serves(StrEnum):
    """What a model does, by the routes that clients know."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS) if self is Serves.MESSAGES else (Endpoint[self.name],)


class LicenseFlag(StrEnum):
    """What people must know of a licence before they use a model."""

    ATTRIBUTION = "attribution"
    ACCEPTABLE_USE = "acceptable-use"
    NON_COMMERCIAL = "non-commercial"
    RESEARCH_ONLY = "research-only"
    SHARE_ALIKE = "share-alike"


class WeightTable(BaseModel):
    """A `[[models.<name>.weights]]` entry: what a token of the model costs from a day on."""

    model_config = _FROZEN

    weight: Weight = Field(description='Tokens charged for one token of this model, such as "1" or "3/2".')
    valid_from: date = Field(description="First day, in UTC, on which requests are held and charged at this weight.")

    @property
    def since(self) -> datetime:
        return datetime.combine(self.valid_from, time(), tzinfo=UTC)


class GatewayTable(BaseModel):
    """The `[gateway]` table: the limits of every model request."""

    model_config = _FROZEN

    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="A port of this machine on which the portal's own process answers models by the gateway's lighter server, for "
        "`hub.gateway_url`; 0: by the pages' server only.",
    )
    largest_body_mib: int = Field(8, ge=1, le=256, description="Largest request body, in MiB.")
    body_deadline: Duration = Field(30, description="How long a client may take to send its request.")
    connect_deadline: Duration = Field(5, description="How long a model server may take to accept a connection.")
    idle_deadline: Duration = Field(
        120, description="Longest silence in a streamed answer, the wait for its beginning included."
    )
    request_deadline: Duration = Field(
        1800, description="Longest time that one request may take; it is cut then, and charged to there."
    )

    health_interval: Duration = Field(10, description="How often each model server is asked whether it answers.")
    requests_per_minute: int = Field(
        0,
        ge=0,
        le=10**9,
        description="Most requests of one key in a minute; 0: no limit. A personal key may have a lower one.",
    )
    tokens_per_minute: int = Field(
        0,
        ge=0,
        le=10**15,
        description="Most tokens of one key in a minute, as they are held and then charged; 0: no limit.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.idle_deadline > self.request_deadline:
            raise ValueError("idle_deadline must not be longer than request_deadline")
        return self


class ServerTable(BaseModel):
    """A `[[models.<name>.servers]]` entry: one server that has the model."""

    model_config = _FROZEN

    url: str = Field(
        min_length=1,
        max_length=300,
        description="The server's OpenAI root, such as `http://10.0.0.5:8000/v1`; \"demo\" is the launcher's own model.",
    )
    key_file: str = Field(
        "",
        pattern=rf"(?:{_FILE_NAME_PATTERN})|^$",
        description="File in the data folder's `secrets/` that holds the server's API key; empty: it needs none.",
    )
    allow_private: bool = Field(
        False, description="Needed for an address on this machine or a private network: prompts are sent there."
    )
    provider: str = Field(pattern=ID_PATTERN, description="Who runs it; kept with each usage record.")
    hardware: str = Field(pattern=ID_PATTERN, description="What it runs on; kept with each usage record.")
    cloud: str = Field(pattern=ID_PATTERN, description="Tier that provides the hardware; kept with each usage record.")
    gpus: int = Field(0, ge=0, le=100_000, description="GPUs that it has, so that tokens per GPU-hour can be told.")

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        if url != DEMO and (
            parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username
        ):
            raise ValueError('must be "demo" or an http address without user, password or query')
        return url.rstrip("/")

    @model_validator(mode="after")
    def _private_on_purpose(self) -> Self:
        if not self.allow_private and (self.url == DEMO or _is_inside(self.host)):
            raise ValueError("the address is private: set allow_private = true if prompts may go there")
        return self

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.url == DEMO else urlsplit(self.url).hostname or ""


class ModelTable(BaseModel):
    """A `[models.<name>]` table: a language model that projects may use; the name is what clients write as `model`."""

    model_config = _FROZEN

    title: str = Field(min_length=1, max_length=80, description="Name that people read.")
    license: str = Field("", max_length=80, description="The weights' licence.")
    served_as: str = Field("", max_length=128, description="What the servers call it; empty: the same name.")
    context_tokens: int = Field(ge=16, le=2**24, description="Tokens that prompt and answer may have together.")
    default_output_tokens: int = Field(
        1024, ge=1, le=2**24, description="Longest answer where the client names no limit."
    )
    largest_output_tokens: int = Field(
        0, ge=0, le=2**24, description="Longest answer that a client may ask for; 0: the context."
    )
    weight: Weight = Field(
        Fraction(1), description='Tokens charged for one token of this model, exact, such as "1" or "3/2".'
    )
    choices_max: int = Field(
        8, ge=1, le=128, description="Most answers that one request may ask for (`n`, `best_of`, prompts)."
    )
    template_tokens: int = Field(
        256,
        ge=0,
        le=65_536,
        description="At most what the chat template adds to a conversation, default system prompt included.",
    )
    message_tokens: int = Field(16, ge=0, le=1024, description="At most what the chat template adds to each message.")
    tool_tokens: int = Field(
        512,
        ge=0,
        le=65_536,
        description="At most what the chat template adds where tools are offered, besides their text.",
    )
    image_tokens: int = Field(0, ge=0, le=65_536, description="Most tokens of one image; 0: the model takes none.")
    cap_field: Annotated[CapField, Field(strict=False)] = Field(
        CapField.BOTH,
        description="Field in which the servers read the longest answer: `max_tokens`, `max_completion_tokens` or `both`.",
    )
    weights: tuple[WeightTable, ...] = Field(
        (), strict=False, max_length=100, description="Later weights, dated; never edited, only added to."
    )
    serves: tuple[Annotated[Serves, Field(strict=False)], ...] = Field(
        (Serves.CHAT, Serves.COMPLETIONS, Serves.RESPONSES, Serves.MESSAGES),
        strict=False,
        min_length=1,
        description="Routes that the model answers: `chat`, `completions`, `responses`, `messages`, `embeddings`.",
    )
    projects: tuple[str, ...] = Field(
        (), strict=False, max_length=10_000, description="Short names of the projects that may use it; empty: all."
    )
    license_flags: tuple[Annotated[LicenseFlag, Field(strict=False)], ...] = Field(
        (),
        strict=False,
        description="What the licence asks for: `attribution`, `acceptable-use`, `non-commercial`, `research-only`, `share-alike`.",
    )
    tokenizer: Annotated[Tokenizer, Field(strict=False)] = Field(
        Tokenizer.NONE,
        description="How its servers count a prompt exactly, asked near the end of a balance: `none`, `llama.cpp` or `vllm`.",
    )
    servers: tuple[ServerTable, ...] = Field(
        strict=False, min_length=1, max_length=64, description="Where it runs; the least busy one is asked."
    )


def open_models(
    gateway: GatewayTable, tables: Mapping[str, ModelTable], *, secrets: Path, demo_port: int | None
) -> Models:
    """The models with their servers and keys. Raises ValueError, one line a mistake, where a key file cannot be used."""
    keys, wrong = _read_keys(tables, secrets)
    if wrong:
        raise ValueError("\n".join(wrong))
    found = []
    for name, table in tables.items():
        servers = tuple(
            _server(one, gateway, keys.get(one.key_file, ""), demo_port)
            for one in table.servers
            if one.url != DEMO or demo_port is not None
        )
        found.append(_model(name, table, servers))
    return Models(found)


def allowed_hosts(tables: Mapping[str, ModelTable]) -> frozenset[str]:
    """The hosts that may be private."""
    return frozenset(one.host for table in tables.values() for one in table.servers if one.allow_private)


def _model(name: str, table: ModelTable, servers: tuple[Server, ...]) -> Model:
    limits = Limits(
        context_tokens=table.context_tokens,
        default_output_tokens=min(table.default_output_tokens, table.context_tokens),
        largest_output_tokens=min(table.largest_output_tokens or table.context_tokens, table.context_tokens),
        choices_max=table.choices_max,
        template_tokens=table.template_tokens,
        message_tokens=table.message_tokens,
        tool_tokens=table.tool_tokens,
        image_tokens=table.image_tokens,
    )
    return Model(
        name=name,
        served_as=table.served_as or name,
        title=table.title,
        license=table.license,
        limits=limits,
        weight=table.weight,
        servers=servers,
        cap_field=table.cap_field,
        later=tuple(sorted((one.since, one.weight) for one in table.weights)),
        endpoints=frozenset(endpoint for one in table.serves for endpoint in one.endpoints),
        projects=frozenset(table.projects),
        license_flags=tuple(flag.value for flag in table.license_flags),
        tokenizer=table.tokenizer,
    )


def _server(table: ServerTable, gateway: GatewayTable, key: str, demo_port: int | None) -> Server:
    url = f"http://127.0.0.1:{demo_port}/v1" if table.url == DEMO else table.url
    target = Target(url, key, gateway.connect_deadline, gateway.idle_deadline, gateway.request_deadline)
    return Server(target, table.provider, table.hardware, table.cloud, table.gpus)


def _read_keys(tables: Mapping[str, ModelTable], secrets: Path) -> tuple[dict[str, str], list[str]]:
    keys: dict[str, str] = {}
    wrong: list[str] = []
    for name in sorted({one.key_file for table in tables.values() for one in table.servers} - {""}):
        try:
            keys[name] = (secrets / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{secrets / name}: file: cannot be read ({type(error).__name__})")
            continue
        if not keys[name].isprintable() or not keys[name]:
            wrong.append(f"{secrets / name}: file: holds no key")
    return keys, wrong


def _is_inside(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))

"""The tables of portal.toml that `quota` owns, the environment and the secret files, validated into one frozen object.

Invariant: settings that load are complete and right; everything wrong is reported at once, one line each, as
`file: key: reason`, and never with the value, which could be a secret. Secrets show in no repr.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from quota.adapters import exchange_settings, mail_settings
from quota.adapters.exchange_settings import ExchangeTable
from quota.adapters.mail_settings import MailTable
from quota.backend_settings import engine_helper, grading_place, slurm_clusters
from quota.domain.grading import GradingPlace
from quota.domain.limits import Limits
from quota.domain.rates import ChargeRate
from quota.gateway import settings as gateway
from quota.gateway.settings import GatewayTable, ModelName, ModelTable
from quota.service.services import Policy, Programme
from quota.settings_file import SettingsError as SettingsError
from quota.settings_file import read_toml
from spawners.profiles import ID_PATTERN, Duration, Profiles
from spawners.slurm_settings import SlurmTable

_OWN: Final = frozenset({"quota", "programme", "policy", "limits", "rates"})
TABLES: Final[frozenset[str]] = _OWN | gateway.TABLES | mail_settings.TABLES | exchange_settings.TABLES
SECRETS: Final = ("quota_api_token", "hub_credential", "session_key_secret", "cookie_key", "model_key")


def rate_fraction(text: object) -> Fraction:
    """Read "1", "0.5" or "3/2" as an exact rate."""
    if not isinstance(text, str) or not text.isascii() or len(text) > 20 or "e" in text.lower() or "_" in text:
        raise ValueError('write a rate as text, such as "1", "0.5" or "3/2"')
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError('write a rate as text, such as "1", "0.5" or "3/2"') from None
    if not 0 <= rate <= 1000:
        raise ValueError("must be between 0 and 1000")
    return rate


Rate = Annotated[Fraction, BeforeValidator(rate_fraction)]
_FROZEN: Final = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class QuotaTable(BaseModel):
    """The `[quota]` table: where the ledger lives."""

    model_config = _FROZEN

    database: str = Field(
        "",
        max_length=500,
        repr=False,
        description="SQLAlchemy URL of the ledger's database, such as `postgresql+psycopg://…`; empty means SQLite in the data folder.",
    )
    spool: str = Field(
        "",
        max_length=500,
        pattern="^(/.*)?$",
        description="Folder for changes that wait for the ledger, best on another disk than the ledger's; empty means `spool` in the data folder.",
    )


class ProgrammeTable(BaseModel):
    """The `[programme]` table: who awards, and how much may be asked for."""

    model_config = _FROZEN

    name: str = Field("Compute Commons", min_length=1, max_length=80, description="Name of the support programme.")
    largest_ask_gpu_hours: int = Field(
        10_000_000, ge=1, le=10_000_000, description="Most GPU-hours that one application may ask for."
    )
    largest_ask_tokens: int = Field(
        10**15, ge=1, le=10**15, description="Most tokens that one application may ask for."
    )
    longest_ask_days: int = Field(1096, ge=1, le=3660, description="Longest period that one application may ask for.")


class PolicyTable(BaseModel):
    """The `[policy]` table: the numbers of docs/reference/policy.md."""

    model_config = _FROZEN

    stop_margin: Duration = Field(
        120, description="Held beyond the chosen runtime, so that a session can stop inside its hold."
    )
    meter_interval: Duration = Field(60, description="Longest time between two charges of a running session.")
    start_lease: Duration = Field(600, description="How long a hold waits for a session that nobody has seen.")
    ended_grace: Duration = Field(
        30,
        description="How long a hold stays after the hub says that its session ended and nothing shows that it ever ran.",
    )
    idle_notice: Duration = Field(
        600,
        description="Time between the notice to the owner of an idle session and its stop; half the idle time at most.",
    )
    unknown_lease: Duration = Field(
        3600, description="How long a session's hold is believed without news of its backend."
    )
    stop_grace: Duration = Field(
        60, description="Between SIGTERM and SIGKILL of a stopped session; inside the stop margin."
    )
    notice: Duration = Field(600, description="How long a session still runs after a decision that it has to end.")
    pending_ask: Duration = Field(86_400, description="Wait in a queue after which its owner is asked once.")
    pending_longest: Duration = Field(172_800, description="Wait in a queue after which a session is cancelled.")
    grace_days: int = Field(
        14, ge=0, le=366, description="Days after an allocation's end in which rescue sessions start."
    )
    pi_absence_days: int = Field(
        30, ge=0, le=366, description="Days without a PI after which a project starts nothing new."
    )
    rescue_a_day: Duration = Field(7200, description="Rescue sessions of one person in one UTC day.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stop_margin < 60:
            raise ValueError("stop_margin must be at least 1 min: a session is killed 60 s after it is told to stop")
        if self.meter_interval > 60:
            raise ValueError("meter_interval must be at most 60 s")
        if self.stop_grace >= self.stop_margin:
            raise ValueError("stop_grace must be shorter than stop_margin: both lie behind the chosen runtime")
        return self


class LimitsTable(BaseModel):
    """The `[limits]` table: what one person and one project may have at once, and a person in a day; 0: no such limit."""

    model_config = _FROZEN

    person_sessions: int = Field(0, ge=0, le=10_000, description="Sessions that one person may have at once.")
    person_gpus: int = Field(0, ge=0, le=100_000, description="GPUs that one person may have in use at once.")
    project_sessions: int = Field(0, ge=0, le=100_000, description="Sessions that one project may have at once.")
    project_gpus: int = Field(0, ge=0, le=1_000_000, description="GPUs that one project may have in use at once.")
    person_gpu_hours_a_day: int = Field(
        0, ge=0, le=1_000_000, description="GPU-hours that one person may start in one UTC day, holds included."
    )

    def to_limits(self) -> Limits:
        return Limits(
            self.person_sessions, self.person_gpus, self.project_sessions, self.project_gpus,
            self.person_gpu_hours_a_day * 3_600_000,
        )  # fmt: skip


class RateTable(BaseModel):
    """One `[[rates]]` entry: the weight of a hardware's GPU time, from a day on."""

    model_config = _FROZEN

    hardware: str = Field(pattern=ID_PATTERN, description="Hardware name that profiles refer to.")
    rate: Rate = Field(
        description='GPU-hours charged for one hour of one GPU, exact, such as "1" or "1/2"; the reference GPU has "1".'
    )
    valid_from: date = Field(description="First day, in UTC, on which new holds are made at this rate.")

    def to_rate(self) -> ChargeRate:
        return ChargeRate(self.hardware, self.rate, datetime.combine(self.valid_from, time(), tzinfo=UTC))


class QuotaTables(BaseModel):
    """Every table of portal.toml that `quota` owns."""

    model_config = _FROZEN

    quota: QuotaTable = Field(default_factory=QuotaTable, description="Where the ledger lives.")
    programme: ProgrammeTable = Field(default_factory=ProgrammeTable, description="Who awards.")
    limits: LimitsTable = Field(default_factory=LimitsTable, description="What may be had at once, and in a day.")
    policy: PolicyTable = Field(default_factory=PolicyTable, description="The policy's numbers.")
    exchange: ExchangeTable = Field(
        default_factory=ExchangeTable, description="How much courses may hand out and hand in."
    )
    mail: MailTable = Field(default_factory=MailTable, description="The server that takes the portal's mails.")
    gateway: GatewayTable = Field(default_factory=GatewayTable, description="The limits of every model request.")
    models: dict[ModelName, ModelTable] = Field(default_factory=dict, description="Language models, by name.")
    rates: list[RateTable] = Field(
        default_factory=list, description="Charge rates, dated; never edited, only added to."
    )

    @model_validator(mode="after")
    def _one_rate_a_day(self) -> Self:
        days = [(rate.hardware, rate.valid_from) for rate in self.rates]
        if len(set(days)) != len(days):
            raise ValueError("rates: two rates of one hardware on one day")
        return self


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the secret files hold; read once, shown nowhere."""

    quota_api_token: str = field(repr=False)
    hub_credential: str = field(repr=False)
    session_key_secret: str = field(repr=False)
    cookie_key: str = field(repr=False)
    model_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the quota service is configured with."""

    portal_file: Path
    data: Path
    public_url: str
    hub_port: int
    quota_port: int
    model_port: int | None
    web_parts: Path
    tables: QuotaTables
    profiles: Profiles
    secrets: Secrets
    engine_helper: Path | None = None  # None: no profile runs in containers
    clusters: Mapping[str, SlurmTable] = field(default_factory=dict)  # of `[slurm.*]`, those that profiles name
    user_domains: bool = False  # sessions have domains of their own, below the portal's
    grading: GradingPlace = field(default_factory=GradingPlace)

    @property
    def base_path(self) -> str:
        """The path of the public URL, '/' or '/…/'."""
        return urlsplit(self.public_url).path or "/"

    @property
    def hub_api_url(self) -> str:
        return f"http://127.0.0.1:{self.hub_port}{self.base_path}hub/api"

    @property
    def policy(self) -> Policy:
        table = self.tables.policy
        return Policy(
            stop_margin_s=table.stop_margin,
            meter_interval_s=table.meter_interval,
            start_lease_s=table.start_lease,
            ended_grace_s=table.ended_grace,
            unknown_lease_s=table.unknown_lease,
            stop_grace_s=table.stop_grace,
            notice_s=table.notice,
            pending_ask_s=table.pending_ask,
            pending_max_s=table.pending_longest,
            grace_days=table.grace_days,
            pi_absence_days=table.pi_absence_days,
            rescue_s_a_day=table.rescue_a_day,
            idle_notice_s=table.idle_notice,
        )

    @property
    def mail_password(self) -> str:
        """The mail server's password, '' where the site names none. Raises SettingsError."""
        name = self.tables.mail.password_file
        return _secret(self.data / "secrets" / name) if name else ""

    @property
    def programme(self) -> Programme:
        table = self.tables.programme
        return Programme(table.name, table.largest_ask_gpu_hours, table.largest_ask_tokens, table.longest_ask_days)


def load(path: Path) -> tuple[QuotaTables, Profiles]:
    """Read this package's tables and the profiles that it prices. Raises SettingsError."""
    content = read_toml(path)
    try:
        tables = QuotaTables.model_validate({name: content[name] for name in content if name in TABLES})
    except ValidationError as error:
        raise _explained(path, error) from None
    try:
        profiles = Profiles.from_tables(content.get("profiles", {}))
    except (ValidationError, ValueError, AttributeError):
        # spawners.settings reports the reason: the table is its own
        raise SettingsError([f"{path}: profiles: cannot be used"]) from None
    priced = {rate.hardware for rate in tables.rates}
    missing = sorted({one.hardware for one in profiles if one.gpus > 0} - priced)
    if missing:
        raise SettingsError(f"{path}: rates: no rate for hardware {name}, which a profile uses" for name in missing)
    return tables, profiles


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read environment, portal.toml and secrets. Raises SettingsError with every line that is wrong."""
    env = _Environment(environment)
    portal_file, data = Path(env.text("COMMONS_PORTAL_FILE")), Path(env.text("COMMONS_DATA"))
    public_url, web_parts = env.text("COMMONS_PUBLIC_URL"), Path(env.text("COMMONS_WEB_PARTS"))
    hub_port, quota_port = env.port("COMMONS_HUB_PORT"), env.port("COMMONS_QUOTA_PORT")
    model_port = env.port("COMMONS_MODEL_PORT") if environment.get("COMMONS_MODEL_PORT") else None
    if public_url and not (public_url.startswith(("http://", "https://")) and public_url.endswith("/")):
        env.lines.append("environment: COMMONS_PUBLIC_URL: must be an http address that ends in '/'")
    if env.lines:
        raise SettingsError(env.lines)
    tables, profiles = load(portal_file)
    secrets = read_secrets(data / "secrets")
    helper = engine_helper(portal_file, data, profiles)
    return Settings(
        portal_file,
        data,
        public_url,
        hub_port,
        quota_port,
        model_port,
        web_parts,
        tables,
        profiles,
        secrets,
        helper,
        slurm_clusters(portal_file, profiles),
        bool(environment.get("COMMONS_USER_DOMAINS")),
        grading_place(portal_file),
    )


def database_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, Path]:
    """The database's URL, '' for the data folder's own, and the data folder: all that some commands need. Raises SettingsError."""
    env = _Environment(environment)
    portal_file, data = Path(env.text("COMMONS_PORTAL_FILE")), Path(env.text("COMMONS_DATA"))
    if env.lines:
        raise SettingsError(env.lines)
    return load(portal_file)[0].quota.database, data


def read_secrets(folder: Path) -> Secrets:
    """Read one secret a file. Raises SettingsError."""
    values, lines = {}, []
    for name in SECRETS:
        try:
            values[name] = (folder / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            lines.append(f"{folder / name}: file: cannot be read ({type(error).__name__})")
            continue
        if len(values[name]) < 16:
            lines.append(f"{folder / name}: file: holds fewer than 16 characters")
    if lines:
        raise SettingsError(lines)
    return Secrets(**values)


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: file: cannot be read ({type(error).__name__})"]) from None


class _Environment:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.lines: list[str] = []

    def text(self, name: str) -> str:
        value = self._environment.get(name, "")
        if not value:
            self.lines.append(f"environment: {name}: is not set")
        return value

    def port(self, name: str) -> int:
        value = self.text(name)
        if value and not (value.isascii() and value.isdigit() and 0 < int(value) < 65536):
            self.lines.append(f"environment: {name}: is no port number")
            return 0
        return int(value or 0)


def _explained(path: Path, error: ValidationError) -> SettingsError:
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"]).lstrip(".")
        reason = "unknown key" if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
        lines.append(f"{path}: {key or 'tables'}: {reason}")
    return SettingsError(lines)

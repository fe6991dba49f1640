"""What the hub is configured with: the environment, its tables of portal.toml and its secrets, as one frozen object.

Invariants: nothing else in `hub` reads the environment, portal.toml or a secret; everything wrong is reported at once as
`file: key: reason` and never with a value; secrets never show in a repr. Variables and files: docs/reference/runtime.md.

`python -m hub.settings` checks the file that $COMMONS_PORTAL_FILE names and exits 2 on an error.
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hub.sign_in_settings import SignInTable
from spawners import settings as spawner_settings
from spawners.container_settings import ContainersTable
from spawners.grading_settings import GradingTable
from spawners.profiles import Duration, Profiles
from spawners.settings import SettingsError, explain, read_tables
from spawners.slurm_settings import SlurmTable

TABLES: Final[frozenset[str]] = frozenset({"hub", "sign_in"})
LOOPBACK: Final = "127.0.0.1"

_PORTS: Final = ("COMMONS_HUB_PORT", "COMMONS_QUOTA_PORT", "COMMONS_PROXY_API_PORT")
_PASSED_ON: Final = (
    *_PORTS,
    "COMMONS_PORTAL_FILE",
    "COMMONS_DATA",
    "COMMONS_PUBLIC_URL",
    "COMMONS_PROXY_URL",
    "PYTHONPATH",
    "PATH",
    "LANG",
)
_HEX_SECRETS: Final = ("hub_cookie_secret", "hub_crypt_key")
_TEXT_SECRETS: Final = ("proxy_token", "quota_api_token", "launcher_api_token", "hub_credential")


class HubTable(BaseModel):
    """The `[hub]` table: the portal's name and what the hub allows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: str = Field(
        "Compute Commons", min_length=1, max_length=60, description="The portal's name on the hub's pages."
    )
    address: str = Field(
        "",
        max_length=200,
        description="What browsers open, `https://portal.example.org/`, where a TLS terminator stands before the proxy; empty: this machine only.",
    )
    user_domains: bool = Field(
        False,
        description="A domain for each person's sessions, below `address` (wildcard DNS and certificate): for each site of several people.",
    )
    named_servers: int = Field(
        4,
        ge=0,
        le=50,
        description="Sessions that a person may have at once beside the default one; 0: any number.",
    )
    idle_look: Duration = Field(60, description="How often each running notebook is asked whether its kernels work.")
    gateway_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9._\[\]:-]+)?$",
        description="Where the portal's proxy leads `/services/gateway/`, such as `http://127.0.0.1:9001` "
        "(`./commons gateway --port 9001`, or a balancer before several); empty: the quota service answers it.",
    )
    quota_deadline: Duration = Field(
        5, le=30, description="How long a start waits for the quota service before it is refused."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.address and not _is_address(self.address):
            raise ValueError("address: must be https://NAME/ (http for names of this machine only)")
        if self.user_domains and not _has_subdomains(self.address):
            raise ValueError("user_domains: needs an address with a name that can have names below it")
        return self


class HubTables(BaseModel):
    """Every table of portal.toml that `hub` owns."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hub: HubTable = Field(default_factory=HubTable, description="The hub.")
    sign_in: SignInTable = Field(default_factory=SignInTable, description="Sign-in.")


@dataclass(frozen=True, slots=True)
class DemoUser:
    """One sign-in of the demo."""

    name: str
    password: str = field(repr=False)
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secrets:
    """The hub's own secrets."""

    cookie_secret: bytes = field(repr=False)
    crypt_key: bytes = field(repr=False)
    proxy_token: str = field(repr=False)
    quota_api_token: str = field(repr=False)
    launcher_api_token: str = field(repr=False)
    hub_credential: str = field(repr=False)
    demo_users: tuple[DemoUser, ...]
    provider_secrets: Mapping[str, str] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that wiring needs; ports are on 127.0.0.1, `public_url` ends in a slash."""

    data: Path
    public_url: str
    hub_port: int
    quota_port: int
    proxy_api_port: int
    tables: HubTables
    profiles: Profiles
    local: spawner_settings.LocalTable
    containers: ContainersTable
    slurm: Mapping[str, SlurmTable]
    secrets: Secrets
    environment: Mapping[str, str] = field(
        repr=False, default_factory=dict
    )  # what a process of the hub's needs of its own
    grading: GradingTable = field(default_factory=GradingTable)
    grading_image: str = ""  # what executes submissions, where containers do
    proxy_url: str = ""  # where this machine's own processes find the proxy; empty: at `public_url`

    @property
    def quota_url(self) -> str:
        """The quota service's own address, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.quota_port}"

    @property
    def base_path(self) -> str:
        """The path under which the portal is served; begins and ends with a slash."""
        return urlsplit(self.public_url).path or "/"

    @property
    def quota_path(self) -> str:
        """Where browsers find the quota service's pages."""
        return f"{self.base_path}services/quota/"


def load(path: Path) -> HubTables:
    """Read and validate this package's tables; raises SettingsError."""
    tables = read_tables(path)
    try:
        return HubTables.model_validate({name: tables[name] for name in tables if name in TABLES})
    except ValidationError as error:
        raise explain(path, error) from None


def read(environment: Mapping[str, str] | None = None) -> Settings:
    """Read everything from the environment (the process's own by default); raises SettingsError with every mistake."""
    variables = os.environ if environment is None else environment
    wrong: list[str] = []
    paths = [Path(_variable(variables, name, wrong)) for name in ("COMMONS_PORTAL_FILE", "COMMONS_DATA")]
    public_url = _variable(variables, "COMMONS_PUBLIC_URL", wrong)
    if public_url and not (public_url.startswith(("http://", "https://")) and public_url.endswith("/")):
        wrong.append("environment: COMMONS_PUBLIC_URL: is no http address that ends in /")
    ports = [_port(variables, name, wrong) for name in _PORTS]
    if wrong:
        raise SettingsError(wrong)
    spawner_tables = spawner_settings.load(paths[0])
    tables = load(paths[0])
    external = [name for name, table in tables.sign_in.providers.items() if table.kind != "demo"]
    return Settings(
        data=paths[1],
        public_url=public_url,
        hub_port=ports[0],
        quota_port=ports[1],
        proxy_api_port=ports[2],
        tables=tables,
        profiles=spawner_tables.catalogue,
        local=spawner_tables.local,
        containers=spawner_tables.containers,
        slurm=spawner_tables.slurm,
        secrets=read_secrets(paths[1] / "secrets", external, demo=len(external) < len(tables.sign_in.providers)),
        environment={name: variables[name] for name in _PASSED_ON if name in variables},
        grading=spawner_tables.grading,
        grading_image=spawner_tables.grading_image,
        proxy_url=variables.get("COMMONS_PROXY_URL", ""),
    )


def read_secrets(folder: Path, providers: Sequence[str] = (), *, demo: bool = True) -> Secrets:
    """Read the hub's secrets and those of the sign-in providers; raises SettingsError that names files, never content."""
    wrong: list[str] = []
    texts: dict[str, str] = {}
    of_providers = {name: f"sign_in_{name}" for name in providers}
    demo_file = ("demo_users.json",) if demo else ()
    for name in (*_HEX_SECRETS, *_TEXT_SECRETS, *of_providers.values(), *demo_file):
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{folder / name}: secret: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}")
            continue
        if not texts[name]:
            wrong.append(f"{folder / name}: secret: is empty")
        elif name in _HEX_SECRETS and not _is_key(texts[name]):
            wrong.append(f"{folder / name}: secret: is not 32 bytes as hex")
    if wrong:
        raise SettingsError(wrong)
    try:
        demo_users = tuple(
            DemoUser(str(entry["user"]), str(entry["password"]), tuple(str(role) for role in entry["roles"]))
            for entry in json.loads(texts.get("demo_users.json", "[]"))
        )
    except (ValueError, KeyError, TypeError):
        raise SettingsError([f"{folder / 'demo_users.json'}: secret: is no list of user, password and roles"]) from None
    return Secrets(
        cookie_secret=bytes.fromhex(texts["hub_cookie_secret"]),
        crypt_key=bytes.fromhex(texts["hub_crypt_key"]),
        demo_users=demo_users,
        provider_secrets={name: texts[file] for name, file in of_providers.items()},
        **{name: texts[name] for name in _TEXT_SECRETS},
    )


def _variable(variables: Mapping[str, str], name: str, wrong: list[str]) -> str:
    text = variables.get(name, "")
    if not text:
        wrong.append(f"environment: {name}: is not set")
    return text


def _port(variables: Mapping[str, str], name: str, wrong: list[str]) -> int:
    text = variables.get(name, "")
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        wrong.append(f"environment: {name}: is no port")
        return 0
    return int(text)


def _is_address(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    here = host in (LOOPBACK, "localhost") or host.endswith(".localhost")
    plain = parts.path == "/" and not parts.query and not parts.fragment and "@" not in parts.netloc
    return bool(host) and plain and (parts.scheme == "https" or (parts.scheme == "http" and here))


def _has_subdomains(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return "." in host and not re.fullmatch(r"[0-9.]+|\[?[0-9a-f:]*:[0-9a-f:]*\]?", host)


def _is_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 32
    except ValueError:
        return False


def main() -> int:
    """Check $COMMONS_PORTAL_FILE."""
    name = os.environ.get("COMMONS_PORTAL_FILE")
    if not name:
        print("environment: COMMONS_PORTAL_FILE: is not set", file=sys.stderr)
        return 2
    try:
        load(Path(name))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""steward.toml: what the steward may touch. Its own file, as signer.toml is."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from spawners.settings import SettingsError, explain

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/\S+$")]


class Verb(StrEnum):
    """What a peer may ask for."""

    ENSURE = "ensure"
    REMOVE = "remove"
    RETIRE = "retire"
    LIMIT = "limit"
    MEMBERS = "members"


class StewardSettings(BaseModel):
    """Every key of steward.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    socket: AbsolutePath = Field(description="The Unix socket that it listens on.")
    extrausers: AbsolutePath = Field("/var/lib/extrausers", description="Folder of libnss-extrausers.")
    accounts_command: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="A site's own program instead of extrausers, such as one for LDAP; called with `add|remove LOGIN UID HOME`.",
    )
    home: str = Field(
        "/home/{login}",
        pattern=r"^/[A-Za-z0-9_./@-]*\{login\}$",
        description="A person's home; its parent folder exists.",
    )
    shell: AbsolutePath = Field("/bin/bash", description="Login shell of the accounts.")
    sacctmgr: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        ("sacctmgr",), min_length=1, description="How sacctmgr is called, as a Slurm administrator."
    )
    scancel: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        ("scancel",), min_length=1, description="How scancel is called."
    )
    account_prefix: str = Field(
        "cc-", min_length=1, max_length=16, description="What the portal's Slurm accounts begin with."
    )
    parent: str = Field(
        "root", pattern=r"^[a-z0-9_-]{1,40}$", description="Slurm account under which the projects' accounts stand."
    )
    first_uid: int = Field(20_001, ge=1000, description="First uid of the portal's people; login cc-N is uid N.")
    last_uid: int = Field(59_999, le=2**31 - 2, description="Last uid of the portal's people.")
    peers: dict[str, tuple[Annotated[Verb, Field(strict=False)], ...]] = Field(
        description="Unix login of each process that may ask, and the verbs that it may use."
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("peers"), dict):
            peers = {
                name: tuple(verbs) if isinstance(verbs, list) else verbs for name, verbs in values["peers"].items()
            }
            return {**values, "peers": peers}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.first_uid > self.last_uid:
            raise ValueError("first_uid is beyond last_uid")
        return self

    def home_of(self, login: str) -> Path:
        """A person's home."""
        return Path(self.home.replace("{login}", login))


def load(path: Path) -> StewardSettings:
    """Read steward.toml. Raises SettingsError with one line for each mistake."""
    try:
        return StewardSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"{path}: file: {error}"]) from None
    except ValidationError as error:
        raise explain(path, error) from None

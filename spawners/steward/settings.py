"""steward.toml: what the steward may touch (`spawners.office_settings`)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from spawners.office_settings import PEERS, AbsolutePath, OfficeSettings


class Verb(StrEnum):
    """What a peer may ask for."""

    ENSURE = "ensure"
    REMOVE = "remove"
    RETIRE = "retire"
    LIMIT = "limit"
    MEMBERS = "members"


class StewardSettings(OfficeSettings):
    """Every key of steward.toml."""

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
    parent: str = Field(
        "root", pattern=r"^[a-z0-9_-]{1,40}$", description="Slurm account under which the projects' accounts stand."
    )
    peers: dict[str, Annotated[tuple[Annotated[Verb, Field(strict=False)], ...], Field(strict=False)]] = Field(
        description=PEERS
    )

    def home_of(self, login: str) -> Path:
        """A person's home."""
        return Path(self.home.replace("{login}", login))

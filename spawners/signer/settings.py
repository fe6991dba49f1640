"""signer.toml: the signer's own file (`spawners.office_settings`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from spawners.office_settings import PEERS, AbsolutePath, OfficeSettings
from spawners.profiles import Duration

LONGEST_TOKEN_LIFE_S: Final = 120
LOGIN_PREFIX: Final = "cc-"


class Verb(StrEnum):
    """What a peer may ask for."""

    SUBMIT_AS = "submit_as"
    CANCEL = "cancel"
    EXTEND = "extend"
    READ = "read"


class SignerSettings(OfficeSettings):
    """Every key of signer.toml."""

    url: str = Field(pattern=r"^https?://\S+$", description="Address of slurmrestd.")
    key_file: AbsolutePath = Field(
        description="The cluster's jwt_hs256.key; readable by the signer alone and by Slurm."
    )
    tickets: AbsolutePath = Field(
        description="Folder of one-time tickets, shared with slurmctld (mode 2770, group slurm)."
    )
    audit_file: AbsolutePath = Field(
        description="Append-only file that names each token and each act, never a token itself."
    )
    operator: str = Field(
        "cc-portal", pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="Unix login with AdminLevel=Operator."
    )
    token_life: Duration = Field(
        60, le=LONGEST_TOKEN_LIFE_S, description="How long a person's token lives, 2 min at most."
    )
    longest_limit: Duration = Field(
        604_800,
        description="Longest time limit of a job, extensions included: an operator passes the partition's MaxTime.",
    )
    check_accounts: bool = Field(
        True, description="Whether this host knows the people too (NSS) and has to agree on their uid."
    )
    peers: dict[str, Annotated[tuple[Annotated[Verb, Field(strict=False)], ...], Field(strict=False)]] = Field(
        description=PEERS
    )

"""signer.toml: the signer's own file, so that nobody who can change the portal's settings can widen what it signs.

Invariant: root and SlurmUser cannot be named by any of it: the range of uids starts above system accounts.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from spawners.profiles import Duration
from spawners.settings import SettingsError, explain

LONGEST_TOKEN_LIFE_S: Final = 120
LOGIN_PREFIX: Final = "cc-"
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/\S+$")]


class Verb(StrEnum):
    """What a peer may ask for."""

    SUBMIT_AS = "submit_as"
    CANCEL = "cancel"
    EXTEND = "extend"
    READ = "read"


class SignerSettings(BaseModel):
    """Every key of signer.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    socket: AbsolutePath = Field(description="The Unix socket that it listens on.")
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
    account_prefix: str = Field(
        "cc-", min_length=1, max_length=16, description="What the portal's Slurm accounts begin with."
    )
    first_uid: int = Field(20_001, ge=1000, description="First uid of the portal's people; login cc-N is uid N.")
    last_uid: int = Field(59_999, le=2**31 - 2, description="Last uid of the portal's people.")
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
    peers: dict[str, tuple[Annotated[Verb, Field(strict=False)], ...]] = Field(
        description="Unix login of each process that may ask, and the verbs that it may use."
    )  # fmt: skip

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


def load(path: Path) -> SignerSettings:
    """Read signer.toml. Raises SettingsError with one line for each mistake."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError([f"{path}: file: {error}"]) from None
    try:
        return SignerSettings.model_validate(tables)
    except ValidationError as error:
        raise explain(path, error) from None

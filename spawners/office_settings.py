"""What signer.toml and steward.toml share: the socket, the portal's accounts and people, and who may ask for what.

Each office reads a file of its own, so that nobody who can change the portal's settings can widen what it does. Invariant: root and
system accounts cannot be named by any of it: the range of uids starts above them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from spawners.settings import explain, read_tables

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/\S+$")]
PEERS: Final = "Unix login of each process that may ask, and the verbs that it may use."
S = TypeVar("S", bound="OfficeSettings")


class OfficeSettings(BaseModel):
    """The keys of every office; each adds `peers` with its own verbs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    socket: AbsolutePath = Field(description="The Unix socket that it listens on.")
    account_prefix: str = Field(
        "cc-", min_length=1, max_length=16, description="What the portal's Slurm accounts begin with."
    )
    first_uid: int = Field(20_001, ge=1000, description="First uid of the portal's people; login cc-N is uid N.")
    last_uid: int = Field(59_999, le=2**31 - 2, description="Last uid of the portal's people.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.first_uid > self.last_uid:
            raise ValueError("first_uid is beyond last_uid")
        return self


def load(kind: type[S], path: Path) -> S:
    """Read an office's file. Raises SettingsError with one line for each mistake."""
    try:
        return kind.model_validate(read_tables(path))
    except ValidationError as error:
        raise explain(path, error) from None

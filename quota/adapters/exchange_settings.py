"""The `[exchange]` table of portal.toml: how much may be handed out and handed in."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from quota.domain.exchange import MIB, ExchangeLimits

TABLES: Final = frozenset({"exchange"})


class ExchangeTable(BaseModel):
    """The `[exchange]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    release_mib: int = Field(200, ge=1, le=10_240, description="Most MiB of one released assignment.")
    submission_mib: int = Field(100, ge=1, le=10_240, description="Most MiB of one submission.")
    feedback_mib: int = Field(50, ge=1, le=10_240, description="Most MiB of the feedback on one submission.")
    uploads_open: int = Field(20, ge=1, le=1000, description="Most unfinished uploads of one person.")
    upload_hours: int = Field(24, ge=1, le=720, description="How long an unfinished upload is kept.")

    def to_limits(self) -> ExchangeLimits:
        return ExchangeLimits(
            release_bytes=self.release_mib * MIB,
            submission_bytes=self.submission_mib * MIB,
            feedback_bytes=self.feedback_mib * MIB,
            uploads_open=self.uploads_open,
            upload_s=self.upload_hours * 3600,
        )

"""The `[grading]` table of portal.toml: where a course's submissions are executed, with which limits, and as what they are charged.

Pure, so that the quota service may read it. A run is priced as its CPUs of `hardware`, by the dated rates of `[[rates]]`; without a rate it
costs nothing, as every session without a GPU (docs/decisions/0028-grading.md).
"""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from spawners.profiles import ID_PATTERN, Backend, Duration, Size

_STRICT: Final = ConfigDict(frozen=True, extra="forbid", strict=True)


class GradingTable(BaseModel):
    """The `[grading]` table."""

    model_config = _STRICT

    backend: Annotated[Backend, Field(strict=False)] = Field(
        Backend.LOCAL,
        description="Where submissions are executed: `container`, in one without a network; `local`, in a cage of this machine, for demos.",
    )
    application: str = Field(
        "lab", pattern=ID_PATTERN, description="Whose image of `[containers.images]` executes them (`container` only)."
    )
    hardware: str = Field(
        "grading-cpu", pattern=ID_PATTERN, description="Hardware name that charge rates refer to: the rate of one CPU."
    )
    cpus: int = Field(1, ge=1, le=64, description="CPUs of one run (not enforced by `local`).")
    memory: Size = Field("1 GiB", validate_default=True, description="Memory of one run; of one process (`local`).")
    disk: Size = Field("256 MiB", validate_default=True, description="What a run may write, in memory.")
    output: Size = Field("64 MiB", validate_default=True, description="What a run may say (`container` only).")
    processes: int = Field(128, ge=16, le=4096, description="Processes and threads of one run.")
    runtime: Duration = Field(
        "3 min",
        validate_default=True,
        le=3600,
        description="Longest time of one notebook, its kernel's start included.",
    )

"""Named profiles: what a person may start, as (hardware × cloud × applications) with its runtimes.

Pure: no files, no clock, neither Tornado nor traitlets, so that the quota service can import it to price a profile.
Invariant: a `Profile` that exists is consistent (0 < default runtime ≤ longest runtime, at least one application, unique ids),
and everything outside reads `Profile`, never the TOML table that it came from (`ProfileTable`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

ID_PATTERN: Final = r"^[a-z][a-z0-9-]{0,31}$"
SLURM_WORD: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_BYTES: Final = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DURATION: Final = re.compile(r"[0-9]{1,6} (?:s|min|h|d)(?: [0-9]{1,6} (?:s|min|h|d))*")
_SIZE: Final = re.compile(r"([0-9]{1,6}) (MiB|GiB|TiB)")


class Backend(StrEnum):
    """Where a profile's sessions run."""

    LOCAL = "local"
    CONTAINER = "container"
    SLURM = "slurm"


def duration_s(text: object) -> int:
    """Read "2 h", "30 min" or "1 h 30 min" as seconds; a bare number is refused because it names no unit."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError('write a duration with its unit, such as "30 min", "2 h" or "1 h 30 min"')
    words = text.split(" ")
    return sum(int(number) * _SECONDS[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


def size_bytes(text: object) -> int:
    """Read "4 GiB" as bytes."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('write a size with its unit, such as "512 MiB" or "4 GiB"')
    return int(match[1]) * _BYTES[match[2]]


Duration = Annotated[int, BeforeValidator(duration_s), Field(gt=0)]
Size = Annotated[int, BeforeValidator(size_bytes), Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Application:
    """A program that a session opens with."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class SlurmPlace:
    """Where on which cluster a profile's jobs go; empty words are left to Slurm's own defaults."""

    cluster: str
    partition: str
    gpu_type: str = ""
    qos: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """One line of the start chooser. `hardware` is the name that charge rates use, `cloud` the tier that runs it."""

    id: str
    title: str
    backend: Backend
    hardware: str
    cloud: str
    applications: tuple[Application, ...]
    gpus: int
    cpus: int
    memory_bytes: int
    default_runtime_s: int
    longest_runtime_s: int
    simulated: bool = False
    rescue: bool = False
    title_zh: str = ""
    description: str = ""
    notes: str = ""
    slurm: SlurmPlace | None = None
    shared_memory_bytes: int = 64 * 2**20
    sessions_per_gpu: int = 1
    description_zh: str = ""
    notes_zh: str = ""
    idle_s: int = 3600
    keep_alive_s: int = 4 * 3600

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.cpus < 1 or self.memory_bytes < 1:
            raise ValueError("a profile has no negative GPUs and at least one CPU and some memory")
        if not 0 < self.shared_memory_bytes <= self.memory_bytes:
            raise ValueError("the shared memory is not positive or larger than the memory, of which it is a part")
        if self.rescue and self.gpus:
            raise ValueError("a rescue profile has no GPUs: it starts where nothing is left to pay with")
        if not 0 < self.default_runtime_s <= self.longest_runtime_s:
            raise ValueError("the default runtime is longer than the longest runtime, or not positive")
        if not self.applications or len({one.id for one in self.applications}) != len(self.applications):
            raise ValueError("a profile has at least one application, each with an id of its own")

    def application(self, application_id: str) -> Application | None:
        """Find one of the profile's applications."""
        return next((one for one in self.applications if one.id == application_id), None)


class ApplicationTable(BaseModel):
    """One entry of `applications` in a `[profiles.<id>]` table of portal.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(pattern=ID_PATTERN, description="Short name that requests carry.")
    title: str = Field(min_length=1, max_length=80, description="Name that people read, such as JupyterLab.")


class SlurmPlaceTable(BaseModel):
    """A `[profiles.<id>.slurm]` table: where the profile's jobs go."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cluster: str = Field(pattern=ID_PATTERN, description="Which `[slurm.<cluster>]` table.")
    partition: str = Field(pattern=SLURM_WORD, description="Slurm partition.")
    gpu_type: str = Field(
        "",
        max_length=64,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$",
        description="GRES type such as `h100`; empty: any.",
    )
    qos: str = Field(
        "", max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$", description="QOS; empty: the account's own."
    )


class ProfileTable(BaseModel):
    """A `[profiles.<id>]` table of portal.toml, as written there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: str = Field(min_length=1, max_length=80, description="Name that people read.")
    title_zh: str = Field("", max_length=80, description="The same name in Chinese; empty shows `title`.")
    description: str = Field("", max_length=400, description="One or two sentences shown under the title.")
    backend: Annotated[Backend, Field(strict=False)] = Field(
        description="Where sessions run: `local`, `container` or `slurm`."
    )
    hardware: str = Field(pattern=ID_PATTERN, description="Hardware name that charge rates refer to, such as `cpu`.")
    cloud: str = Field(pattern=ID_PATTERN, description="Tier that provides the hardware, such as `this-machine`.")
    applications: tuple[ApplicationTable, ...] = Field(
        strict=False, min_length=1, description="What a session may open with; the first is the default."
    )
    gpus: int = Field(ge=0, le=4096, description="GPUs that one session holds; 0 costs no GPU-hours.")
    cpus: int = Field(ge=1, le=65_536, description="CPUs that one session gets (not enforced by `local`).")
    memory: Size = Field(description='Memory that one session gets, such as "4 GiB" (not enforced by `local`).')
    default_runtime: Duration = Field(description='Runtime that the chooser proposes, such as "2 h".')
    longest_runtime: Duration = Field(description="Longest runtime that can be asked for, extensions included.")
    simulated: bool = Field(False, description="True where the GPUs are simulated; every page then says so.")
    rescue: bool = Field(
        False,
        description="True where it also starts in the grace after an allocation's end, at most `policy.rescue_a_day` a person and day; no GPUs.",
    )
    notes: str = Field("", max_length=400, description="What a person should know before choosing it.")
    slurm: SlurmPlaceTable | None = Field(None, description="Where its jobs go (backend `slurm` only).")
    shared_memory: Size = Field(
        "64 MiB",
        validate_default=True,
        description="Size of /dev/shm, a part of the memory (`container` only); data loaders of PyTorch need some GiB.",
    )
    sessions_per_gpu: int = Field(
        1, ge=1, le=64, description="Sessions that may be on one GPU at the same time; 1: it is never shared."
    )
    idle_timeout: Duration | Literal[0] = Field(
        3600, description="Time without kernel or terminal activity after which a session is stopped; 0: never."
    )
    keep_alive: Duration | Literal[0] = Field(
        4 * 3600, description="How long beyond it an owner may keep an idle session."
    )
    description_zh: str = Field("", max_length=400, description="`description` in Chinese; empty shows `description`.")
    notes_zh: str = Field("", max_length=400, description="`notes` in Chinese; empty shows `notes`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.backend is Backend.SLURM) != (self.slurm is not None):
            raise ValueError("the backend `slurm`, and no other, needs a table `slurm` with its cluster and partition")
        self.to_profile("consistent")  # raises ValueError, so that each rule is written once
        return self

    def to_profile(self, profile_id: str) -> Profile:
        """Make the profile named `profile_id` of this table."""
        same = (
            "title",
            "title_zh",
            "description",
            "backend",
            "hardware",
            "cloud",
            "gpus",
            "cpus",
            "simulated",
            "rescue",
            "notes",
        )
        return Profile(
            id=profile_id,
            applications=tuple(Application(one.id, one.title) for one in self.applications),
            memory_bytes=self.memory,
            default_runtime_s=self.default_runtime,
            longest_runtime_s=self.longest_runtime,
            slurm=None if self.slurm is None else SlurmPlace(**self.slurm.model_dump()),
            shared_memory_bytes=self.shared_memory,
            sessions_per_gpu=self.sessions_per_gpu,
            idle_s=self.idle_timeout,
            keep_alive_s=self.keep_alive,
            description_zh=self.description_zh,
            notes_zh=self.notes_zh,
            **{name: getattr(self, name) for name in same},
        )


@dataclass(frozen=True, slots=True)
class Profiles:
    """The catalogue, in the order of portal.toml."""

    all: tuple[Profile, ...]

    @classmethod
    def from_tables(cls, tables: Mapping[str, object]) -> Self:
        """Read the content of portal.toml's `profiles` table; raises pydantic's ValidationError (a ValueError)."""
        return cls(
            tuple(ProfileTable.model_validate(table).to_profile(profile_id) for profile_id, table in tables.items())
        )

    def get(self, profile_id: str) -> Profile | None:
        """Find a profile by its id."""
        return next((one for one in self.all if one.id == profile_id), None)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

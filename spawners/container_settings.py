"""The `[containers]` table of portal.toml: sessions as containers of one host's engine.

Pure: no files, neither Tornado nor traitlets, so that the quota service may read it. Invariant: an image is named by its digest
and nothing else, so that what was checked is what runs.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from spawners.profiles import ID_PATTERN, Duration, Size

SOCKET_NAME: Final = "engine.sock"
UID_MIN, UID_MAX = 20_001, 29_999
# Members' sessions share a project's folder by this group; what shuts others out is that they have no mount of it.
PROJECT_GID: Final = 20_000
MIB: Final = 2**20
FETCH_DEADLINE_S: Final = 3600  # for an image that the host does not have yet

_IMAGE: Final = re.compile(r"(?:[a-z0-9][a-z0-9._:/-]{0,200}@)?sha256:[0-9a-f]{64}")
_DEVICE: Final = r"^[A-Za-z0-9][A-Za-z0-9._:=/-]{0,127}$"
_STRICT: Final = ConfigDict(frozen=True, extra="forbid", strict=True)


def image_reference(text: object) -> str:
    """Read `registry/name@sha256:…`, or `sha256:…` for an image that was built on the host."""
    if not isinstance(text, str) or not _IMAGE.fullmatch(text):
        raise ValueError("name an image by its digest, such as registry.example/name@sha256:<64 hex digits>; tags move")
    return text


Image = Annotated[str, BeforeValidator(image_reference)]
ApplicationId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


class GpuSource(StrEnum):
    """Who says which GPUs the host has."""

    CDI = "cdi"
    NVIDIA = "nvidia"
    STATED = "stated"


class HomeKind(StrEnum):
    """How a person's folder is made and kept to its size."""

    DIRECTORY = "directory"
    LOOP = "loop"
    COMMAND = "command"


class ImageTable(BaseModel):
    """One entry of `[containers.images.<application id>]`."""

    model_config = _STRICT

    image: Image = Field(description="Image by digest: `registry/name@sha256:…`, or `sha256:…` if built on the host.")


class GpuTable(BaseModel):
    """One entry of `[[containers.gpus]]`."""

    model_config = _STRICT

    hardware: str = Field(pattern=ID_PATTERN, description="Hardware name that profiles and charge rates use.")
    source: Annotated[GpuSource, Field(strict=False)] = Field(
        description="`cdi`: CDI specifications; `nvidia`: `nvidia-smi -L` and NVIDIA's runtime; `stated`: the ids below."
    )
    kind: str = Field("nvidia.com/gpu", pattern=_DEVICE, description="CDI kind to look for.")
    ids: tuple[Annotated[str, StringConstraints(pattern=_DEVICE)], ...] = Field(
        (), strict=False, description="Only these devices; empty: all that the source lists. `stated` needs them."
    )

    @model_validator(mode="after")
    def _stated_has_ids(self) -> Self:
        if self.source is GpuSource.STATED and not self.ids:
            raise ValueError("source `stated` needs ids")
        return self


class HomesTable(BaseModel):
    """The `[containers.homes]` table."""

    model_config = _STRICT

    kind: Annotated[HomeKind, Field(strict=False)] = Field(
        HomeKind.DIRECTORY,
        description="`directory`: a plain folder without a limit; `loop`: an ext4 image a person; `command`: your own program.",
    )
    folder: str = Field("", description="Where homes lie on the host; empty: `container-homes` in the data folder.")
    size: Size = Field(
        "10 GiB",
        validate_default=True,
        description="Size limit of one person's home (`loop` and `command`).",
    )
    project_size: Size = Field(
        "50 GiB",
        validate_default=True,
        description="Size limit of one project's shared folder (`loop` and `command`).",
    )
    command: str = Field(
        "", description="For `command`: absolute path of a program that is run as root with FOLDER UID GID SIZE_BYTES."
    )

    @model_validator(mode="after")
    def _command_is_named(self) -> Self:
        if (self.kind is HomeKind.COMMAND) != bool(self.command):
            raise ValueError("kind `command` and the key `command` go together")
        return self


class ContainersTable(BaseModel):
    """The `[containers]` table."""

    model_config = _STRICT

    engine: str = Field(
        "/var/run/docker.sock", pattern="^/", description="The engine's socket; only the helper opens it."
    )
    helper: str = Field(
        "", description="Socket of a helper that the host runs; empty: the launcher runs one in the data folder."
    )
    keeper: str = Field(
        "", description="Socket of a home keeper that the host runs; empty: the launcher runs one in the data folder."
    )
    images: dict[ApplicationId, ImageTable] = Field(
        default_factory=dict, description="Images that may run, by application id."
    )
    gpus: tuple[GpuTable, ...] = Field((), strict=False, description="The host's GPUs.")
    cdi_folders: tuple[Annotated[str, StringConstraints(pattern="^/")], ...] = Field(
        ("/etc/cdi", "/var/run/cdi"), strict=False, description="Where CDI specifications lie."
    )
    homes: HomesTable = Field(default_factory=HomesTable, description="Home and project folders.")
    processes: int = Field(
        1024, ge=64, le=65_536, description="Processes and threads that one session may have (pids limit)."
    )
    tmp: Size = Field(
        "1 GiB",
        validate_default=True,
        description="Size of a session's /tmp, in its memory limit.",
    )
    start_deadline: Duration = Field(
        "2 min",
        validate_default=True,
        description="How long a container may take to start once its image is there.",
    )
    stop_grace: Duration = Field(
        "1 min",
        validate_default=True,
        le=60,
        description="Time between SIGTERM and SIGKILL when a session is stopped by a person or the portal.",
    )
    canary: bool = Field(
        True, description="Prove at start-up that sessions are shut off from the host and each other; no starts before."
    )

    def helper_socket(self, data: Path) -> Path:
        """Where the helper listens."""
        return Path(self.helper) if self.helper else data / "run" / SOCKET_NAME

    def keeper_socket(self, data: Path) -> Path:
        """Where the home keeper listens."""
        return Path(self.keeper) if self.keeper else data / "run" / "homes.sock"

    def homes_folder(self, data: Path) -> Path:
        """Where home and project folders lie."""
        return Path(self.homes.folder) if self.homes.folder else data / "container-homes"

    @property
    def allowed_images(self) -> frozenset[str]:
        """Every image that may run."""
        return frozenset(one.image for one in self.images.values())

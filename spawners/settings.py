"""The tables of portal.toml that `spawners` owns: `[profiles.*]`, `[local]`, `[containers]`, `[grading]` and `[slurm.*]`, validated into one frozen object.

Invariant: settings that load are complete and right; everything wrong is reported at once, one line each, as
`file: key: reason`, and never with the value, which could be a secret. Needs neither Tornado nor traitlets nor JupyterHub:
other packages reuse `read_tables`, `SettingsError`, `explain` and `documented_keys` for their own tables.

`python -m spawners.settings` checks the file that $COMMONS_PORTAL_FILE names and exits 2 on an error.
"""

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from spawners.container_settings import ContainersTable
from spawners.grading_settings import GradingTable
from spawners.profiles import ID_PATTERN, Backend, Duration, Profiles, ProfileTable
from spawners.slurm_settings import SlurmTable

TABLES: Final[frozenset[str]] = frozenset({"profiles", "local", "containers", "slurm", "grading"})

ProfileId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


class SettingsError(Exception):
    """portal.toml cannot be used; `lines` says why, one `file: key: reason` each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: list[str] = list(lines)
        super().__init__("\n".join(self.lines))


class LocalTable(BaseModel):
    """The `[local]` table: sessions as processes of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    start_deadline: Duration = Field(30, description='How long a session may take to get its process, such as "30 s".')
    stop_grace: Duration = Field(
        60, description="Time between SIGTERM and SIGKILL when a session is stopped by a person or the portal."
    )


class SpawnerSettings(BaseModel):
    """Every table of portal.toml that `spawners` owns."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profiles: dict[ProfileId, ProfileTable] = Field(min_length=1, description="What people may start, by profile id.")
    local: LocalTable = Field(default_factory=LocalTable, description="Sessions as processes of this machine.")
    containers: ContainersTable = Field(
        default_factory=ContainersTable, description="Sessions as containers of this host's engine."
    )
    grading: GradingTable = Field(
        default_factory=GradingTable,
        description="Where courses' submissions are executed, and as what they are charged.",
    )
    slurm: dict[ProfileId, SlurmTable] = Field(default_factory=dict, description="Slurm clusters, by a short name.")

    @model_validator(mode="after")
    def _clusters_exist(self) -> Self:
        for name, profile in self.profiles.items():
            if profile.slurm is not None and profile.slurm.cluster not in self.slurm:
                raise ValueError(f"profiles.{name}.slurm.cluster: there is no such [slurm] table")
        if len({table.access for table in self.slurm.values()}) > 1:
            raise ValueError("slurm: all clusters have the same `access`")
        return self

    @model_validator(mode="after")
    def _grading_has_a_place(self) -> Self:
        if self.grading.backend is Backend.SLURM:
            raise ValueError("grading.backend: submissions are executed in containers or on this machine")
        if self.grading.backend is Backend.CONTAINER and self.grading.application not in self.containers.images:
            raise ValueError("grading.application: there is no such [containers.images] table")
        return self

    @property
    def grading_image(self) -> str:
        """The image that executes submissions; empty where they are not executed in containers."""
        table = self.containers.images.get(self.grading.application)
        return table.image if table is not None and self.grading.backend is Backend.CONTAINER else ""

    @property
    def catalogue(self) -> Profiles:
        """The profiles, as the rest of the code reads them."""
        return Profiles(tuple(table.to_profile(name) for name, table in self.profiles.items()))


def read_tables(path: Path) -> dict[str, Any]:
    """Parse the TOML file; raises SettingsError with file and line where it is not TOML or cannot be read."""
    try:
        return parse_tables(path.read_bytes(), path)
    except OSError as error:
        raise SettingsError([f"{path}: file: {error.strerror or error}"]) from None


def parse_tables(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the content of the TOML file at `path`."""
    try:
        return tomllib.loads(content.decode())
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([_syntax_line(path, str(error))]) from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SettingsError([f"{path}: line {line}: is not UTF-8 text"]) from None
    except (ValueError, RecursionError) as error:  # such as a number of thousands of digits
        raise SettingsError([f"{path}: file: {error}"]) from None


def explain(path: Path, error: ValidationError, prefix: str = "") -> SettingsError:
    """Turn pydantic's report into `file: key: reason` lines; `prefix` names the table that was validated."""
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in (prefix, *one["loc"]) if part not in ("", "[key]"))
        reason = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            reason = "unknown key"
        lines.append(f"{path}: {key}: {reason}")
    return SettingsError(lines)


def load(path: Path) -> SpawnerSettings:
    """Read and validate this package's tables; tables of other packages are left to them."""
    return validate(read_tables(path), path)


def validate(tables: Mapping[str, object], path: Path) -> SpawnerSettings:
    """Validate this package's tables of the file at `path`; raises SettingsError."""
    try:
        return SpawnerSettings.model_validate({name: tables[name] for name in tables if name in TABLES})
    except ValidationError as error:
        raise explain(path, error) from None


def documented_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """List every key under `model` with its description; a table named by its user shows as `<id>`, a list as `[]`."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner, suffix = _inner_model(field.annotation)
        if inner is None:
            keys[key] = field.description or ""
        else:
            keys |= documented_keys(inner, f"{key}{suffix}.")
    return keys


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = ".<id>" if getattr(annotation, "__origin__", None) in (dict, Mapping) else "[]"
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, suffix
    return None, ""


def _syntax_line(path: Path, message: str) -> str:
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place is None:  # "(at end of document)"
        return f"{path}: syntax: {message}"
    return f"{path}: line {place[1]}, column {place[2]}: {message[: place.start()]}"


def main() -> int:
    """Check $COMMONS_PORTAL_FILE."""
    name = os.environ.get("COMMONS_PORTAL_FILE")
    if not name:
        print("COMMONS_PORTAL_FILE: environment: is not set; it names the portal.toml to check", file=sys.stderr)
        return 2
    try:
        load(Path(name))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

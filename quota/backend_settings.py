"""What the quota service reads of the tables that `spawners` owns: where evidence comes from, and as what runs of submissions are charged.

`python -m spawners.settings` reports what is wrong with those tables key by key; here it is said that they cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from quota.domain.grading import GradingPlace
from quota.settings_file import SettingsError, read_toml
from spawners.container_settings import ContainersTable
from spawners.grading_settings import GradingTable
from spawners.profiles import Backend, Profiles
from spawners.slurm_settings import SlurmTable


def grading_place(portal_file: Path) -> GradingPlace:
    """Where and as what submissions are executed; spawners.settings reports what is wrong with it key by key. Raises SettingsError."""
    try:
        table = GradingTable.model_validate(read_toml(portal_file).get("grading", {}))
    except ValidationError:
        raise SettingsError([f"{portal_file}: grading: is not right; `python -m spawners.settings` says why"]) from None
    return GradingPlace(table.backend.value, table.hardware, table.cpus, table.runtime)


def slurm_clusters(portal_file: Path, profiles: Profiles) -> dict[str, SlurmTable]:
    """The clusters that profiles run on, by name; spawners.settings reports what is wrong with them key by key. Raises SettingsError."""
    named = {one.slurm.cluster for one in profiles if one.slurm is not None}
    tables = read_toml(portal_file).get("slurm", {})
    try:
        return {name: SlurmTable.model_validate(tables.get(name, {})) for name in sorted(named)}
    except ValidationError:
        raise SettingsError([f"{portal_file}: slurm: is not right; `python -m spawners.settings` says why"]) from None


def engine_helper(portal_file: Path, data: Path, profiles: Profiles) -> Path | None:
    """Where the engine's helper listens; None where neither a profile nor a submission runs in containers. Raises SettingsError."""
    grading = read_toml(portal_file).get("grading")
    runs = isinstance(grading, Mapping) and grading.get("backend") == Backend.CONTAINER.value
    if not runs and not any(one.backend is Backend.CONTAINER for one in profiles):
        return None
    try:
        return ContainersTable.model_validate(read_toml(portal_file).get("containers", {})).helper_socket(data)
    except ValidationError:
        # spawners.settings reports the reason: the table is its own
        raise SettingsError([f"{portal_file}: containers: cannot be used"]) from None

"""The spawners' tables of portal.toml: everything wrong is named with file, key and reason, and no value is shown."""

from pathlib import Path
from typing import Any

import pytest

from spawners.settings import SettingsError, SpawnerSettings, documented_keys, parse_tables, validate

FILE = Path("portal.toml")
PROFILE: dict[str, Any] = {
    "title": "CPU only",
    "backend": "local",
    "hardware": "cpu",
    "cloud": "this-machine",
    "applications": [{"id": "lab", "title": "JupyterLab"}],
    "gpus": 0,
    "cpus": 1,
    "memory": "2 GiB",
    "default_runtime": "1 h",
    "longest_runtime": "8 h",
}


def lines_of(tables: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        validate(tables, FILE)
    return caught.value.lines


def test_tables_of_other_packages_are_left_to_them() -> None:
    settings = validate({"profiles": {"cpu": PROFILE}, "hub": {"anything": 1}}, FILE)
    assert [one.id for one in settings.catalogue] == ["cpu"]
    assert settings.local.stop_grace == 60


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"colour": "red"}, "portal.toml: profiles.cpu.colour: unknown key"),
        ({"gpus": True}, "portal.toml: profiles.cpu.gpus: Input should be a valid integer"),
        ({"gpus": -1}, "portal.toml: profiles.cpu.gpus: Input should be greater than or equal to 0"),
        ({"gpus": "1"}, "portal.toml: profiles.cpu.gpus: Input should be a valid integer"),
        ({"backend": "cloud"}, "portal.toml: profiles.cpu.backend: Input should be 'local', 'container' or 'slurm'"),
        ({"default_runtime": 3600}, 'portal.toml: profiles.cpu.default_runtime: write a duration with its unit, such as "30 min", "2 h" or "1 h 30 min"'),
        ({"longest_runtime": "1 min"}, "portal.toml: profiles.cpu: the default runtime is longer than the longest runtime, or not positive"),
        ({"applications": [{"id": "lab"}]}, "portal.toml: profiles.cpu.applications.0.title: Field required"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_file_key_and_reason(change: dict[str, Any], line: str) -> None:
    assert line in lines_of({"profiles": {"cpu": {**PROFILE, **change}}})


def test_everything_wrong_is_reported_at_once_and_no_value_is_shown() -> None:
    lines = lines_of(
        {"profiles": {"cpu": {**PROFILE, "gpus": "hunter2", "cpus": 0}}, "local": {"stop_grace": "hunter2"}}
    )
    assert len(lines) == 3
    assert "hunter2" not in "".join(lines)


def test_a_portal_without_profiles_is_an_error() -> None:
    assert lines_of({}) == ["portal.toml: profiles: Field required"]
    assert len(lines_of({"profiles": {}})) == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[local]\nstop_grace = 10 s\n", "portal.toml: line 2, column 17: Expected newline or end of document after a statement"),
        (b"[local]\n[local]\n", "portal.toml: line 2, column 7: Cannot declare ('local',) twice"),
        (b"[local]\n\nx = '\xff'", "portal.toml: line 3: is not UTF-8 text"),
        (b'x = "', "portal.toml: syntax: Unterminated string (at end of document)"),
    ],
)  # fmt: skip
def test_a_syntax_error_is_named_with_file_and_line(content: bytes, line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_tables(content, FILE)
    assert caught.value.lines == [line]


@pytest.mark.parametrize("content", [b"x = " + b"9" * 5000, b"x = " + b"[" * 5000])
def test_an_absurd_file_is_an_error_and_no_crash(content: bytes) -> None:
    with pytest.raises(SettingsError):
        parse_tables(content, FILE)


def test_every_key_is_described() -> None:
    keys = documented_keys(SpawnerSettings)
    assert "profiles.<id>.applications[].title" in keys
    assert "local.stop_grace" in keys
    assert all(text.endswith(".") for text in keys.values())

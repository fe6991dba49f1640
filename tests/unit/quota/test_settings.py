"""Settings: what is wrong is named with file, key and reason, all at once; secrets show nowhere."""

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from quota.settings import SECRETS, QuotaTables, Secrets, Settings, SettingsError, from_environment, load, rate_fraction
from spawners.profiles import Profiles

PROFILE = """
[profiles.gpu1]
title = "GPU"
backend = "local"
hardware = "gpu"
cloud = "here"
applications = [{ id = "lab", title = "JupyterLab" }]
gpus = 1
cpus = 1
memory = "1 GiB"
default_runtime = "1 h"
longest_runtime = "12 h"
"""
RATE = '[[rates]]\nhardware = "gpu"\nrate = "3/2"\nvalid_from = 2026-01-01\n'


def loaded(folder: Path, text: str) -> QuotaTables:
    path = folder / "portal.toml"
    path.write_text(text)
    return load(path)[0]


def lines_of(folder: Path, text: str) -> list[str]:
    """What is said about a site file, without the file's name."""
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text)
    return [line.removeprefix(f"{folder / 'portal.toml'}: ") for line in caught.value.lines]


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    tables = loaded(tmp_path, "")
    assert (tables.policy.stop_margin, tables.policy.meter_interval) == (120, 60)
    assert tables.quota.database == ""


def test_a_rate_is_exact_and_begins_at_midnight_in_utc(tmp_path: Path) -> None:
    rate = loaded(tmp_path, RATE).rates[0].to_rate()
    assert (rate.rate, rate.valid_from) == (Fraction(3, 2), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", [1, 0.5, True, "", "one", "1e3", "1/0", "-1", "1001", "１", "1_0", "nan", "inf"])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(ValueError):
        rate_fraction(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[quota]\ndatabase = 5", "quota.database: Input should be a valid string"),
        ("[quota]\ncolour = 1", "quota.colour: unknown key"),
        ("[policy]\nstop_margin = '30 s'", "policy: stop_margin must be at least 1 min"),
        ("[policy]\nmeter_interval = '2 min'", "policy: meter_interval must be at most 60 s"),
        ("[policy]\nmeter_interval = 60", "policy.meter_interval: write a duration with its unit"),
        (
            "[programme]\nlargest_ask_gpu_hours = true",
            "programme.largest_ask_gpu_hours: Input should be a valid integer",
        ),
        ("[[rates]]\nhardware = 'GPU'\nrate = '1'\nvalid_from = 2026-01-01", "rates[0].hardware: String should match"),
        ("[[rates]]\nhardware = 'gpu'\nrate = 1\nvalid_from = 2026-01-01", "rates[0].rate: write a rate as text"),
        ("[[rates]]\nhardware = 'gpu'\nrate = '1'\nvalid_from = '2026'", "rates[0].valid_from: Input should be"),
        (RATE + RATE, "tables: rates: two rates of one hardware on one day"),
        (PROFILE, "rates: no rate for hardware gpu, which a profile uses"),
        ("[quota\n", "syntax: "),
        ("quota = 1", "quota: Input should be"),
        ("profiles = 1", "profiles: cannot be used"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, line: str) -> None:
    assert lines_of(tmp_path, text)[0].startswith(line)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    assert len(lines_of(tmp_path, "[quota]\ndatabase = 5\n[policy]\nstop_margin = 1\nbird = 2\n")) == 3


def test_a_wrong_value_is_never_repeated(tmp_path: Path) -> None:
    assert not any("hush" in line for line in lines_of(tmp_path, "[policy]\nstop_margin = 'hush'"))


def test_tables_of_others_are_left_to_them(tmp_path: Path) -> None:
    loaded(tmp_path, "[hub]\nanything = 1\n[local]\nwhatever = 2\n")


def test_a_missing_file_and_missing_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="file: No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(SettingsError) as caught:
        from_environment({"COMMONS_HUB_PORT": "70000", "COMMONS_PUBLIC_URL": "portal.example"})
    assert "environment: COMMONS_PORTAL_FILE: is not set" in caught.value.lines
    assert "environment: COMMONS_HUB_PORT: is no port number" in caught.value.lines
    assert "environment: COMMONS_PUBLIC_URL: must be an http address that ends in '/'" in caught.value.lines


def environment(folder: Path) -> dict[str, str]:
    (folder / "portal.toml").write_text(PROFILE + RATE)
    (folder / "secrets").mkdir()
    for name in SECRETS:
        (folder / "secrets" / name).write_text(f"hush-{name}-0123456789")
    return {
        "COMMONS_PORTAL_FILE": str(folder / "portal.toml"),
        "COMMONS_DATA": str(folder),
        "COMMONS_PUBLIC_URL": "https://portal.example/lab/",
        "COMMONS_HUB_PORT": "8081",
        "COMMONS_QUOTA_PORT": "8082",
        "COMMONS_WEB_PARTS": str(folder),
    }


def test_settings_come_from_environment_file_and_secrets(tmp_path: Path) -> None:
    settings = from_environment(environment(tmp_path))
    assert settings.hub_api_url == "http://127.0.0.1:8081/lab/hub/api"
    assert settings.base_path == "/lab/"
    assert settings.model_port is None
    assert settings.secrets.hub_credential == "hush-hub_credential-0123456789"
    assert settings.profiles.get("gpu1") is not None


def test_secrets_show_in_no_repr(tmp_path: Path) -> None:
    settings = from_environment(environment(tmp_path))
    assert isinstance(settings, Settings)
    assert isinstance(settings.secrets, Secrets)
    assert isinstance(settings.profiles, Profiles)
    assert "hush" not in repr(settings)


def test_a_database_url_with_its_password_shows_in_no_repr(tmp_path: Path) -> None:
    assert "hush" not in repr(loaded(tmp_path, '[quota]\ndatabase = "postgresql://commons:hush@db/commons"'))


@pytest.mark.parametrize("content", [None, b"", b"short", b"\xff" * 40])
def test_a_secret_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    variables = environment(tmp_path)
    path = tmp_path / "secrets" / "cookie_key"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        from_environment(variables)
    assert [line.startswith(f"{path}: file: ") for line in caught.value.lines] == [True]

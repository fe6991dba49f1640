"""The hub's settings: everything wrong is named at once, no secret ever shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub import settings
from spawners.settings import SettingsError


def test_a_right_environment_gives_everything(environment: dict[str, str]) -> None:
    site = settings.read(environment)
    assert (site.hub_port, site.quota_port, site.proxy_api_port) == (18001, 18002, 18003)
    assert site.quota_url == "http://127.0.0.1:18002"
    assert site.quota_path == "/services/quota/"
    assert site.secrets.cookie_secret == bytes.fromhex("ab" * 32)
    assert [user.name for user in site.secrets.demo_users] == ["Admin", "pi"]
    assert [one.id for one in site.profiles] == ["cpu"]


def test_a_portal_under_a_path_keeps_it(environment: dict[str, str]) -> None:
    site = settings.read({**environment, "COMMONS_PUBLIC_URL": "https://example.org/commons/"})
    assert site.quota_path == "/commons/services/quota/"


def test_no_secret_shows_in_a_repr(environment: dict[str, str]) -> None:
    shown = repr(settings.read(environment))
    assert "secret-of" not in shown
    assert "-word" not in shown
    assert "xab" not in shown


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as wrong:
        settings.read({})
    named = {line.split(": ")[1] for line in wrong.value.lines}
    assert named == {
        "COMMONS_PORTAL_FILE", "COMMONS_DATA", "COMMONS_PUBLIC_URL",
        "COMMONS_HUB_PORT", "COMMONS_QUOTA_PORT", "COMMONS_PROXY_API_PORT",
    }  # fmt: skip


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "80.0", "８０", "http"])
def test_a_port_is_a_port(environment: dict[str, str], port: str) -> None:
    with pytest.raises(SettingsError, match="COMMONS_HUB_PORT: is no port"):
        settings.read({**environment, "COMMONS_HUB_PORT": port})


@pytest.mark.parametrize("url", ["127.0.0.1:8000/", "http://127.0.0.1:8000", "ftp://host/"])
def test_the_public_address_ends_in_a_slash(environment: dict[str, str], url: str) -> None:
    with pytest.raises(SettingsError, match="COMMONS_PUBLIC_URL"):
        settings.read({**environment, "COMMONS_PUBLIC_URL": url})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("hub_crypt_key", "abcd", "is not 32 bytes as hex"),
        ("hub_cookie_secret", "zz" * 32, "is not 32 bytes as hex"),
        ("proxy_token", "", "is empty"),
        ("demo_users.json", "{}", ""),
        ("demo_users.json", '[{"user": "x"}]', "is no list"),
    ],
)
def test_a_broken_secret_is_named_and_never_shown(
    environment: dict[str, str], name: str, content: str, reason: str
) -> None:
    file = Path(environment["COMMONS_DATA"]) / "secrets" / name
    file.write_text(content)
    if name == "demo_users.json" and not reason:  # an empty object is an empty list of people
        assert settings.read(environment).secrets.demo_users == ()
        return
    with pytest.raises(SettingsError) as wrong:
        settings.read(environment)
    assert wrong.value.lines == [wrong.value.lines[0]]
    assert f"{file}: secret: {reason}" in wrong.value.lines[0]
    assert not content or content not in str(wrong.value)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("[hub]\nname = 'x'", "hub.name: unknown key"),
        ("[hub]\nnamed_servers = -1", "hub.named_servers: "),
        ("[hub]\nnamed_servers = '4'", "hub.named_servers: "),
        ("[hub]\nquota_deadline = 5", "hub.quota_deadline: write a duration"),
        ("[sign_in]\nprovider = 'none'", "sign_in.provider: "),
        ("[sign_in.providers.x]\nkind = 'none'", "sign_in.providers.x.kind: "),
        ("[sign_in.providers.x]\nkind = 'oidc'\nclient_id = 'c'\nissuer = 'https://i'", "sign_in.providers.x: "),
        ("[sign_in]\nrefresh = '1 d'", "sign_in.refresh: "),
        ("hub = 3", "hub: "),
    ],
)
def test_a_wrong_key_is_named_with_its_reason(tmp_path: Path, table: str, line: str) -> None:
    file = tmp_path / "portal.toml"
    file.write_text(table)
    with pytest.raises(SettingsError) as wrong:
        settings.load(file)
    assert wrong.value.lines[0].startswith(f"{file}: {line}")


def test_checking_exits_2_with_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "portal.toml"
    file.write_text("[hub]\nname = 'x'")
    monkeypatch.setenv("COMMONS_PORTAL_FILE", str(file))
    assert settings.main() == 2
    assert capsys.readouterr().err == f"{file}: hub.name: unknown key\n"
    file.write_text("[other]\nx = 1")
    assert settings.main() == 0

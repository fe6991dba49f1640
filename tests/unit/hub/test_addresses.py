"""Where sessions stand in a browser's eyes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hub import addresses, roles, settings
from hub.settings import HubTable, HubTables, Settings
from spawners.settings import SettingsError


@pytest.fixture
def site(environment: dict[str, str]) -> Settings:
    return settings.read(environment)


def own_domains(site: Settings, address: str) -> Settings:
    table = HubTable(address=address, user_domains=True)
    return replace(site, public_url=address, tables=HubTables(hub=table, sign_in=site.tables.sign_in))


def test_a_person_has_a_domain_of_their_own_and_the_portals_services_stand_beside_the_hub(site: Settings) -> None:
    ours = own_domains(site, "https://portal.example.org/")
    found = addresses.traits(ours).JupyterHub
    assert found.subdomain_host == "https://portal.example.org"
    assert found.subdomain_hook("pi", "portal.example.org", "user") == "pi.portal.example.org"
    assert found.subdomain_hook("quota", "portal.example.org", "service") == "portal.example.org"
    assert addresses.notebook_host(ours, "pi") == "pi.portal.example.org"
    assert list(roles.extra_routes(ours)) == ["portal.example.org/services/gateway/"]


def test_two_people_never_share_a_domain_and_none_has_the_portals() -> None:
    names = [
        "pi",
        "p.i",
        "p-i",
        "pi ",
        "xn--pi",
        "ｐｉ",
        "quota",
        "",
        ".",
        "portal",
        "a" * 300,
        "a" * 301,
        "pi.evil",
    ]
    found = [addresses.domain_of(name, "portal.example.org", "user") for name in names]
    assert len({one.lower() for one in found}) == len(found)
    assert all(one.endswith(".portal.example.org") and one.count(".") == 3 for one in found), found


def test_host_cookies_need_https_and_domains_of_their_own(site: Settings) -> None:
    assert (
        addresses.traits(own_domains(site, "https://portal.example.org/")).JupyterHub.cookie_host_prefix_enabled is True
    )
    assert (
        addresses.traits(own_domains(site, "http://commons.localhost:8000/")).JupyterHub.cookie_host_prefix_enabled
        is False
    )
    # On one origin the path "/" of such cookies would hand them to every session.
    assert "cookie_host_prefix_enabled" not in addresses.traits(replace(site, public_url="https://x.org/")).JupyterHub


@pytest.mark.parametrize(
    "address",
    [
        "http://portal.example.org/", "https://portal.example.org", "https://portal.example.org/lab/", "ftp://x.org/",
        "https://a@portal.example.org/", "https://x.org/?a=b", "//x.org/", "https:///", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_an_address_is_https_unless_it_is_of_this_machine(tmp_path: Path, address: str) -> None:
    file = tmp_path / "portal.toml"
    file.write_text(f'[hub]\naddress = "{address}"\n')
    with pytest.raises(SettingsError, match="address"):
        settings.load(file)


@pytest.mark.parametrize(
    "address", ["", "http://127.0.0.1:8000/", "https://10.0.0.1/", "https://localhost/", "https://[::1]/"]
)
def test_domains_of_people_need_a_name_that_can_have_names_below_it(tmp_path: Path, address: str) -> None:
    file = tmp_path / "portal.toml"
    file.write_text(f'[hub]\naddress = "{address}"\nuser_domains = true\n')
    with pytest.raises(SettingsError, match="user_domains"):
        settings.load(file)

"""deploy/slurm: what a site copies can be read, is what the test clusters run with, and is documented key by key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from spawners.office_settings import load
from spawners.signer import settings as signer
from spawners.steward import settings as steward
from tests.integration.slurm import config
from tests.integration.slurm.options import Options, Ports, Release

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "deploy/slurm"
# Of these the test clusters have values of their own: paths, and times that no test could wait for.
OWN_VALUES = {"AuthAltParameters", "KillWait", "MinJobAge", "AccountingStorageTRES"}


def lines(text: str) -> dict[str, str]:
    """`Key=Value` lines."""
    written = (line for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value for key, _, value in (line.partition("=") for line in written)}


def test_the_settings_that_a_site_copies_can_be_used() -> None:
    assert load(signer.SignerSettings, FILES / "signer.toml").token_life <= signer.LONGEST_TOKEN_LIFE_S
    assert load(steward.StewardSettings, FILES / "steward.toml").home_of("cc-20001") == Path("/home/cc-20001")


@pytest.mark.parametrize("release", list(Release))
def test_the_fragments_are_what_the_test_clusters_run_with(release: Release) -> None:
    options = Options(release=release, private=True, limits="ALL", submit_lua=FILES / "job_submit.lua")
    ports = Ports(1, 2, 3, 4, (5, 6))
    for fragment, made in (
        ("slurm.conf.fragment", config.slurm_conf(options, ports, Path("/x"))),
        ("slurmdbd.conf.fragment", config.slurmdbd_conf(options, ports, Path("/x"))),
    ):
        here = lines(made) | {"OverTimeLimit": "0"}  # Slurm's default, which a site may have changed
        for key, value in lines((FILES / fragment).read_text()).items():
            assert key in here, key
            assert key in OWN_VALUES or here[key] == value, key


@pytest.mark.parametrize("model", [signer.SignerSettings, steward.StewardSettings])
def test_every_key_of_signer_and_steward_is_documented(model: type[BaseModel]) -> None:
    page = (ROOT / "docs/reference/slurm.md").read_text()
    for key in model.model_fields:
        assert f"`{key}`" in page or f"`[{key}]`" in page, key


def test_job_submit_lua_is_edited_where_the_how_to_says() -> None:
    text = (FILES / "job_submit.lua").read_text()
    for name in ("TICKETS", "PREFIX", "ADMINS"):
        assert f"\nlocal {name} = " in text

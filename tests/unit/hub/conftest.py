"""A site as the hub's unit tests see it: a data folder with secrets, the environment of docs/reference/runtime.md, a catalogue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spawners.profiles import Application, Backend, Profile, Profiles

USERS = [
    {"user": "Admin", "password": "admin-word", "roles": ["admin"]},
    {"user": "pi", "password": "pi-word", "roles": []},
]


def profile(profile_id: str, gpus: int, longest_runtime_s: int = 43_200, application: str = "lab") -> Profile:
    return Profile(
        id=profile_id,
        title=profile_id.upper(),
        title_zh=f"{profile_id} 中文",
        backend=Backend.LOCAL,
        hardware="simulated-gpu",
        cloud="this-machine",
        applications=(Application(application, application.title()),),
        gpus=gpus,
        cpus=1,
        memory_bytes=2**31,
        default_runtime_s=min(7200, longest_runtime_s),
        longest_runtime_s=longest_runtime_s,
        simulated=gpus > 0,
    )


@pytest.fixture
def catalogue() -> Profiles:
    return Profiles((profile("cpu", 0, 28_800), profile("gpu1", 1), profile("gpu2", 2, application="desktop")))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("hub_cookie_secret", "hub_crypt_key"):
        (secrets / name).write_text("ab" * 32)
    for name in ("proxy_token", "quota_api_token", "launcher_api_token", "hub_credential"):
        (secrets / name).write_text(f"secret-of-{name}")
    (secrets / "demo_users.json").write_text(json.dumps(USERS))
    portal = tmp_path / "portal.toml"
    portal.write_text(
        """
[profiles.cpu]
title = "CPU"
backend = "local"
hardware = "cpu"
cloud = "this-machine"
applications = [{ id = "lab", title = "JupyterLab" }]
gpus = 0
cpus = 1
memory = "1 GiB"
default_runtime = "1 h"
longest_runtime = "8 h"
"""
    )
    return {
        "COMMONS_PORTAL_FILE": str(portal),
        "COMMONS_DATA": str(tmp_path),
        "COMMONS_PUBLIC_URL": "http://127.0.0.1:8000/",
        "COMMONS_HUB_PORT": "18001",
        "COMMONS_QUOTA_PORT": "18002",
        "COMMONS_PROXY_API_PORT": "18003",
    }

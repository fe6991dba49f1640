"""What the helper hands on of a container: what a hub needs, and none of its credentials."""

from __future__ import annotations

import json
from typing import Any

from spawners import engine_answers

INSPECTED: dict[str, Any] = {
    "Id": "abc",
    "Name": "/cc-h1",
    "State": {"Status": "running", "ExitCode": 0},
    "Args": ["secret-of-the-arguments"],
    "Config": {
        "Labels": {"org.compute-commons.hold": "h1"},
        "Env": ["JUPYTERHUB_API_TOKEN=secret=of-the-hub", "OPENAI_API_KEY=secret-of-the-gateway"],
        "Cmd": ["jupyterhub-singleuser"],
        "Tty": False,
    },
    "HostConfig": {"Binds": None},
    "NetworkSettings": {"Networks": {"cc-1": {"IPAddress": "10.200.0.2"}}, "SandboxKey": "/run/x"},
}


def test_an_inspection_is_handed_on_without_environment_and_whatever_is_not_listed() -> None:
    shown = engine_answers.shown(INSPECTED)
    assert "secret" not in json.dumps(shown)
    assert shown == {
        "Id": "abc",
        "Name": "/cc-h1",
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Labels": {"org.compute-commons.hold": "h1"}},
        "NetworkSettings": {"Networks": {"cc-1": {"IPAddress": "10.200.0.2"}}},
    }


def test_the_sessions_own_token_is_found_whole_and_nothing_else() -> None:
    assert engine_answers.api_token(INSPECTED) == "secret=of-the-hub"
    assert engine_answers.api_token({"Config": {"Env": None}}) == engine_answers.api_token({}) == ""

"""Which servers the clean stop asks the hub to stop."""

from __future__ import annotations

from deploy.onehost.stopping import Server, servers_of


def test_ready_and_pending_servers_are_stopped_and_ended_ones_are_not() -> None:
    servers = {
        "": {"ready": True, "pending": None},
        "starting": {"ready": False, "pending": "spawn"},
        "going": {"ready": True, "pending": "stop"},
        "ended": {"ready": False, "pending": None},
    }
    found = list(servers_of({"name": "ada", "servers": servers}))
    assert found == [Server("ada", "", False), Server("ada", "starting", False), Server("ada", "going", True)]


def test_a_user_name_is_quoted_in_the_address() -> None:
    assert Server("a/b@c", "", False).path == "/users/a%2Fb%40c/server"
    assert Server("ada", "second", False).path == "/users/ada/servers/second"

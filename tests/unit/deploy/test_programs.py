"""The supervisor's configuration and the programs' environment."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

from deploy.onehost.bootstrap import Environment
from deploy.onehost.data_folder import DataFolder
from deploy.onehost.programs import STOP_WAIT_S, Site, clean_environment, programs, render
from deploy.onehost.supervision import STOP_DEADLINE_S
from deploy.onehost.up import LOCK_DEADLINE_S

PORTS = {"hub": 20001, "quota": 20002, "proxy_api": 20003, "model": 20004}


def a_site(model: bool = True, data: str = "/srv/commons data/50%") -> Site:
    return Site(
        environment=Environment(Path("/opt/commons")),
        data=DataFolder(Path(data)),
        portal_file=Path("/opt/commons/portal.toml"),
        public_port=8000,
        ports=PORTS,
        model=model,
    )


def configuration(site: Site) -> configparser.RawConfigParser:
    """As supervisord reads it."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(render(site))
    return parser


def test_every_program_dies_with_the_supervisor() -> None:
    parser = configuration(a_site())
    for program in programs(a_site()):
        words = shlex.split(parser[f"program:{program.name}"]["command"])
        assert words[:4] == ["setpriv", "--pdeathsig", "TERM", "--"]


def test_a_path_with_blank_and_percent_sign_reaches_the_supervisor_whole() -> None:
    parser = configuration(a_site())
    assert parser["unix_http_server"]["file"] % {} == "/srv/commons data/50%/run/supervisor.sock"
    assert parser["program:quota"]["directory"] % {} == "/srv/commons data/50%/quota"


def test_without_the_model_neither_program_nor_port_is_there() -> None:
    site = a_site(model=False)
    assert [program.name for program in programs(site)] == ["proxy", "hub", "quota"]
    assert "COMMONS_MODEL_PORT" not in clean_environment(site, {})


def test_programs_get_nothing_of_the_callers_environment_but_a_few_names() -> None:
    outer = {
        "HOME": "/root",
        "LANG": "de_DE.UTF-8",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/tmp",
    }
    environment = clean_environment(a_site(), outer)
    assert environment["HOME"] == "/root"
    assert environment["PATH"] == "/opt/commons/.venv/bin:/usr/bin"
    assert environment["PYTHONPATH"] == "/opt/commons"
    others = set(environment) - {"HOME", "LANG", "PATH", "PYTHONPATH"}
    assert {name for name in others if not name.startswith("COMMONS_")} == set()


def test_no_secret_stands_in_the_configuration() -> None:
    text = render(a_site())
    assert "CONFIGPROXY_AUTH_TOKEN=$(cat" in text
    assert "environment=" not in text


def test_everything_listens_on_the_loopback_only() -> None:
    proxy = next(program for program in programs(a_site()) if program.name == "proxy")
    words = list(proxy.argv)
    assert words[words.index("--ip") + 1] == words[words.index("--api-ip") + 1] == "127.0.0.1"


def test_a_stop_is_over_before_a_waiting_launcher_gives_up() -> None:
    assert STOP_WAIT_S < STOP_DEADLINE_S < LOCK_DEADLINE_S

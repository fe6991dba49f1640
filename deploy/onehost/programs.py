"""What runs on one machine, as data: each program's command, the environment they share, the supervisor's configuration.

Invariant: pure, and without secrets: a program reads its own from the data folder. Only the proxy takes its token from the
environment, so a shell puts it there between supervisor and Node. Every program dies with the supervisor (PR_SET_PDEATHSIG).
Source: https://supervisord.org/configuration.html, JupyterHub 6.1.1 proxy.py for the proxy's arguments.
"""

import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deploy.onehost.bootstrap import Environment
from deploy.onehost.data_folder import DataFolder
from deploy.onehost.ports import LOOPBACK

GROUP: Final = "commons"
KEPT_VARIABLES: Final = ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
# A stop must be over before a launcher that waits for the lock gives up (30 s).
STOP_WAIT_S: Final = 10

_PROXY_SCRIPT: Final = (
    'CONFIGPROXY_AUTH_TOKEN=$(cat "$COMMONS_DATA/secrets/proxy_token") && export CONFIGPROXY_AUTH_TOKEN && exec "$@"'
)


@dataclass(frozen=True)
class PublicAddress:
    """`hub.address` and `hub.user_domains` of portal.toml."""

    address: str = ""
    user_domains: bool = False

    @property
    def host(self) -> str:
        """The Host header that the proxy routes by; empty where it looks at paths alone."""
        return urlsplit(self.address).netloc if self.user_domains else ""


def public_address(portal_file: Path) -> PublicAddress:
    """What portal.toml says; portal_check has told what is wrong with it."""
    try:
        table = tomllib.loads(portal_file.read_text(encoding="utf-8")).get("hub", {})
    except (OSError, ValueError):
        return PublicAddress()
    return PublicAddress(str(table.get("address", "")), table.get("user_domains") is True)


@dataclass(frozen=True)
class Site:
    """One portal on one machine."""

    environment: Environment
    data: DataFolder
    portal_file: Path
    public_port: int
    ports: Mapping[str, int]
    model: bool
    engine: tuple[
        str, ...
    ] = ()  # processes around the container engine that the launcher runs: spawners.engine_process

    public: PublicAddress = field(default_factory=PublicAddress)

    @property
    def url(self) -> str:
        """What browsers open."""
        return self.public.address or self.proxy_url

    @property
    def proxy_url(self) -> str:
        """Where the proxy listens; with an address of the site's, whatever ends TLS hands its requests here."""
        return f"http://{LOOPBACK}:{self.public_port}/"

    def inner_url(self, name: str) -> str:
        """A program's own address, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.ports[name]}"


@dataclass(frozen=True)
class Program:
    """One supervised program; its log is `logs/<name>.log`."""

    name: str
    argv: tuple[str, ...]
    folder: Path


def programs(site: Site) -> list[Program]:
    """Every program that the supervisor runs."""
    python = str(site.environment.python)
    config = str(site.environment.root / "jupyterhub_config.py")
    found = [
        Program("proxy", ("sh", "-c", _PROXY_SCRIPT, "proxy", *_proxy_argv(site)), site.data.run),
        Program("hub", (python, "-m", "jupyterhub", "-f", config), site.data.path / "hub"),
        Program("quota", (python, "-m", "quota.main", "serve"), site.data.path / "quota"),
    ]
    if site.model:
        found.append(Program("model", (python, "-m", "deploy.onehost.model"), site.data.run))
    for name in site.engine:
        found.append(Program(f"engine-{name}", (python, "-m", "spawners.engine_process", name), site.data.run))
    return found


def _proxy_argv(site: Site) -> tuple[str, ...]:
    """As JupyterHub itself would start it, and with the hub as default: a proxy that lost its routes asks the hub."""
    script = site.environment.web_parts / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    hub = site.inner_url("hub")
    return (
        *(str(site.environment.node), str(script)),
        *("--ip", LOOPBACK, "--port", str(site.public_port)),
        *("--api-ip", LOOPBACK, "--api-port", str(site.ports["proxy_api"])),
        *(("--host-routing",) if site.public.host else ()),
        *("--default-target", hub, "--error-target", f"{hub}/hub/error", "--log-level", "info"),
        # Longer than nginx (60 s) or a Python client (5 s) keeps an idle connection: who closes first must not be this side, or a
        # request that is just being sent is lost.
        *("--keep-alive-timeout", "75000"),
    )


def clean_environment(site: Site, outer: Mapping[str, str]) -> dict[str, str]:
    """The few variables that programs get; nothing else of the caller's environment reaches them."""
    environment = {name: outer[name] for name in KEPT_VARIABLES if name in outer}
    environment.setdefault("LANG", "C.UTF-8")
    environment["PATH"] = f"{site.environment.venv / 'bin'}{os.pathsep}{_system_path(site, outer)}"
    environment["PYTHONPATH"] = str(site.environment.root)
    return environment | commons_variables(site)


def _system_path(site: Site, outer: Mapping[str, str]) -> str:
    words = outer.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(word for word in words if word != str(site.environment.venv / "bin"))


def commons_variables(site: Site) -> dict[str, str]:
    """The variables of docs/reference/runtime.md."""
    variables = {
        "COMMONS_PORTAL_FILE": str(site.portal_file),
        "COMMONS_DATA": str(site.data.path),
        "COMMONS_PUBLIC_URL": site.url,
        "COMMONS_PROXY_URL": site.proxy_url,
        "COMMONS_HUB_PORT": str(site.ports["hub"]),
        "COMMONS_QUOTA_PORT": str(site.ports["quota"]),
        "COMMONS_PROXY_API_PORT": str(site.ports["proxy_api"]),
        "COMMONS_WEB_PARTS": str(site.environment.web_parts),
    }
    if site.public.user_domains:
        variables["COMMONS_USER_DOMAINS"] = "1"
    if site.model:
        variables["COMMONS_MODEL_PORT"] = str(site.ports["model"])
    return variables


def render(site: Site) -> str:
    """The supervisor's configuration. It runs all programs as one group, so that a stop reaches all at once."""
    found = programs(site)
    head = f"""\
[unix_http_server]
file={_value(site.data.socket)}
chmod=0700

[supervisord]
nodaemon=true
silent=true
nocleanup=true
umask=077
user={os.getuid()}
pidfile={_value(site.data.run / "supervisord.pid")}
logfile={_value(site.data.logs / "supervisord.log")}
logfile_maxbytes=10MB
logfile_backups=3

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{_value(site.data.socket)}

[group:{GROUP}]
programs={",".join(program.name for program in found)}
"""
    return head + "".join(_section(program, site.data) for program in found)


def _section(program: Program, data: DataFolder) -> str:
    command = shlex.join(("setpriv", "--pdeathsig", "TERM", "--", *program.argv))
    return f"""
[program:{program.name}]
command={_value(command)}
directory={_value(program.folder)}
autorestart=true
startsecs=2
startretries=2
stopsignal=TERM
stopwaitsecs={STOP_WAIT_S}
killasgroup=true
redirect_stderr=true
stdout_logfile={_value(data.logs / f"{program.name}.log")}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def _value(text: str | Path) -> str:
    return str(text).replace("%", "%%")

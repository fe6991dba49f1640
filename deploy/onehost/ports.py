"""The inner ports on 127.0.0.1: chosen once, kept in ports.json, because running notebooks know them.

Invariant: a port that a live session may know is never replaced behind its back.
"""

import json
import random
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deploy.onehost.console import CannotGoOn
from deploy.onehost.data_folder import write_whole

NAMES: Final = ("hub", "quota", "proxy_api", "model")
LOOPBACK: Final = "127.0.0.1"
# Below Linux's range for outgoing connections (ip_local_port_range, 32768 up): while the portal is down, no connection of
# another program takes these by chance.
CANDIDATES: Final = range(18_000, 32_000)
ATTEMPTS: Final = 1_000
POLL_S: Final = 0.2


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_allowed(port: int) -> bool:
    """Whether this user may listen on the port at all: the low ones belong to root."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            return False
        except OSError:
            return True
    return True


def wait_until_free(ports: Mapping[str, int], deadline_s: float) -> dict[str, int]:
    """Wait up to `deadline_s` for programs that are still ending; returns the ports that stay busy."""
    end_s = time.monotonic() + deadline_s
    while True:
        busy = {name: port for name, port in ports.items() if not is_free(port)}
        if not busy or time.monotonic() >= end_s:
            return busy
        time.sleep(POLL_S)


def read(ports_file: Path) -> dict[str, int] | None:
    """The kept ports; None where there are none. Raises CannotGoOn for a file that makes no sense."""
    try:
        content = json.loads(ports_file.read_text(encoding="utf-8"))
        ports = {name: content[name] for name in NAMES}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CannotGoOn(f"{ports_file}: is not a list of ports; remove it if no notebook runs") from error
    if not all(type(port) is int and 0 < port < 65_536 for port in ports.values()):
        raise CannotGoOn(f"{ports_file}: is not a list of ports; remove it if no notebook runs")
    return ports


def choose(
    ports_file: Path, public_port: int, chance: random.Random, free: Callable[[int], bool] = is_free
) -> dict[str, int]:
    """Choose free ports and keep them."""
    ports: dict[str, int] = {}
    for _ in range(ATTEMPTS):
        candidate = chance.choice(CANDIDATES)
        if candidate != public_port and candidate not in ports.values() and free(candidate):
            ports[NAMES[len(ports)]] = candidate
        if len(ports) == len(NAMES):
            write_whole(ports_file, json.dumps(ports))
            return ports
    raise CannotGoOn(f"found no free ports between {CANDIDATES.start} and {CANDIDATES.stop} on {LOOPBACK}")

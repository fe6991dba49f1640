"""The canary: two containers that are shut in like sessions try what no session may, before any session is started.

Invariant: it proves, it does not trust: while a connection gets through that must not, or the trial cannot be made, no session
starts and the reason says what to do. What it tries from within: another session, a port of this host on every address of it,
the cloud's metadata address, a host elsewhere. A listener of the helper's own is there to be reached, so that "refused" means
refused by a rule.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from spawners import container_spec as spec
from spawners.engine_calls import Engine, EngineAway, EngineRefused

log = logging.getLogger("commons.canary")

CANARY: Final = f"{spec.LABEL}canary"
METADATA: Final = "169.254.169.254"
ELSEWHERE: Final = "192.0.2.1"  # TEST-NET-1 of RFC 5737: nobody's
_TRIAL_S: Final = 60
_PEER: Final = """\
import socket, time
listener = socket.create_server(("0.0.0.0", 8888))
print("listening", flush=True)
listener.settimeout(60)
while True:
    listener.accept()[0].close()
"""
_TRIAL: Final = """\
import json, os, socket
reached = []
for host, port in json.loads(os.environ["TARGETS"]):
    try:
        socket.create_connection((host, port), timeout=2).close()
        reached.append(f"{host}:{port}")
    except OSError:
        pass
print("reached " + json.dumps(reached), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Canary:
    """One trial on one engine with one image that has Python."""

    engine: Engine
    image: str

    async def fault(self) -> str:
        """What is wrong; empty where all is shut. Raises EngineAway where the engine does not answer."""
        try:
            await self._clean()
            with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 (to be reached, if the rules let it)
                return await self._try(int(listener.getsockname()[1]))
        except EngineRefused as error:
            return f"the canary cannot be made: {error}"
        except TimeoutError:
            return "the canary did not come to an end"
        finally:
            await self._clean()

    async def _try(self, port: int) -> str:
        peer = await self._run("a", _PEER, {})
        await self._log_line("a", "listening")
        gateway = await self._network("b")
        hosts = sorted({gateway, *await asyncio.to_thread(host_addresses)})
        targets = [[peer, spec.PORT], *([host, port] for host in hosts), [METADATA, 80], [ELSEWHERE, 80]]
        await self._run("b", _TRIAL, {"TARGETS": json.dumps(targets)}, made=True)
        line = await self._log_line("b", "reached ")
        reached = json.loads(line.removeprefix("reached "))
        if reached:
            return (
                f"a session reaches {', '.join(reached)}, which it must not: load the packet rules "
                "(python -m spawners.session_firewall, docs/howto/containers.md)"
            )
        return ""

    async def _run(self, one: str, program: str, variables: Mapping[str, str], *, made: bool = False) -> str:
        """Start container `one` with this Python program; gives its address."""
        if not made:
            await self._network(one)
        body = _body(self.image, one, program, variables)
        await self.engine.call("POST", "/containers/create", query={"name": f"cc-canary-{one}"}, body=body)
        await self.engine.call("POST", f"/containers/cc-canary-{one}/start")
        inspected = await self.engine.call("GET", f"/containers/cc-canary-{one}/json")
        return str(inspected["NetworkSettings"]["Networks"][_network(one)]["IPAddress"])

    async def _network(self, one: str) -> str:
        """Make the network of container `one`; gives the host's address on it."""
        body = spec.network_body(f"canary-{one}") | {"Labels": {CANARY: one}}
        await self.engine.call("POST", "/networks/create", body=body)
        inspected = await self.engine.call("GET", f"/networks/{_network(one)}")
        return str(inspected["IPAM"]["Config"][0]["Gateway"])

    async def _log_line(self, one: str, beginning: str) -> str:
        async with asyncio.timeout(_TRIAL_S):
            while True:
                for line in (await self.engine.log_head(f"cc-canary-{one}")).splitlines():
                    if line.startswith(beginning):
                        return line
                container = await self.engine.container(f"cc-canary-{one}")
                if container is None or container.status == "exited":
                    text = await self.engine.log_head(f"cc-canary-{one}")
                    raise EngineRefused(422, f"it ended early: {text[-300:]}")
                await asyncio.sleep(0.05)

    async def _clean(self) -> None:
        for one in ("a", "b"):
            for method, path in (
                ("DELETE", f"/containers/cc-canary-{one}?force=1&v=1"),
                ("DELETE", f"/networks/{_network(one)}"),
            ):
                try:
                    await self.engine.call(method, path)
                except EngineRefused:
                    continue  # it was not there


def _network(one: str) -> str:
    return spec.network_name(f"canary-{one}")


def _body(image: str, one: str, program: str, variables: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Image": image,
        "User": "65534:65534",
        "Entrypoint": ["python3", "-I", "-c", program],
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {CANARY: one},
        "NetworkingConfig": {"EndpointsConfig": {_network(one): {}}},
        "HostConfig": {
            "NetworkMode": _network(one),
            "Memory": 128 * 2**20,
            "PidsLimit": 64,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
        },
    }


def host_addresses() -> list[str]:
    """The host's IPv4 addresses but its loopback, from the kernel's table of local ones."""
    found: set[str] = set()
    for before, line in pairwise(Path("/proc/net/fib_trie").read_text().splitlines()):
        if "host LOCAL" in line:
            found.add(before.split()[-1])
    return sorted(address for address in found if not address.startswith("127."))


async def watch(canary: Canary, health: Any, retry_s: float = 30.0) -> None:
    """Try until all is shut, telling `health`; then leave."""
    while True:
        try:
            health.reason = await canary.fault()
        except EngineAway as error:
            health.reason = f"the canary waits for the engine: {error}"
        health.ready = not health.reason
        if health.ready:
            log.info("the canary reached nothing: sessions may start")
            return
        log.error("no session is started: %s", health.reason)
        await asyncio.sleep(retry_s)

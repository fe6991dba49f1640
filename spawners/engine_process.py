"""The processes around an engine: `python -m spawners.engine_process helper | homes | watchdog`, until a signal.

Helper and home keeper serve one Unix socket each, the watchdog none.

Invariant: the sockets are of mode 0660: who may start sessions is who is in the socket's group; nothing listens on a port.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from spawners import container_spec, engine_canary, gpu_inventory
from spawners.address_pools import sessions_that_fit
from spawners.container_ender import ContainerEnder
from spawners.engine_calls import Engine, EngineAway, EngineRefused
from spawners.engine_helper import Health, Helper, sweep_networks
from spawners.engine_rules import Rules
from spawners.engine_sessions import KIND, EngineSessions
from spawners.home_keeper import HomeKeeper
from spawners.profiles import Backend
from spawners.session_ends import SessionEnds
from spawners.session_files import SessionFiles
from spawners.settings import SettingsError, SpawnerSettings, load
from spawners.watchdog import ENDERS, Watchdog

log = logging.getLogger("commons.engine")
SWEEP_EVERY_S: Final = 300
MANY_SESSIONS: Final = 256  # fewer than this are worth a warning


@dataclass(frozen=True, slots=True)
class Host:
    """What the processes read; `state` is the folder of helper and watchdog."""

    settings: SpawnerSettings
    data: Path
    state: Path


def read_host() -> Host:
    """Read $COMMONS_PORTAL_FILE, $COMMONS_DATA and $COMMONS_ENGINE_STATE (`engine` in the data folder). Raises SettingsError."""
    missing = [name for name in ("COMMONS_PORTAL_FILE", "COMMONS_DATA") if not os.environ.get(name)]
    if missing:
        raise SettingsError([f"environment: {name}: is not set" for name in missing])
    data = Path(os.environ["COMMONS_DATA"])
    state = Path(os.environ.get("COMMONS_ENGINE_STATE") or data / "engine")
    return Host(load(Path(os.environ["COMMONS_PORTAL_FILE"])), data, state)


def limits_of(settings: SpawnerSettings) -> container_spec.Limits:
    """What the site sets for all containers."""
    return container_spec.Limits(settings.containers.processes, settings.containers.tmp)


def rules_of(host: Host, devices: frozenset[str]) -> Rules:
    """The rules that follow from the catalogue: no more memory, CPUs or time than its largest profile has."""
    table = host.settings.containers
    profiles = [one for one in host.settings.catalogue if one.backend is Backend.CONTAINER]
    return Rules(
        images=table.allowed_images,
        devices=devices,
        homes_folder=str(table.homes_folder(host.data)),
        limits=limits_of(host.settings),
        memory_max_bytes=max((one.memory_bytes for one in profiles), default=0),
        cpus_max=max((one.cpus for one in profiles), default=0),
        runtime_max_s=max((one.longest_runtime_s for one in profiles), default=0),
        grading=host.settings.grading if host.settings.grading.backend is Backend.CONTAINER else None,
        grading_image=host.settings.grading_image,
    )


async def run_helper(host: Host, stop: asyncio.Event) -> None:
    """Serve the helper, keep deadlines, follow pauses, prove by the canary."""
    table = host.settings.containers
    inventory = gpu_inventory.read(table.gpus, [Path(one) for one in table.cdi_folders])
    health = Health() if table.canary else Health(ready=True, reason="")
    async with AsyncExitStack() as stack:
        engine = Engine(table.engine)
        stack.push_async_callback(engine.close)
        files = SessionFiles(host.state / "sessions")
        sessions = EngineSessions(engine, files, host.state / "deadlines", table.start_deadline)
        ends = SessionEnds(engine, files, host.state / "ends")
        rules = rules_of(host, frozenset(one.id for one in inventory))
        helper = Helper(engine, rules, inventory, sessions, ends, health)
        await serve(helper.app(), table.helper_socket(host.data), stack)
        tasks: list[Callable[[], Awaitable[None]]] = [
            lambda: tell_room(engine),
            sessions.follow_pauses,
            lambda: keep_sweeping(engine, ends),
        ]
        if table.canary and rules.images:
            canary = engine_canary.Canary(engine, sorted(rules.images)[0])
            tasks.append(lambda: engine_canary.watch(canary, health))
        running = [asyncio.ensure_future(task()) for task in tasks]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([stopped, *running[1:3]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*running, stopped):
                task.cancel()
            results = await asyncio.gather(*running, return_exceptions=True)
        faults = [one for one in results if isinstance(one, Exception)]
        if faults:
            raise faults[0]


async def tell_room(engine: Engine) -> None:
    """Write into the log for how many sessions at a time the engine's address pools are."""
    try:
        room = sessions_that_fit((await engine.call("GET", "/info")).get("DefaultAddressPools"))
    except (EngineAway, EngineRefused, ValueError, KeyError, TypeError) as error:
        log.warning("the engine's address pools cannot be told: %s", error)
        return
    level = logging.INFO if room >= MANY_SESSIONS else logging.WARNING
    log.log(level, "the engine's address pools hold %d sessions (docs/howto/containers.md, daemon.json)", room)


async def keep_sweeping(engine: Engine, ends: SessionEnds) -> None:
    """Remove what no session uses any more, every few minutes, until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        with suppress(EngineAway):
            await sweep_networks(engine)
        try:
            await asyncio.to_thread(ends.sweep)
        except OSError as error:
            log.warning("kept ends of sessions are not swept: %s", error)


async def run_homes(host: Host, stop: asyncio.Event) -> None:
    """Serve the home keeper."""
    table = host.settings.containers
    async with AsyncExitStack() as stack:
        keeper = HomeKeeper(table.homes_folder(host.data), table.homes)
        await serve(keeper.app(), table.keeper_socket(host.data), stack)
        await stop.wait()


async def run_watchdog(host: Host, stop: asyncio.Event) -> None:
    """Keep deadlines while hub, quota service and helper may be away. The thread ends with the process."""
    ender = ContainerEnder(host.settings.containers.engine, SessionFiles(host.state / "sessions"))
    watchdog = Watchdog(host.state / "deadlines", {**ENDERS, KIND: ender})
    threading.Thread(target=watchdog.run, name="watchdog", daemon=True).start()
    await stop.wait()


async def serve(app: web.Application, path: Path, stack: AsyncExitStack) -> None:
    """Serve on a Unix socket until the stack closes; one that an earlier process left is replaced."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    with suppress(FileNotFoundError):
        os.unlink(path)
    await web.UnixSite(runner, str(path)).start()
    os.chmod(path, 0o660)
    log.info("listening on %s", path)


async def run(which: Callable[[Host, asyncio.Event], Awaitable[None]], host: Host) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await which(host, stop)


def main(arguments: Sequence[str]) -> int:
    """Serve; 2 where the settings are wrong."""
    os.umask(0o007)  # a socket is of its group's and nobody else's from its first moment
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    which = {"helper": run_helper, "homes": run_homes, "watchdog": run_watchdog}.get(
        arguments[0] if len(arguments) == 1 else ""
    )
    if which is None:
        print("usage: python -m spawners.engine_process helper | homes | watchdog", file=sys.stderr)
        return 2
    try:
        asyncio.run(run(which, read_host()))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    except gpu_inventory.InventoryError as error:
        print(f"the host's GPUs cannot be told: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

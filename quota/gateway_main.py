"""The gateway wired: over the quota service's ports in one process (`open_gateway`), or as processes of its own.

Invariant: where several processes serve the gateway they share one PostgreSQL database, and what must hold across them (holds,
limits, a key's minute, Idempotency-Key) holds in it. On SQLite one process serves both.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction

import uvloop

from quota.adapters.clock import SystemClock
from quota.adapters.hub_oauth import HubSignIn
from quota.adapters.upstreams import HttpUpstreams
from quota.domain.errors import IdConflict
from quota.domain.rates import ChargeRate
from quota.gateway import settings as tables
from quota.gateway.app import Gateway, Site, build_gateway
from quota.gateway.health import keep_looking
from quota.gateway.journal import Journal
from quota.gateway.models import Models
from quota.gateway.recovery import keep_recovering
from quota.gateway.settings import allowed_hosts
from quota.gateway.wire import WireServer
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock, Store, Transaction
from quota.service.session_ports import Introspection
from quota.settings import Settings, SettingsError, from_environment
from quota.spooling import spooled
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.refusals import RefusalWindow
from quota.store.unit_of_work import SqlStore

STOP_DEADLINE_S = 10
REFUSALS_A_MINUTE = 60
_TURN_S = 0.0005  # of the interpreter


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    """What the gateway needs of the rest; `shared`: other processes use the same database."""

    ledger: Ledger
    store: Store
    clock: Clock
    hub: Introspection
    shared: bool


@asynccontextmanager
async def open_gateway(settings: Settings, ports: GatewayPorts, models: Models) -> AsyncIterator[Gateway]:
    """The gateway, closed when what runs is settled."""
    async with AsyncExitStack() as stack:
        folder = settings.data / "gateway"
        journal = Journal(folder)
        stack.callback(journal.close)
        upstreams = await stack.enter_async_context(HttpUpstreams(allowed_hosts(settings.tables.models)))
        gateway = build_gateway(
            Site(
                ledger=ports.ledger,
                store=ports.store,
                clock=ports.clock,
                session_key_secret=settings.secrets.session_key_secret.encode(),
                models=models,
                upstreams=upstreams,
                table=settings.tables.gateway,
                hub=ports.hub,
                shared=ports.shared,
                journal=journal,
            )
        )
        recovering = asyncio.create_task(keep_recovering(folder, ports.ledger, ports.clock), name="gateway recovery")
        stack.push_async_callback(_ended, recovering)
        every_s = settings.tables.gateway.health_interval
        looking = asyncio.create_task(keep_looking(models, upstreams, every_s), name="model servers")
        stack.push_async_callback(_ended, looking)
        stack.push_async_callback(gateway.close, STOP_DEADLINE_S)
        yield gateway


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def open_models(settings: Settings) -> Models:
    """The models of portal.toml with their servers' keys. Raises SettingsError."""
    try:
        return tables.open_models(
            settings.tables.gateway,
            settings.tables.models,
            secrets=settings.data / "secrets",
            demo_port=settings.model_port,
        )
    except ValueError as error:
        raise SettingsError(str(error).splitlines()) from None


def hub_sign_in(settings: Settings) -> HubSignIn:
    """The hub's word on whose a token is."""
    return HubSignIn(
        hub_api_url=settings.hub_api_url,
        api_token=settings.secrets.quota_api_token,
        public_url=settings.public_url,
        prefix=f"{settings.base_path}services/quota/",
        user_domains=settings.user_domains,
    )


async def publish_weights(store: Store, settings: Settings) -> None:
    """Write the models' dated weights to the store. Raises SettingsError where a published one was edited."""

    def work(tx: Transaction) -> None:
        for name, table in settings.tables.models.items():
            for number, one in enumerate(table.weights):
                try:
                    tx.rates.put(ChargeRate(f"model:{name}", Fraction(one.weight), one.since))
                except IdConflict:
                    reason = f"another weight was published for {one.valid_from}; add one with a later day"
                    raise SettingsError(
                        [f"{settings.portal_file}: models.{name}.weights[{number}]: {reason}"]
                    ) from None

    await store.write(work)


def tune_interpreter() -> None:
    """Suit the interpreter to the ledger: cycles are looked for seldom, and threads take short turns.

    A batch makes thousands of objects, none of them in a cycle. Its writer comes back from SQLite a dozen times a batch and
    would wait 5 ms each time for an event loop that is busy; with short turns the database works while the loop does.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(_TURN_S)


@asynccontextmanager
async def answering(gateway: Gateway, settings: Settings, host: str, port: int) -> AsyncIterator[int]:
    """The gateway behind its own server, on the port that is yielded; at the end what is under way is answered first. Raises OSError."""
    server = WireServer(gateway.handle, f"{settings.base_path}services/gateway")
    bound = await server.open(host, port)
    try:
        yield bound
    finally:
        server.stop_listening()
        await gateway.close(STOP_DEADLINE_S)
        server.close()


async def serve(settings: Settings, host: str, port: int) -> None:
    """One gateway process over PostgreSQL, until SIGTERM or SIGINT. Raises SettingsError on SQLite, OSError for a taken port."""
    try:
        database = open_database(settings.tables.quota.database or url_for(settings.data))
    except ValueError as error:
        raise SettingsError([f"portal.toml: quota.database: {error}"]) from None
    if database.is_sqlite:
        raise SettingsError(
            ["portal.toml: quota.database: gateway processes share PostgreSQL; on SQLite the portal serves it"]
        )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, database.close)
        await asyncio.to_thread(migrate, database)
        store = SqlStore(database)
        stack.push_async_callback(asyncio.to_thread, store.close)
        window = RefusalWindow(REFUSALS_A_MINUTE)
        store_ledger = await stack.enter_async_context(LedgerStore(database, refusals=window))
        ledger = await stack.enter_async_context(spooled(store_ledger, settings, one_of_many=True))
        ports = GatewayPorts(ledger, store, SystemClock(), hub_sign_in(settings), shared=True)
        gateway = await stack.enter_async_context(open_gateway(settings, ports, open_models(settings)))
        port = await stack.enter_async_context(answering(gateway, settings, host, port))
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"gateway: listening on http://{host}:{port}{settings.base_path}services/gateway/v1", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """`./commons gateway`: exits 2 with `file: key: reason` lines where the settings cannot be used."""
    parser = argparse.ArgumentParser(prog="commons gateway", description="One gateway process over PostgreSQL.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 chooses one")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        tune_interpreter()
        uvloop.run(serve(from_environment(), options.host, options.port))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"commons gateway: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

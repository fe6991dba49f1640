"""The quota service as a process: the only place where ports meet their adapters.

`python -m quota.main serve | check | migrate`. One process serves the pages, the REST API and the gateway, and runs the meter
and the spool's replay as named tasks that log what goes wrong and go on. A stop lets requests under way finish, then the ledger's queue.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from quota.adapters.clock import SystemClock
from quota.adapters.course_folders import CourseFolders
from quota.adapters.engine_evidence import EngineEvidence
from quota.adapters.evidence import EvidenceByBackend
from quota.adapters.exchange_folder import ExchangeFolder
from quota.adapters.hub_api import HubApi
from quota.adapters.hub_oauth import HubSignIn
from quota.adapters.mail import SmtpServer
from quota.adapters.profile_catalogue import Catalogue
from quota.adapters.runner_records import RunnerRecords
from quota.api.app import build_api
from quota.api.front import AccessLog, Front
from quota.api.http_protocol import HttpProtocol
from quota.api.principals import Parts
from quota.domain.errors import IdConflict
from quota.domain.hold import HoldState
from quota.domain.ids import HoldId
from quota.gateway.app import Gateway
from quota.gateway_main import (
    GatewayPorts,
    answering,
    hub_sign_in,
    open_gateway,
    open_models,
    publish_weights,
    tune_interpreter,
)
from quota.locales import translations
from quota.pages.app import build_pages
from quota.pages.desk import PageSettings
from quota.pages.door import cookie_door
from quota.service.ledger_ports import Ledger
from quota.service.letters import Addresses
from quota.service.mailer import Mailer
from quota.service.meter import Meter
from quota.service.notice_pass import NoticePass
from quota.service.notice_stream import NoticeStreams
from quota.service.ports import Transaction
from quota.service.reconcile import reconcile
from quota.service.services import Services
from quota.service.session_ports import SessionEvidence
from quota.service.spooled_ledger import SpooledLedger
from quota.settings import Settings, SettingsError, from_environment
from quota.slurm_main import keep_clusters_true, slurm_accounting
from quota.spooling import spooled
from quota.store.database import Database, open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import NotTheOwner, migrate
from quota.store.refusals import RefusalWindow
from quota.store.unit_of_work import SqlStore

log = logging.getLogger("quota.main")
_STOP_DEADLINE_S = 10
_REFUSALS_A_MINUTE = 60  # of one person, stored; what comes beyond is answered and not kept


@dataclass(frozen=True, slots=True)
class Portal:
    """What one process serves."""

    app: ASGIApp
    gateway: Gateway
    services: Services
    meter: Meter
    ledger: SpooledLedger
    notices: NoticePass
    mailer: Mailer | None  # None where the site has no mail server
    streams: NoticeStreams


@asynccontextmanager
async def open_portal(settings: Settings) -> AsyncIterator[Portal]:
    """Everything wired, over a migrated database; closed in reverse order."""
    database = open_ledger_database(settings.tables.quota.database, settings.data)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, database.close)
        await asyncio.to_thread(migrate, database)
        store = SqlStore(database)
        stack.push_async_callback(asyncio.to_thread, store.close)
        store_ledger = await stack.enter_async_context(
            LedgerStore(database, refusals=RefusalWindow(_REFUSALS_A_MINUTE))
        )
        ledger = await stack.enter_async_context(spooled(store_ledger, settings))
        models = open_models(settings)
        hub = HubApi(settings.hub_api_url, settings.secrets.quota_api_token)
        stack.push_async_callback(hub.close)
        services = Services(
            clock=SystemClock(),
            ledger=ledger,
            store=store,
            hub=hub,
            evidence=EvidenceByBackend(_evidence(settings, ledger)),
            catalogue=Catalogue(settings.profiles),
            policy=settings.policy,
            limits=settings.tables.limits.to_limits(),
            objects=ExchangeFolder(settings.data / "exchange"),
            course_files=CourseFolders(settings.data / "courses"),
            exchange=settings.tables.exchange.to_limits(),
            grading=settings.grading,
            programme=settings.programme,
            session_key_secret=settings.secrets.session_key_secret.encode(),
            sends_mail=bool(settings.tables.mail.server),
            models=models,
        )
        await publish_rates(services, settings)
        sign_in = hub_sign_in(settings)
        ports = GatewayPorts(ledger, store, services.clock, sign_in, shared=not database.is_sqlite)
        gateway = await stack.enter_async_context(open_gateway(settings, ports, models))
        meter = Meter(services)
        page_settings = PageSettings(
            settings.public_url, settings.web_parts, settings.secrets.cookie_key.encode(), settings.user_domains
        )
        door = cookie_door(services, sign_in, page_settings)
        parts = Parts(services, meter, sign_in, settings.secrets.hub_credential, door)
        front = _front(settings, parts, page_settings, sign_in, gateway)
        mailer = _mailer(settings, services)
        yield Portal(front, gateway, services, meter, ledger, NoticePass(services), mailer, parts.streams)


def _evidence(settings: Settings, ledger: Ledger) -> dict[str, SessionEvidence]:
    """Who tells of the sessions of each backend, by its name in portal.toml."""

    async def is_closed(hold_id: HoldId) -> bool:
        hold = await ledger.hold(hold_id)
        return hold is not None and hold.state is not HoldState.HELD

    backends: dict[str, SessionEvidence] = {"local": RunnerRecords(settings.data / "sessions")}
    if settings.engine_helper is not None:
        backends["container"] = EngineEvidence(settings.engine_helper, is_closed)
    if settings.clusters:
        backends["slurm"] = slurm_accounting(settings)
    return backends


def open_ledger_database(url: str, data: Path) -> Database:
    """The configured database, or the one in the data folder. Raises SettingsError for an engine that the ledger cannot use."""
    try:
        return open_database(url or url_for(data))
    except ValueError as error:
        raise SettingsError([f"portal.toml: quota.database: {error}"]) from None


async def publish_rates(services: Services, settings: Settings) -> None:
    """Write portal.toml's rates to the store. Raises SettingsError where a published rate was edited."""

    def work(tx: Transaction) -> None:
        for number, table in enumerate(settings.tables.rates):
            try:
                tx.rates.put(table.to_rate())
            except IdConflict:
                reason = (
                    f"another rate of {table.hardware} was published for {table.valid_from}; add one with a later day"
                )
                raise SettingsError([f"{settings.portal_file}: rates[{number}].rate: {reason}"]) from None

    await services.store.write(work)
    await publish_weights(services.store, settings)


def _mailer(settings: Settings, services: Services) -> Mailer | None:
    if not services.sends_mail:
        return None
    pages = f"{settings.public_url}services/quota/"
    lead = Addresses(home=pages, choices=f"{pages}notices/choices", programme=services.programme.name)
    server = SmtpServer(settings.tables.mail, settings.mail_password)
    return Mailer(services, server, lambda language: translations(language).gettext, lead)


def _front(
    settings: Settings, parts: Parts, page_settings: PageSettings, sign_in: HubSignIn, gateway: Gateway
) -> ASGIApp:
    base = settings.base_path
    mounts: dict[str, ASGIApp] = {
        f"{base}services/quota/api": AccessLog(build_api(parts)),
        f"{base}services/quota": AccessLog(build_pages(parts.services, sign_in, page_settings)),
        f"{base}services/gateway": gateway,  # its own usage records say more than a log line
    }
    return Front(mounts)


async def keep_metering(portal: Portal) -> None:
    """The meter's loop: a pass against hub and evidence, at the latest after the policy's interval; ends by being cancelled."""
    while True:
        try:
            report = await reconcile(portal.services, portal.meter)
            if report.settled or report.released or report.unknown:
                log.info("pass: %s", report)
        except Exception:  # a process edge: the next pass tries again
            log.exception("a pass failed")
        await asyncio.sleep(portal.meter.due_in_s())


async def keep_telling(notices: NoticePass) -> None:
    """The notices' loop; ends by being cancelled."""
    while True:
        try:
            await notices.run()
        except Exception:  # a process edge: the next pass tries again
            log.exception("a pass over the notices failed")
        await asyncio.sleep(notices.due_in_s())


async def keep_mailing(mailer: Mailer) -> None:
    """The outbox's loop; ends by being cancelled: a mail under way then is sent again, under its Message-ID."""
    while True:
        sent = 0
        try:
            sent = await mailer.run()
        except Exception:  # a process edge: the next pass tries again
            log.exception("sending mails failed")
        await asyncio.sleep(mailer.due_in_s(sent))


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: they end the process before the ledger's queue is written."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with open_portal(settings) as portal, gateway_door(settings, portal.gateway):
        server = Server(server_config(portal.app, settings.quota_port))

        def stop() -> None:
            portal.streams.close()  # a stream that goes on would hold the stop up
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        loops = {
            "meter": keep_metering(portal),
            "notices": keep_telling(portal.notices),
            "streams": portal.streams.run(),
        }
        if settings.clusters:
            loops["clusters"] = keep_clusters_true(portal.services, settings)
        if portal.mailer is not None:
            loops["mails"] = keep_mailing(portal.mailer)
        tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
        try:
            await server.serve()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def gateway_door(settings: Settings, gateway: Gateway) -> AsyncIterator[None]:
    """The gateway on its own server as well, where portal.toml names a port. Raises SettingsError where that is taken."""
    port = settings.tables.gateway.port
    async with AsyncExitStack() as stack:
        if port:
            try:
                await stack.enter_async_context(answering(gateway, settings, "127.0.0.1", port))
            except OSError as error:
                raise SettingsError([f"{settings.portal_file}: gateway.port: {error.strerror or error}"]) from None
        yield


def server_config(app: ASGIApp, port: int) -> uvicorn.Config:
    """Loopback only; our own access log, which carries no query strings."""
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=HttpProtocol,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        # As long as JupyterHub's: the proxy keeps its connections, and a request on one that closes in that moment is a 503.
        timeout_keep_alive=3_600,
        timeout_graceful_shutdown=_STOP_DEADLINE_S,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exits 2 with `file: key: reason` lines where the settings cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m quota.main", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("serve", "check", "migrate"))
    command = parser.parse_args(arguments).command
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = from_environment()
        if command == "migrate":
            migrate(open_ledger_database(settings.tables.quota.database, settings.data))
        elif command == "serve":
            tune_interpreter()
            uvloop.run(serve(settings))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    except NotTheOwner as error:
        print(f"commons: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

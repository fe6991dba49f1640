"""The gateway wired: over the quota service's ports in one process (`open_gateway`), or as processes of its own.

Invariant: where several processes serve the gateway they share one PostgreSQL database, and what must hold across them (holds,
limits, a key's minute, Idempotency-Key) holds in it. On SQLite one process serves both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction

from quota.adapters.hub_oauth import HubSignIn
from quota.adapters.upstreams import HttpUpstreams
from quota.domain.errors import IdConflict
from quota.domain.rates import ChargeRate
from quota.gateway import settings as tables
from quota.gateway.app import Gateway, Site, build_gateway
from quota.gateway.models import Models
from quota.gateway.settings import allowed_hosts
from quota.service.ports import Clock, Introspection, Ledger, Store, Transaction
from quota.settings import Settings, SettingsError

STOP_DEADLINE_S = 10


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
            )
        )
        stack.push_async_callback(gateway.close, STOP_DEADLINE_S)
        yield gateway


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

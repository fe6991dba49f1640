"""Where a course's benchmarks have containers: one engine with its helper, and the exchange that pays for runs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawners.settings import load
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.site import ContainerSite
from tests.integration.exchange_process import ExchangeProcess
from tests.integration.paid_course import container_grading


@dataclass(frozen=True)
class GradingSite:
    """What a formgrader is told there, and the exchange that holds and charges."""

    exchange: ExchangeProcess
    grading: Mapping[str, Any]


@contextmanager
def container_site(folder: Path, students: int) -> Iterator[GradingSite]:
    """Start all of it, and end it. Raises NoEngine."""
    engine = Engine()
    with ExitStack() as stack:
        stack.callback(engine.stop)
        engine.start()
        stack.enter_context(engine.namespace.inside())
        client = engine.client(timeout_s=600)
        stack.callback(client.close)
        site = ContainerSite(engine, Images(client, engine.home).base())
        stack.callback(site.stop)
        site.load_rules(1, 2)
        site.start()
        settings = load(site.portal_file)
        exchange = ExchangeProcess(folder, students, runtime_s=settings.grading.runtime, helper=str(site.helper))
        exchange.folder.mkdir(parents=True)
        exchange.start()
        stack.callback(exchange.kill)
        yield GradingSite(exchange, container_grading(site.helper, settings.grading_image, settings.grading))

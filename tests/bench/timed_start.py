"""What a hub under measurement loads beside its configuration: clocks around the parts of a start.

Invariant: the hub's behaviour stays as it is: each clock calls what it stands around and writes one line of JSON into
`$COMMONS_DATA/timings.jsonl`. `probe_every` is the one exception, applied to every hub that is compared.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jupyterhub.utils
from jupyterhub.spawner import Spawner
from jupyterhub.utils import maybe_future

from quota.client import Held, HoldOrder, QuotaClient, Refused

TIMINGS: Final = "timings.jsonl"
ADMISSION, HOLD, SPAWNER = "admission", "hold", "spawner"


@contextmanager
def clock(part: str) -> Iterator[None]:
    """Note how many milliseconds the block took."""
    began_s = time.perf_counter()
    try:
        yield
    finally:
        line = json.dumps({part: (time.perf_counter() - began_s) * 1000}) + "\n"
        with (Path(os.environ["COMMONS_DATA"]) / TIMINGS).open("a") as file:
            file.write(line)


def timed(spawner_class: type[Spawner]) -> type[Spawner]:
    """The same spawner with clocks around its pre-spawn hook and its start."""

    class TimedSpawner(spawner_class):  # type: ignore[misc]
        async def run_pre_spawn_hook(self) -> None:
            with clock(ADMISSION):
                await maybe_future(super().run_pre_spawn_hook())

        async def start(self) -> Any:
            with clock(SPAWNER):
                return await super().start()

    return TimedSpawner


def time_holds() -> None:
    """Put a clock around the hub's call for a hold, as its client sees it."""
    hold = QuotaClient.hold

    async def timed_hold(self: QuotaClient, hold_id: str, order: HoldOrder, language: str = "") -> Held | Refused:
        with clock(HOLD):
            return await hold(self, hold_id, order, language)

    QuotaClient.hold = timed_hold  # type: ignore[method-assign]


def probe_every(pause_s: float) -> None:
    """Have the hub look for a started server at most `pause_s` after its last look.

    After a miss a stock hub sleeps for a random time of up to 0.2 s, then 0.4 s and so on: whether a start of a tenth of a second
    meets that or not would be most of its figure.
    """
    stock = jupyterhub.utils.exponential_backoff
    jupyterhub.utils.exponential_backoff = functools.partial(stock, start_wait=pause_s, max_wait=pause_s)


def read(data: Path) -> dict[str, float]:
    """The sums of the parts noted since the last call, which forgets them."""
    found: dict[str, float] = {}
    path = data / TIMINGS
    if path.exists():
        for line in path.read_text().splitlines():
            for part, took_ms in json.loads(line).items():
                found[part] = found.get(part, 0.0) + took_ms
        path.unlink()
    return found

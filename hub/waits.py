"""What a start would wait for, on the chooser's hardware cards: the free GPUs of the cluster's partition and who waits for it, in words.

Invariant: the chooser never waits long for a cluster: what it does not say in time stands as "does not answer", and the page is there.
One shared look a cluster, however many people read (`spawners.slurmrestd.watch`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from hub.durations import duration_text
from hub.language import translator
from spawners.job_queue import JobQueue
from spawners.profiles import Profiles, SlurmPlace
from spawners.slurmrestd import SlurmError
from spawners.slurmrestd.watch import Line

log = logging.getLogger("jupyterhub.commons")
DEADLINE_S: Final = 1.5


class Waits:
    """Asks the clusters of a catalogue; `queue_of` gives the one of a name."""

    def __init__(self, profiles: Profiles, queue_of: Callable[[str], JobQueue]) -> None:
        self._places = {
            one.id: (one.slurm, one.slurm.gpu_type if one.gpus else None) for one in profiles if one.slurm is not None
        }
        self._queue_of = queue_of

    async def words(self, language: str) -> Mapping[str, str]:
        """The line for each profile that is a job's."""
        lines = await asyncio.gather(*(self._line(place, gpu_type) for place, gpu_type in self._places.values()))
        return {name: wait_text(line, language) for name, line in zip(self._places, lines, strict=True)}

    async def _line(self, place: SlurmPlace, gpu_type: str | None) -> Line | None:
        try:
            return await asyncio.wait_for(self._queue_of(place.cluster).line(place.partition, gpu_type), DEADLINE_S)
        except (SlurmError, TimeoutError) as error:
            log.warning("The chooser has no wait of %s: %s", place.cluster, error or "no answer in time")
            return None


def wait_text(line: Line | None, language: str, now_s: float | None = None) -> str:
    """What the card says; None: the cluster does not answer."""
    _ = translator(language)
    if line is None:
        return _("the cluster does not answer at the moment")
    wait = _wait_text(line, language, time.time() if now_s is None else now_s)
    if line.room is None:
        return wait
    free = _("%(free)s of %(total)s GPUs free now") % {"free": line.room.free, "total": line.room.total}
    return _("%(free)s; %(wait)s") % {"free": free, "wait": wait} if line.waiting else free


def _wait_text(line: Line, language: str, now_s: float) -> str:
    _ = translator(language)
    if not line.waiting:
        return _("nobody waits for it")
    left_s = (line.expected_at_s or 0) - now_s
    if left_s <= 0:
        return _("jobs that wait for it: %(number)s") % {"number": line.waiting}
    wait = duration_text(max(60, round(left_s / 60) * 60), language)
    return _("jobs that wait for it: %(number)s; expected wait %(wait)s") % {"number": line.waiting, "wait": wait}

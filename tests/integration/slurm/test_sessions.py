"""Sessions as jobs keep the contract of delegates on a real Slurm, through slurmrestd and through the commands alike.

The truth outside is squeue, sacct and the processes' own files. Both run behind job_submit.lua, with the signer's tickets.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException

from spawners.batch import SbatchSpawner, command_queue, stock_parse_job_id
from spawners.delegate import BackendUnreachable
from spawners.job_queue import RestQueue
from spawners.job_records import JobRecord, JobRecords
from spawners.session_traits import StopUnconfirmedError
from spawners.slurm import SlurmRestSpawner
from spawners.slurm_commands import Commands
from tests.delegate_contract import DelegateContract
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.cut_in import OUTAGES, Answer, only, proxied
from tests.integration.slurm.job_sessions import SlurmUnderTest, slurm_table, write_program
from tests.integration.slurm.offices import client, office
from tests.integration.slurm.options import PARTITION, PORTAL_ACCOUNT
from tests.integration.slurm.portal_file import as_owner
from tests.waiting import PATIENCE_S, eventually

_numbers = itertools.count(1)
_LONGEST = "1-00:00:00"  # the partition's own MaxTime


def rest(cluster: SlurmCluster, folder: Path, *, through: str = "", **changes: Any) -> SlurmUnderTest:
    table = slurm_table(cluster, write_program(cluster.base), **changes)
    queue = RestQueue(table, client(cluster, folder, url=through))
    return SlurmUnderTest(cluster, folder, queue, SlurmRestSpawner, PORTAL_ACCOUNT, f"rest{next(_numbers)}")


class SbatchUnderTest(SlurmUnderTest):
    """Goes dark with slurmctld: there is no slurmrestd in between."""

    daemon = "slurmctld"


def sbatch(cluster: SlurmCluster, folder: Path, **changes: Any) -> SlurmUnderTest:
    table = slurm_table(cluster, write_program(cluster.base), access="sbatch", **changes)
    inside = tuple(cluster.namespace.argv(()))
    commands = Commands(as_owner=(str(as_owner(cluster, folder)), "{login}"), wrapper=inside)
    queue = command_queue(table, commands, stock_parse_job_id, office(cluster, folder))
    return SbatchUnderTest(cluster, folder, queue, SbatchSpawner, PORTAL_ACCOUNT, f"sbatch{next(_numbers)}")


class TestRest(DelegateContract):
    """Every rule, through slurmrestd."""

    @pytest.fixture
    async def backend(self, slurm22: SlurmCluster, tmp_path: Path) -> AsyncIterator[SlurmUnderTest]:
        under_test = rest(slurm22, tmp_path)
        yield under_test
        await under_test.end()


class TestSbatch(DelegateContract):
    """Every rule, through sbatch, squeue and scancel."""

    @pytest.fixture
    async def backend(self, slurm22: SlurmCluster, tmp_path: Path) -> AsyncIterator[SlurmUnderTest]:
        under_test = sbatch(slurm22, tmp_path)
        yield under_test
        await under_test.end()


@pytest.mark.full
class TestRestOfTheNewerRelease(DelegateContract):
    """Every rule on 24.11, through slurmrestd."""

    @pytest.fixture
    async def backend(self, slurm24: SlurmCluster, tmp_path: Path) -> AsyncIterator[SlurmUnderTest]:
        under_test = rest(slurm24, tmp_path)
        yield under_test
        await under_test.end()


@pytest.mark.full
class TestSbatchOfTheNewerRelease(DelegateContract):
    """Every rule on 24.11, through the commands."""

    @pytest.fixture
    async def backend(self, slurm24: SlurmCluster, tmp_path: Path) -> AsyncIterator[SlurmUnderTest]:
        under_test = sbatch(slurm24, tmp_path)
        yield under_test
        await under_test.end()


@pytest.mark.parametrize("after", [False, True], ids=["not carried out", "carried out"])
@pytest.mark.parametrize("lie", [OUTAGES[1], OUTAGES[2], OUTAGES[4]], ids=["500", "a portal", "a list"])
async def test_garbage_for_an_extension_moves_no_end_that_slurm_does_not_keep_and_the_next_try_does(
    slurm22: SlurmCluster, tmp_path: Path, lie: Answer, after: bool
) -> None:
    with proxied(slurm22) as proxy:
        under_test = rest(slurm22, tmp_path, through=proxy.url)
        hold_id = under_test.hold_id()
        spawner = under_test.spawner(hold_id)
        await spawner.start()
        before_ms = await under_test.deadline_ms(hold_id)
        wanted_ms = time.time_ns() // 10**6 + 7_200_000
        proxy.fault, proxy.after = only("POST", "/job/", lie), after
        with pytest.raises(BackendUnreachable):
            await spawner.set_deadline(wanted_ms)
        assert abs(await under_test.deadline_ms(hold_id) - before_ms) <= 60_000  # the session keeps the end that it has
        assert await spawner.poll() is None
        proxy.fault = lambda method, path: None
        await spawner.set_deadline(wanted_ms)
        assert abs(await under_test.deadline_ms(hold_id) - wanted_ms) <= under_test.deadline_grain_ms
        await spawner.stop()
        await under_test.end()


async def test_a_session_whose_number_slurm_gave_to_somebody_else_is_over_and_the_other_job_goes_on(
    slurm22: SlurmCluster, tmp_path: Path
) -> None:
    """A slurmctld that lost its state counts from the beginning again."""
    under_test = rest(slurm22, tmp_path)
    spawner, other = under_test.spawner(under_test.hold_id()), under_test.spawner(under_test.hold_id("o"), server="o")
    await spawner.start()
    await other.start()
    state = other.get_state()
    confused = under_test.spawner("")
    record = {**spawner.get_state()["record"], "job_id": state["record"]["job_id"], "submitted_at_ms": 1}
    await spawner.stop()
    under_test.forget(spawner.hold_id)
    confused.load_state({"hold_id": record["hold_id"], "record": record})
    await confused.stop()
    assert await confused.poll() == 1
    assert await other.poll() is None
    assert await under_test.runs(state["hold_id"])
    await other.stop()
    await under_test.end()


@pytest.mark.parametrize("lasting", [False, True], ids=["for a moment", "for good"])
async def test_a_job_is_given_up_once_slurm_said_for_a_while_that_it_never_starts_and_not_at_its_first_word(
    slurm22: SlurmCluster, tmp_path: Path, lasting: bool
) -> None:
    under_test = rest(slurm22, tmp_path, never_fits_for="4 s" if lasting else "1 min")
    hold_id = under_test.hold_id()
    spawner = under_test.spawner(hold_id)
    slurm22.run("scontrol", "update", f"partitionname={PARTITION}", "state=down")
    starting = asyncio.create_task(spawner.start())
    try:
        await says(under_test, hold_id, "PartitionDown")
        before = time.monotonic()
        slurm22.run("scontrol", "update", f"partitionname={PARTITION}", "maxtime=1", "state=up")
        await says(under_test, hold_id, "PartitionTimeLimit")
        if lasting:
            with pytest.raises(SpawnException) as refused:
                await asyncio.wait_for(starting, PATIENCE_S)
            assert refused.value.reason == "never_fits"
            assert time.monotonic() - before > 4
            assert under_test.squeue("%i", "--name", hold_id) == []
            return
        await asyncio.sleep(3)  # several looks
        assert not starting.done()
    finally:
        slurm22.run("scontrol", "update", f"partitionname={PARTITION}", f"maxtime={_LONGEST}", "state=up")
    await asyncio.wait_for(starting, PATIENCE_S)
    assert await under_test.runs(hold_id)
    await under_test.end()


async def says(under_test: SlurmUnderTest, hold_id: str, reason: str) -> None:
    async def said() -> bool:
        return under_test.squeue("%r", "--name", hold_id) == [reason]

    await eventually(said, within_s=PATIENCE_S, what=f"Slurm says {reason}")


async def test_a_session_whose_stop_is_not_seen_has_no_credential_of_the_hubs_any_more(
    slurm22: SlurmCluster, tmp_path: Path
) -> None:
    """JupyterHub revokes it with a stop that it saw through, and forgets it with any other."""
    under_test, ended = rest(slurm22, tmp_path), list[str]()
    spawner, again = under_test.spawner(under_test.hold_id()), under_test.spawner("")
    spawner.end_credential = again.end_credential = ended.append
    await spawner.start()
    async with under_test.dark():
        with pytest.raises(StopUnconfirmedError):
            await under_test.impatient(spawner).stop()
    assert ended == [spawner.api_token]
    assert await again.find_running() is None  # told to end by that look, if it had not been
    assert ended == [spawner.api_token] * 2
    await under_test.end()


async def test_a_session_has_started_once_its_port_is_on_disk(
    slurm22: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, take_port = JobRecords.write, SlurmRestSpawner.take_port

    async def late(self: SlurmRestSpawner, port: int) -> bool:
        async def has_address() -> bool:
            record = JobRecords(under_test.data).read(hold_id)
            return record is not None and bool(record.address)

        await eventually(has_address, within_s=PATIENCE_S, what="the node's address is known")
        return await take_port(self, port)

    def slowly(self: JobRecords, record: JobRecord) -> None:
        if record.port:
            time.sleep(3)  # the disk's: looks at the job go on meanwhile
        write(self, record)

    monkeypatch.setattr(SlurmRestSpawner, "take_port", late)
    monkeypatch.setattr(JobRecords, "write", slowly)
    under_test = rest(slurm22, tmp_path)
    hold_id = under_test.hold_id()
    spawner = under_test.spawner(hold_id)
    _, port = await spawner.start()
    record = JobRecords(under_test.data).read(hold_id)
    assert record is not None
    assert record.port == port
    await spawner.stop()
    await under_test.end()


async def test_on_the_newer_release_a_session_starts_moves_its_end_and_stops(
    slurm24: SlurmCluster, tmp_path: Path
) -> None:
    under_test = rest(slurm24, tmp_path)
    hold_id = under_test.hold_id()
    spawner = under_test.spawner(hold_id)
    await spawner.start()
    assert await under_test.runs(hold_id)
    wanted_ms = time.time_ns() // 10**6 + 7_200_000
    await spawner.set_deadline(wanted_ms)
    assert abs(await under_test.deadline_ms(hold_id) - wanted_ms) <= under_test.deadline_grain_ms + 60_000
    await spawner.stop()
    assert not await under_test.runs(hold_id)
    await under_test.end()

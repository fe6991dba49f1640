"""A job that no open hold pays for is cancelled, and what it used is booked to the system's own project."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quota.adapters.slurm_accounting import Cluster, SlurmWorks
from quota.domain.ids import new_id
from quota.domain.units import Unit
from quota.service.strays import ACCOUNT, UNALLOCATED, StrayPass
from spawners.slurmrestd import JobState
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ANN
from tests.integration.slurm.test_accounting import Bench, bench
from tests.waiting import PATIENCE_S, eventually


def stray_pass(made: Bench) -> StrayPass:
    return StrayPass(made.services, SlurmWorks({"ci": Cluster(made.client, lambda project: f"cc-{project}")}))


async def booked_ms(made: Bench) -> int:
    allocation = await made.services.store.read(lambda tx: tx.accounts.get(ACCOUNT))
    return 0 if allocation is None else allocation.balance.charged


async def test_a_stray_is_cancelled_and_booked_to_nobody(slurm22: SlurmCluster, tmp_path: Path) -> None:
    async with bench(slurm22, tmp_path) as made:
        paid = await made.start_running()
        passes = stray_pass(made)
        hold = new_id()  # of no ledger: whoever submitted it had a ticket of the signer's and no hold
        stray = await asyncio.to_thread(made.client.submit, job(hold, account=f"cc-{made.project}"), hold, ANN.login)
        await made.until(stray, JobState.RUNNING)
        await asyncio.sleep(2)  # something to book

        async def look() -> int | None:
            await passes.run()
            return await booked_ms(made) or None

        booked = await eventually(look, within_s=PATIENCE_S, what="a booked stray", every_s=1)
        rows = await asyncio.to_thread(made.client.runs, [stray])
        assert booked == sum(row.gpu_s for row in rows) * 1000
        await passes.run()
        assert await booked_ms(made) == booked  # once
        assert (await asyncio.to_thread(made.client.job, paid.job_id)).running
        project = next(
            one
            for one in await made.services.store.read(lambda tx: tx.accounts.of_project(made.project))
            if one.unit is Unit.GPU_MS
        )
        assert project.balance.charged == 0
        assert await made.services.store.read(lambda tx: tx.projects.get(UNALLOCATED)) is not None
        await asyncio.to_thread(made.client.cancel, paid.job_id)
        await made.settle_all()

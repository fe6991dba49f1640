"""The ledger against a real slurmdbd: whatever happens to jobs, what is charged is what slurmdbd counted, to the second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

from quota.adapters.clock import SystemClock
from quota.adapters.evidence import EvidenceByBackend
from quota.adapters.slurm_accounting import Cluster, SlurmAccounting
from quota.domain.hold import HoldState
from quota.domain.ids import AllocationId, HoldId, ProjectId, new_id
from quota.domain.project import Project, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.units import Unit
from quota.service.admit import SessionHold, SessionHoldRequest, place_session_hold
from quota.service.meter import Meter
from quota.service.ports import Transaction
from quota.service.services import Policy, Services
from quota.service.session_ports import PricedProfile
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlStore
from spawners.slurmrestd import Job, JobState, SlurmClient
from tests.fakes import world
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ACCOUNT, ANN, LOW_PARTITION, PARTITION
from tests.ledgers import sqlite_database
from tests.waiting import PATIENCE_S, eventually

FULL = os.environ.get("COMMONS_FULL") == "1"
OF_EACH = 6 if FULL else 1
PROFILE = PricedProfile("gpu1", "1 GPU", "gpu", "ci", ("lab",), 1, 12 * 3600, backend="slurm")


class OneProfile:
    """A catalogue of one Slurm profile."""

    def profile(self, profile_id: str) -> PricedProfile | None:
        return PROFILE if profile_id == PROFILE.id else None

    def free_profile(self) -> PricedProfile | None:
        return None


@dataclass
class Bench:
    """A real ledger and meter over a real cluster, and the jobs that were started on it."""

    cluster: SlurmCluster
    client: SlurmClient
    services: Services
    meter: Meter
    project: ProjectId
    jobs: dict[HoldId, int] = field(default_factory=dict)

    async def start(self, script: str = "sleep 300", **more: object) -> int:
        """A hold and its job; the job's id."""
        request = SessionHoldRequest(HoldId(new_id()), "ann", self.project, "gpu1", "lab", 3600, new_id()[:8])
        held = await place_session_hold(self.services, request)
        assert isinstance(held, SessionHold), held
        hold_id = held.hold.id
        made = job(hold_id, script, account=f"cc-{self.project}", **more)
        self.jobs[hold_id] = await asyncio.to_thread(self.client.submit, made, hold_id, ANN.login)
        return self.jobs[hold_id]

    async def start_running(self, script: str = "sleep 300", **more: object) -> Job:
        """As `start`, once it runs."""
        return await self.until(await self.start(script, **more), JobState.RUNNING)

    async def until(self, job_id: int, state: JobState, within_s: float = PATIENCE_S) -> Job:
        """The job, once it is in `state`."""

        async def look() -> Job | None:
            found = await asyncio.to_thread(self.client.job, job_id)
            return found if state in found.states else None

        return await eventually(look, within_s=within_s, what=f"job {job_id} {state}", every_s=0.3)

    async def until_it_only_waits(self, job_id: int) -> None:
        """Once nothing of a requeued job's first run is left."""

        async def look() -> bool:
            return (await asyncio.to_thread(self.client.job, job_id)).states == {JobState.PENDING}

        await eventually(look, within_s=PATIENCE_S, what=f"job {job_id} waits", every_s=0.3)

    async def begin_again(self, job_id: int) -> None:
        """Have a requeued job begin at once; else it waits two minutes."""
        await asyncio.sleep(
            2
        )  # slurmd launches no job that it killed in the same second: "already killed, do not launch"
        await self.scontrol("update", f"jobid={job_id}", "StartTime=now")

    def gate(self) -> tuple[Path, str]:
        """A file, and a job's script that goes on until it is there."""
        path = self.cluster.homes / ANN.login / f"gate-{new_id()}"
        return path, f"until [ -e {path} ]; do sleep 0.2; done"

    async def scontrol(self, *words: str) -> None:
        await asyncio.to_thread(self.cluster.run, "scontrol", *words)

    async def settle_all(self) -> None:
        """Passes of the meter until every hold is closed."""

        async def look() -> bool:
            await self.meter.run_pass(None)
            return not await self.open_holds()

        await eventually(look, within_s=PATIENCE_S, what="every hold closed", every_s=1)

    async def open_holds(self) -> list[HoldId]:
        holds = [await self.services.ledger.hold(hold_id) for hold_id in self.jobs]
        return [hold.id for hold in holds if hold is not None and hold.state is HoldState.HELD]

    async def charged_ms(self) -> dict[int, int]:
        """What the ledger charged, by job."""
        charged = {}
        for hold_id, job_id in self.jobs.items():
            hold = await self.services.ledger.hold(hold_id)
            assert hold is not None
            charged[job_id] = hold.charged
        return charged

    async def counted_ms(self) -> dict[int, int]:
        """What sacct counts, by job: GPUs × elapsed over all runs, read by the command and not by our client."""
        counted = dict.fromkeys(self.jobs.values(), 0)
        said = await asyncio.to_thread(
            self.cluster.run, "sacct", "-D", "-X", "-n", "-P", "-j", ",".join(map(str, counted)), "-o", "jobidraw,elapsedraw,alloctres"
        )  # fmt: skip
        for line in said.splitlines():
            job_id, elapsed, tres = line.split("|")
            gpus = dict(one.split("=") for one in tres.split(",") if one).get("gres/gpu", "0")
            counted[int(job_id)] += int(elapsed) * int(gpus) * 1000
        return counted


@asynccontextmanager
async def bench(cluster: SlurmCluster, folder: Path) -> AsyncIterator[Bench]:
    database = sqlite_database(folder)
    client = offices.client(cluster, folder)
    now = datetime.now(UTC)
    project = ProjectId(new_id())  # an account of its own: what other tests ran would be strays of this ledger
    for words in (("account", f"cc-{project}"), ("user", ANN.login, f"account=cc-{project}")):
        await asyncio.to_thread(cluster.run, "sacctmgr", "-i", "add", *words)

    def open_project(tx: Transaction) -> None:
        pi = tx.people.register(
            issuer="https://idp.example",
            subject="ann",
            hub_name="ann",
            display_name="Ann",
            email=None,
            language="en",
            at=now,
        )
        tx.projects.add(Project(project, "ocean", "Ocean", ProjectState.ACTIVE, now), pi.id)
        account = AllocationId("ocean-gpu")
        tx.accounts.open_allocation(account, project, Unit.GPU_MS, now - timedelta(days=1), now + timedelta(days=90))
        tx.accounts.deposit("d", account, 10**12, actor=pi.id, at=now, code="award", params={"title": "Ocean"})
        tx.rates.put(ChargeRate("gpu", Fraction(1), datetime(2026, 1, 1, tzinfo=UTC)))

    async with LedgerStore(database) as ledger:
        store = SqlStore(database)
        await store.write(open_project)
        accounting = SlurmAccounting({"ci": Cluster(client, lambda project: f"cc-{project}")}, lambda _: "ci")
        services = replace(
            world(policy=Policy()).services,
            clock=SystemClock(),
            ledger=ledger,
            store=store,
            evidence=EvidenceByBackend({"slurm": accounting}),
            catalogue=OneProfile(),
        )
        yield Bench(cluster, client, services, Meter(services), project)
        store.close()
    database.close()


Fate = Callable[[Bench], Awaitable[None]]


async def finished(made: Bench) -> None:
    for _ in range(OF_EACH):
        await made.start("sleep 2")
        await made.start("sleep 1; exit 3")


async def cancelled(made: Bench) -> None:
    for _ in range(OF_EACH):
        running = await made.start_running()
        await asyncio.to_thread(made.client.cancel, running.job_id)


async def cancelled_while_it_waits(made: Bench) -> None:
    await made.scontrol("update", f"partitionname={LOW_PARTITION}", "state=down")
    try:
        waiting = [await made.start(partition=LOW_PARTITION) for _ in range(OF_EACH)]
        await made.meter.run_pass(None)
        for job_id in waiting:
            await asyncio.to_thread(made.client.cancel, job_id)
    finally:
        await made.scontrol("update", f"partitionname={LOW_PARTITION}", "state=up")


async def suspended(made: Bench) -> None:
    for _ in range(OF_EACH):
        gate, script = made.gate()
        running = await made.start_running(script)
        await made.scontrol("suspend", str(running.job_id))
        await made.until(running.job_id, JobState.SUSPENDED)
        await made.meter.run_pass(None)
        await asyncio.sleep(3)  # the time that must not be billed
        await made.scontrol("resume", str(running.job_id))
        gate.touch()


async def requeued(made: Bench) -> None:
    for _ in range(OF_EACH):
        gate, script = made.gate()
        running = await made.start_running(script)
        await asyncio.sleep(2)  # a submission a second: slurmdbd's key
        await made.scontrol("update", f"jobid={running.job_id}", "requeue=1")
        await made.scontrol("requeue", str(running.job_id))
        await made.until_it_only_waits(running.job_id)
        await made.meter.run_pass(None)
        await made.begin_again(running.job_id)
        await made.until(running.job_id, JobState.RUNNING)
        await asyncio.sleep(2)  # something to count in its second run, which no pass sees
        gate.touch()


async def preempted(made: Bench) -> None:
    low = [
        await made.start_running(partition=LOW_PARTITION)
        for _ in range(made.cluster.options.gpus * made.cluster.options.nodes)
    ]
    await asyncio.to_thread(
        made.cluster.run, "sbatch", f"--account={ACCOUNT}", f"--partition={PARTITION}", "--gres=gpu:h100:4", "--mem=100", "--chdir=/",
        "--output=/dev/null", "--wrap", "sleep 2", account=ANN,
    )  # fmt: skip

    async def look() -> bool:
        states = [(await asyncio.to_thread(made.client.job, one.job_id)).states for one in low]
        return any(JobState.PREEMPTED in one for one in states)

    await eventually(look, within_s=PATIENCE_S, what="a preempted job")
    await asyncio.gather(*(asyncio.to_thread(made.client.cancel, one.job_id) for one in low))


async def on_a_failing_node(made: Bench) -> None:
    running = [await made.start_running() for _ in range(OF_EACH)]
    node = running[0].batch_host
    await made.scontrol("update", f"nodename={node}", "state=down", "reason=test")
    await made.until(running[0].job_id, JobState.NODE_FAIL)
    for one in running:
        await asyncio.to_thread(made.client.cancel, one.job_id)

    async def serves() -> bool:
        # ReturnToService=2 may have been faster; on a busy machine the first order may meet a node that still ends its jobs
        await asyncio.to_thread(made.cluster.run, "scontrol", "update", f"nodename={node}", "state=resume", check=False)
        shown = await asyncio.to_thread(made.cluster.run, "sinfo", "-h", "-n", node, "-o", "%T")  # a line a partition
        return set(shown.split()) <= {"idle", "mixed"}

    await eventually(serves, within_s=PATIENCE_S, what=f"{node} takes jobs again", every_s=1)
    for other in await asyncio.to_thread(made.client.jobs):  # what was requeued from the node would wait two minutes
        if other.job_id in made.jobs.values() and other.states == {JobState.PENDING}:
            await made.begin_again(other.job_id)


async def timed_out(made: Bench) -> None:
    ids = [await made.start(time_limit_min=1) for _ in range(OF_EACH)]
    for job_id in ids:
        await made.until(job_id, JobState.TIMEOUT)


TOGETHER: tuple[Fate, ...] = (finished, cancelled, cancelled_while_it_waits, suspended, requeued)
IN_TURN: tuple[Fate, ...] = (on_a_failing_node, preempted)  # these touch every job of a node or of the cluster


async def test_whatever_happens_to_jobs_the_ledger_charges_what_slurmdbd_counted(
    slurm22: SlurmCluster, tmp_path: Path
) -> None:
    await _compare(slurm22, tmp_path, (*TOGETHER, timed_out) if FULL else TOGETHER, IN_TURN)


async def test_so_it_does_on_the_newer_release(slurm24: SlurmCluster, tmp_path: Path) -> None:
    together = (*TOGETHER, timed_out) if FULL else (finished, suspended, requeued)
    await _compare(slurm24, tmp_path, together, IN_TURN if FULL else ())


async def _compare(cluster: SlurmCluster, folder: Path, together: Sequence[Fate], in_turn: Sequence[Fate]) -> None:
    async with bench(cluster, folder) as made:
        await asyncio.gather(*(fate(made) for fate in together))
        for fate in in_turn:
            await made.meter.run_pass(None)
            await fate(made)
        await made.settle_all()
        charged, counted = await made.charged_ms(), await made.counted_ms()
    print(f"{len(charged)} jobs on {cluster.options.release}: {sum(counted.values()) // 1000} GPU-seconds in both")
    assert charged == counted
    assert sum(counted.values()) > 0


async def test_a_hold_stays_open_while_slurmdbd_is_away_and_settles_when_it_is_back(
    slurm22: SlurmCluster, tmp_path: Path
) -> None:
    async with bench(slurm22, tmp_path) as made:
        running = await made.start_running()
        await made.meter.run_pass(None)
        slurm22.kill("slurmdbd")
        try:
            await asyncio.to_thread(slurm22.run, "scancel", str(running.job_id))
            report = await made.meter.run_pass(None)
            assert (report.settled, report.released) == (0, 0)
            assert await made.open_holds() == list(made.jobs)
        finally:
            await asyncio.to_thread(slurm22.begin, "slurmdbd")
        await made.settle_all()
        assert await made.charged_ms() == await made.counted_ms()

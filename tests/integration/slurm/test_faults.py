"""Daemons that are dead, frozen or slow, and a proxy that lies: nothing is doubled, nothing is lost, nothing is concluded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quota.domain.ids import new_id
from spawners.slurmrestd import JobUnknown, OutcomeUnknown, SlurmClient, SlurmUnreachable
from spawners.slurmrestd.wire import Deadlines
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.cut_in import OUTAGES, Answer, Proxy, only, proxied
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ANN, PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S


@pytest.fixture
def proxy(cluster: SlurmCluster) -> Iterator[Proxy]:
    with proxied(cluster) as found:
        yield found


@pytest.fixture
def client(cluster: SlurmCluster, proxy: Proxy, tmp_path: Path) -> SlurmClient:
    made = offices.client(cluster, tmp_path, url=proxy.url)
    made.dialect()
    return made


@pytest.mark.parametrize("lie", OUTAGES)
def test_what_makes_no_sense_is_an_outage_and_never_an_end(client: SlurmClient, proxy: Proxy, lie: Answer) -> None:
    proxy.fault = only("GET", "/", lie)
    with pytest.raises(SlurmUnreachable):
        client.job(1)
    with pytest.raises(SlurmUnreachable):
        client.jobs()
    with pytest.raises(SlurmUnreachable):
        client.runs([1])
    with pytest.raises(SlurmUnreachable):
        client.find("x", PORTAL_ACCOUNT)


@pytest.mark.parametrize("lie", [OUTAGES[0], OUTAGES[2], OUTAGES[7]])
def test_a_submit_whose_answer_was_lost_is_found_and_not_repeated(
    client: SlurmClient, proxy: Proxy, lie: Answer
) -> None:
    proxy.fault, proxy.after = only("POST", "/submit", lie), True
    hold = new_id()
    job_id = client.submit(job(hold), hold, ANN.login)
    assert [one.job_id for one in client.jobs() if one.name == hold] == [job_id]
    assert sum(method == "POST" for method, _ in proxy.calls) == 1
    client.cancel(job_id)


def test_a_submit_that_never_arrived_is_unknown_and_its_hold_takes_no_second_job_by_itself(
    client: SlurmClient, proxy: Proxy
) -> None:
    proxy.fault = only("POST", "/submit", OUTAGES[0])
    hold = new_id()
    with pytest.raises(OutcomeUnknown) as unknown:
        client.submit(job(hold), hold, ANN.login)
    assert unknown.value.name == hold
    assert sum(method == "POST" for method, _ in proxy.calls) == 1
    assert client.find(hold, PORTAL_ACCOUNT) is None


def test_reading_is_tried_twice(client: SlurmClient, proxy: Proxy) -> None:
    failures = iter([OUTAGES[1]])
    proxy.fault = lambda method, path: next(failures, None)
    assert isinstance(client.jobs(), list)


@pytest.mark.full  # by default test_outages shows it under a whole hub
def test_a_dead_slurmctld_ends_no_job_and_its_lie_is_not_believed(cluster: SlurmCluster, tmp_path: Path) -> None:
    # v0.0.38 says "Unable to find JobId" after 18 s
    client = offices.client(cluster, tmp_path)
    hold = new_id()
    job_id = client.submit(job(hold), hold, ANN.login)
    cluster.end(
        "slurmctld"
    )  # in good order: what it was told in the seconds before a crash is on no disk (docs/reference/slurm.md)
    try:
        with pytest.raises(SlurmUnreachable):
            client.job(job_id)
    finally:
        cluster.begin("slurmctld")
    assert not client.job(job_id).ended
    client.cancel(job_id)


def test_a_dead_slurmrestd_or_slurmdbd_makes_nothing_unknown(cluster: SlurmCluster, tmp_path: Path) -> None:
    client = offices.client(cluster, tmp_path)
    client.dialect()
    for daemon in ("slurmrestd", "slurmdbd"):
        cluster.kill(daemon)
        try:
            with pytest.raises(SlurmUnreachable):
                client.job(4_000_001)
            hold = new_id()
            with pytest.raises(SlurmUnreachable):
                client.submit(job(hold), hold, ANN.login)
        finally:
            cluster.begin(daemon)
    with pytest.raises(JobUnknown):
        client.job(4_000_001)


def test_a_frozen_slurmctld_that_takes_the_job_later_still_has_one_job(slurm22: SlurmCluster, tmp_path: Path) -> None:
    hold = new_id()

    def freeze(method: str, path: str) -> Answer | None:
        if method == "POST":
            slurm22.freeze("slurmctld")
        return None

    with proxied(slurm22) as proxy:
        impatient = offices.client(slurm22, tmp_path, url=proxy.url, deadlines=Deadlines(read_s=3))
        proxy.fault = freeze
        try:
            with pytest.raises(OutcomeUnknown):
                impatient.submit(job(hold), hold, ANN.login)
        finally:
            slurm22.thaw("slurmctld")
        client = offices.client(slurm22, tmp_path)
        give_up = time.monotonic() + PATIENCE_S
        while (
            found := client.find(hold, PORTAL_ACCOUNT)
        ) is None:  # slurmctld carries the request out when it comes to it
            assert time.monotonic() < give_up
            time.sleep(0.2)
        assert client.submit(job(hold), hold, ANN.login) == found.job_id
        assert [one.job_id for one in client.jobs() if one.name == hold] == [found.job_id]
    client.cancel(found.job_id)

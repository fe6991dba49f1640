"""A person who never had a Unix account gets one, a home and a place in Slurm before the first job, and loses them with the membership."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quota.domain.ids import new_id
from spawners.job_queue import RestQueue
from spawners.job_spec import Owner
from spawners.job_state import Waiting, waiting
from spawners.slurm_settings import SlurmTable
from spawners.slurmrestd import SlurmClient, SlurmUnreachable, SubmitRefused
from spawners.steward.books import AccountConflict, ExtraUsers, SiteCommand, UnixAccount
from spawners.steward.client import StewardClient, StewardRefusal
from spawners.steward.homes import ensure_home
from spawners.steward.office import Office, StewardRefused, open_office
from spawners.steward.settings import StewardSettings
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.hub_sessions import partition
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import Account
from tests.waiting import PATIENCE_S

_number = iter(range(40_001, 41_000))


def newcomer() -> Account:
    """Somebody whom nobody has heard of."""
    uid = next(_number)
    return Account(f"cc-{uid}", uid)


def settings(cluster: SlurmCluster, folder: Path) -> StewardSettings:
    return StewardSettings.model_validate(
        {
            "socket": str(folder / "steward.sock"),
            "extrausers": str(cluster.extrausers),
            "home": f"{cluster.homes}/{{login}}",
            "sacctmgr": cluster.namespace.argv(["sacctmgr"]),
            "scancel": cluster.namespace.argv(["scancel"]),
            "peers": {"root": ["ensure", "remove", "retire", "limit", "members"]},
        }
    )


@pytest.fixture
def office(cluster: SlurmCluster, tmp_path: Path) -> Office:
    return open_office(settings(cluster, tmp_path))


@pytest.fixture
def client(cluster: SlurmCluster, tmp_path: Path) -> SlurmClient:
    return offices.client(cluster, tmp_path)


def submitted(client: SlurmClient, person: Account, account: str, **more: Any) -> int:
    hold = new_id()
    return client.submit(job(hold, account=account, **more), hold, person.login)


def test_a_newcomers_first_job_runs_under_the_reserved_uid_in_a_home_of_their_own(
    office: Office, client: SlurmClient, cluster: SlurmCluster
) -> None:
    person, account = newcomer(), f"cc-{new_id()}"
    assert person.login not in cluster.run("getent", "passwd", check=False)
    office.ensure(person.login, account)
    office.ensure(person.login, account)  # nothing changes
    home = cluster.homes / person.login
    found = home.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (person.uid, person.uid, 0o700)
    job_id = submitted(client, person, account, script="id -u >~/said; sleep 60", working_directory=str(home),
                       environment={"PATH": "/usr/bin:/bin", "HOME": str(home)})  # fmt: skip
    give_up = time.monotonic() + PATIENCE_S
    while not (home / "said").exists() or not (home / "said").read_text():
        assert time.monotonic() < give_up, client.job(job_id)
        time.sleep(0.1)
    assert (home / "said").read_text().strip() == str(person.uid)
    running = client.job(job_id)
    assert (running.user, running.account) == (person.login, account)
    client.cancel(job_id)


def test_who_leaves_a_project_loses_its_jobs_and_its_account_and_keeps_the_files(
    office: Office, client: SlurmClient, cluster: SlurmCluster
) -> None:
    person, first, second = newcomer(), f"cc-{new_id()}", f"cc-{new_id()}"
    office.ensure(person.login, first)
    office.ensure(person.login, second)
    job_id = submitted(client, person, first)
    office.remove(person.login, first)
    office.remove(person.login, first)  # nothing changes
    give_up = time.monotonic() + PATIENCE_S
    while not client.job(job_id).ended:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    with pytest.raises(SubmitRefused):
        submitted(client, person, first)
    assert [login for account, login in office.members() if account == first] == []
    assert (second, person.login) in office.members()
    client.cancel(submitted(client, person, second))
    office.retire(person.login)
    assert person.login not in cluster.run("getent", "passwd", check=False)
    assert person.login not in [login for _, login in office.members()]
    assert (cluster.homes / person.login).is_dir()


def test_slurm_itself_refuses_what_goes_beyond_the_award_and_takes_it_after_a_raise(
    office: Office, client: SlurmClient
) -> None:
    person, account = newcomer(), f"cc-{new_id()}"
    office.ensure(person.login, account)
    office.limit(account, 5)
    assert eventually_refused(client, person, account, refused=True) == 2050  # DenyOnLimit
    office.limit(account, 50)
    office.limit(account, 50)  # nothing changes
    assert eventually_refused(client, person, account, refused=False) == 0


def test_a_first_job_that_waits_while_its_projects_backstop_comes_keeps_its_place_and_runs(
    office: Office, client: SlurmClient, cluster: SlurmCluster
) -> None:
    person, account = newcomer(), f"cc-{new_id()}"
    partition(cluster, "down")
    try:
        office.ensure(person.login, account)
        job_id = submitted(client, person, account)
        office.limit(account, 500)  # the portal's next pass, up to 20 s after the account was made
        give_up = time.monotonic() + 5
        while time.monotonic() < give_up:
            assert waiting(client.job(job_id).reason) is not Waiting.NEVER_FITS, client.job(job_id)
            time.sleep(0.2)
    finally:
        partition(cluster, "up")
    give_up = time.monotonic() + PATIENCE_S
    while not client.job(job_id).running:
        assert waiting(client.job(job_id).reason) is not Waiting.NEVER_FITS, client.job(job_id)
        assert time.monotonic() < give_up, client.job(job_id)
        time.sleep(0.2)
    assert client.job(job_id).account == account
    client.cancel(job_id)


def eventually_refused(client: SlurmClient, person: Account, account: str, *, refused: bool) -> int:
    """Submit until Slurm refuses, or takes: a limit takes a moment from slurmdbd to slurmctld. The error's number, 0 for a job."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        number = 0
        try:
            client.cancel(submitted(client, person, account, time_limit_min=10))
        except SubmitRefused as error:
            number = error.number
        if bool(number) == refused:
            return number
        assert time.monotonic() < give_up, number


@pytest.mark.parametrize(
    "login", ["root", "slurm", "cc-0", "cc-20000", "cc-60000", "cc-040001", "cc-40001 ", "", "cc--1"]
)
def test_nobody_but_the_portals_people_is_touched(slurm22: SlurmCluster, tmp_path: Path, login: str) -> None:
    office = open_office(settings(slurm22, tmp_path))
    for verb in (office.ensure, office.remove):
        with pytest.raises(StewardRefused):
            verb(login, f"cc-{new_id()}")
    with pytest.raises(StewardRefused):
        office.retire(login)


async def test_a_start_gives_its_owner_all_that_a_first_job_needs(slurm22: SlurmCluster, tmp_path: Path) -> None:
    person, account = newcomer(), f"cc-{new_id()}"
    with running_steward(settings(slurm22, tmp_path), tmp_path) as steward:
        table = SlurmTable(url=slurm22.url, signer="unused", steward=str(tmp_path / "steward.sock"))
        queue = RestQueue(table, offices.client(slurm22, tmp_path))
        hold = new_id()
        job_id = await queue.submit(job(hold, account=account), hold, Owner(person.login, account))
        assert (await queue.job(job_id)).user == person.login
        assert (account, person.login) in steward.members()
        await queue.tell_to_end(await queue.job(job_id))
    with pytest.raises(SlurmUnreachable):  # a steward that is away: nothing was sent
        await queue.submit(job(new_id(), account=account), new_id(), Owner(newcomer().login, account))


@pytest.mark.parametrize("account", ["root", "research", "CC-x", "cc-a b", "cc-;x", ""])
def test_no_account_but_the_portals_is_touched(slurm22: SlurmCluster, tmp_path: Path, account: str) -> None:
    office = open_office(settings(slurm22, tmp_path))
    with pytest.raises(StewardRefused):
        office.ensure(newcomer().login, account)
    with pytest.raises(StewardRefused):
        office.limit(account, 5)


def test_a_home_that_is_somebody_elses_or_a_link_is_refused_and_left_alone(tmp_path: Path) -> None:
    theirs, link = tmp_path / "cc-1", tmp_path / "cc-2"
    theirs.mkdir()
    link.symlink_to(theirs)
    for home in (theirs, link):
        with pytest.raises(AccountConflict):
            ensure_home(home, 40_999)
    assert theirs.stat().st_uid == 0
    mine = tmp_path / "cc-3"
    ensure_home(mine, 40_999)
    mine.chmod(0o755)
    ensure_home(mine, 40_999)
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700


def account(login: str, uid: int) -> UnixAccount:
    return UnixAccount(login, uid, Path("/home") / login, "/bin/bash")


def test_a_login_and_a_uid_belong_together_for_ever_and_other_lines_stay(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("them:x:30000:30000::/home/them:/bin/bash\n")
    book = ExtraUsers(tmp_path)
    book.add(account("cc-40001", 40_001))
    for other in (
        account("cc-40001", 40_002),
        account("cc-40002", 40_001),
        account("them", 40_003),
        account("cc-30000", 30_000),
    ):
        with pytest.raises(AccountConflict):
            book.add(other)
    book.remove(account("cc-40001", 40_001))
    assert (tmp_path / "passwd").read_text() == "them:x:30000:30000::/home/them:/bin/bash\n"
    assert stat.S_IMODE((tmp_path / "shadow").stat().st_mode) == 0o640


def test_a_sites_own_program_is_called_with_words_and_believed_when_nss_agrees(tmp_path: Path) -> None:
    program, said = tmp_path / "ldap", tmp_path / "said"
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\nexit 1\n')
    program.chmod(0o755)
    book = SiteCommand([str(program)])
    book.add(account("root", 0))  # NSS has it: nothing to do
    assert not said.exists()
    with pytest.raises(OSError, match="could not add"):
        book.add(account("cc-49999", 49_999))
    assert said.read_text() == "add cc-49999 49999 /home/cc-49999\n"


@contextmanager
def running_steward(values: StewardSettings, folder: Path) -> Iterator[StewardClient]:
    file = folder / "steward.toml"
    file.write_text(offices.toml(values))
    with (folder / "steward.out").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "spawners.steward", str(file)],
            cwd=offices.ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not Path(values.socket).exists():
            assert process.poll() is None, (folder / "steward.out").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield StewardClient(values.socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_the_steward_is_a_process_that_serves_named_peers(slurm22: SlurmCluster, tmp_path: Path) -> None:
    person, project = newcomer(), f"cc-{new_id()}"
    values = settings(slurm22, tmp_path)
    with running_steward(values, tmp_path) as steward:
        steward.ensure(person.login, project)
        assert (project, person.login) in steward.members()
        steward.limit(project, 100)
        with pytest.raises(StewardRefusal):
            steward.ensure("root", project)
        steward.remove(person.login, project)
        steward.retire(person.login)
    strict = values.model_copy(update={"peers": {"root": values.peers["root"][:0], "nobody": values.peers["root"]}})
    with running_steward(strict, tmp_path) as steward, pytest.raises(StewardRefusal):
        steward.members()
    assert os.geteuid() == 0

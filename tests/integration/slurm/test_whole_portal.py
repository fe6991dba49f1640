"""A whole portal over two clusters at once, one of each release: what its people cannot do, what nobody sees, what nobody pays."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import psutil
import pytest
from yarl import URL

from hub.demo_sign_in import DEMO_ISSUER
from quota.domain.ids import new_id
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.course_on_nodes import course_with, nbgrader, receipt_of
from tests.integration.slurm.hub_sessions import partition
from tests.integration.slurm.job_sessions import write_program
from tests.integration.slurm.nodes import nodes_environment
from tests.integration.slurm.offices import job, running_signer, signer_settings
from tests.integration.slurm.options import BEN, GPU_TYPE, PARTITION
from tests.integration.slurm.portal_file import open_python, slurm_portal
from tests.integration.slurm.test_steward import running_steward
from tests.integration.slurm.test_steward import settings as steward_settings
from tests.integration.smtp_server import SmtpProcess
from tests.integration.students_view import sees_what_students_use
from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

# A profile, and a cluster of its own under the same name.
FURTHER = """
[profiles.{name}]
title = "1 GPU of {name}"
backend = "slurm"
hardware = "simulated-gpu"
cloud = "this-machine"
gpus = 1
cpus = 1
memory = "1 GiB"
default_runtime = "1 h"
longest_runtime = "2 h"
applications = [{{ id = "lab", title = "JupyterLab" }}]

[profiles.{name}.slurm]
cluster = "{name}"
partition = "{partition}"
gpu_type = "{gpu_type}"

[slurm.{name}]
url = "{url}"
signer = "{folder}/signer.sock"
steward = "{folder}/steward.sock"
home = "{homes}/{{login}}"
listen = "127.0.0.1"
look = "1 s"
program = "{program}"
{more}
"""
FURTHER_CLUSTERS = {
    "newer": 'stop_wait = "40 s"',
    "bare": 'prologue = "unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK"',  # GPUs that are not there
}
MAIL = """
[mail]
server = "127.0.0.1"
port = {port}
security = "none"
sender = "Compute Commons <noreply@portal.example>"
"""
PI = {"issuer": DEMO_ISSUER, "subject": "pi", "display_name": "pi"}  # the demo's sign-in knows no addresses
STRAYS_MAX = 5
SERVER = """#!/usr/bin/python3 -IS
import http.server, os, sys
port = next(int(one.partition("=")[2]) for one in sys.argv if one.startswith("--port="))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@dataclass
class Place:
    """The portal, its clusters and a project that the PI was awarded."""

    portal: Portal
    older: SlurmCluster
    newer: SlurmCluster
    folder: Path
    smtp: SmtpProcess
    project: str = ""
    strays: list[int] = field(default_factory=list)  # jobs that no hold pays for

    def submit_stray(self) -> None:
        """Submit a job as a thief would who has a ticket of the signer's and no hold."""
        name, account = new_id(), f"cc-{self.project}"
        client = offices.client(self.older, self.folder)
        self.strays.append(client.submit(job(name, account=account), name, login_of(self.older, account)))


@pytest.fixture(scope="module")
def place(slurm22: SlurmCluster, slurm24: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("two-clusters")
    other = folder / "other"
    other.mkdir()
    open_python(slurm22)
    with ExitStack() as all_:
        for cluster, where in ((slurm22, folder), (slurm24, other)):
            all_.enter_context(running_signer(signer_settings(cluster, where), where))
            all_.enter_context(running_steward(steward_settings(cluster, where), where))
        program = write_program(slurm24.base)
        program.write_text(SERVER)
        words = {"steward": f'"{folder}/steward.sock"', "program": f'"{nodes_environment(slurm22)}"'}
        file = slurm_portal(slurm22, folder, signer_settings(slurm22, folder), **words)
        further = (
            FURTHER.format(
                name=name, more=more, partition=PARTITION, gpu_type=GPU_TYPE,
                url=slurm24.url, folder=other, homes=slurm24.homes, program=program,
            )
            for name, more in FURTHER_CLUSTERS.items()
        )  # fmt: skip
        smtp = SmtpProcess(folder).start()
        all_.callback(smtp.kill)
        file.write_text("".join([file.read_text(), *further, MAIL.format(port=smtp.port)]))
        portal = Portal(folder / "data", model=False, portal_file=file).up()
        try:
            yield Place(portal, slurm22, slurm24, folder, smtp)
        finally:
            portal.down()


@pytest.fixture
async def pi(place: Place) -> AsyncIterator[Person]:
    """The PI, with a project and the job of a thief on its account."""
    async with Person(place.portal, "pi") as pi, Person(place.portal, "admin") as admin:
        if not place.project:
            place.project = await awarded_project(pi, admin, gpu_hours="10", tokens=1000)
        yield pi


def login_of(cluster: SlurmCluster, account: str) -> str:
    listed = cluster.run("sacctmgr", "-n", "-P", "show", "assoc", f"account={account}", "format=user").split()
    (login,) = set(listed)
    return login


async def test_a_notebook_cannot_submit_change_or_outlive_what_its_hold_pays_for(place: Place, pi: Person) -> None:
    await pi.start(place.project, server="jail")
    kernel = await Kernel(pi, "jail").open()
    kernels_folder = Path(await kernel.sockets()).parent
    assert stat.S_IMODE(kernels_folder.stat().st_mode) & 0o777 == 0o700
    account = f"cc-{place.project}"

    async def said(*words: str) -> str:
        environment = {"SLURM_CONF": str(place.older.conf), "PATH": "/usr/bin:/bin"}
        code = f"done = subprocess.run({list(words)!r}, capture_output=True, text=True, env={environment!r})"
        return await kernel.run(f"import subprocess; {code}; print(done.returncode, done.stdout + done.stderr)")

    submit = ("sbatch", "--chdir=/", "--output=/dev/null", "--wrap", "sleep 60")
    for words in (
        (*submit, f"--account={account}"),
        submit,
        (*submit, f"--account={account}", "--comment=cct:" + "0" * 32),
    ):
        answer = await said(*words)
        assert answer.startswith("1 "), answer
        assert "portal:" in answer, answer
    assert not (await said("srun", "--account=" + account, "true")).startswith("0 ")
    (own,) = (await said("squeue", "-h", "-A", account, "-o", "%i")).split()[1:]
    assert not (await said("scontrol", "update", f"jobid={own}", "timelimit=600")).startswith("0 ")
    assert not (await said("scontrol", "update", f"jobid={own}", "timelimit=30")).startswith("0 ")  # lower neither
    jobs = place.older.run("squeue", "-h", "-A", account, "-o", "%i").split()
    assert jobs == [own]
    login = login_of(place.older, account)

    # A thief with a ticket of the signer's and no hold: the service's own loop ends it (seen at the end of this file).
    place.submit_stray()

    secrets = every_secret(place)
    session = [
        one
        for one in psutil.process_iter(["environ", "uids"])
        if (one.info["environ"] or {}).get("SLURM_JOB_ID") == own
    ]
    assert session
    token = next(filter(None, ((one.info["environ"] or {}).get("JUPYTERHUB_API_TOKEN") for one in session)))
    key = next(filter(None, ((one.info["environ"] or {}).get("OPENAI_API_KEY") for one in session)))
    for one in session:  # of the portal's own secrets a session has none
        assert not leaked(secrets, json.dumps(one.info["environ"]).encode())
    secrets |= {"the session's token": token.encode(), "the session's key": key.encode()}
    await see_no_secret(place, own, login, secrets)
    await pi.stop("jail")
    assert not await asyncio.to_thread(kernels_folder.exists)


def every_secret(place: Place) -> dict[str, bytes]:
    """All that the portal and its cluster keep, by name."""
    found = {
        path.name: path.read_bytes().strip() for path in (place.portal.data / "secrets").iterdir() if path.is_file()
    }
    users = json.loads(found.pop("demo_users.json"))
    found |= {f"password of {one['user']}": one["password"].encode() for one in users}
    found["Slurm's key"] = place.older.key_file.read_bytes()
    return {name: value for name, value in found.items() if len(value) >= 8}


def leaked(secrets: dict[str, bytes], content: bytes) -> list[str]:
    return [name for name, value in secrets.items() if value in content]


async def see_no_secret(place: Place, job_id: str, login: str, secrets: dict[str, bytes]) -> None:
    """In no job script, view of Slurm, log, process list, and nowhere that another user can read."""
    cluster = place.older
    looks = (
        f"scontrol show job -dd {job_id}", f"scontrol write batch_script {job_id} -", f"squeue -j {job_id} -O ALL:2000",
        f"sacct -j {job_id} -o ALL -P",
        "cat /proc/[0-9]*/cmdline",
    )  # fmt: skip
    for look in looks:  # not even for root
        shown = cluster.run("sh", "-c", f"{look} 2>&1", check=False)
        assert shown.strip("\0 \n"), look
        assert not leaked(secrets, shown.encode()), look
    hidden = (
        "ps axeww", "cat /proc/[0-9]*/environ", f"cat {cluster.homes}/{login}/* {cluster.homes}/{login}/.*/*",
        f"cat {cluster.base}/state/* {cluster.base}/state/*/* {cluster.base}/spool/*/* {cluster.base}/tickets/*/*",
        f"cat {place.portal.data}/*/* {place.portal.data}/secrets/*",
    )  # fmt: skip
    for look in hidden:
        assert not leaked(secrets, cluster.run("sh", "-c", f"{look} 2>&1", account=BEN, check=False).encode()), look
    logs = [*(cluster.base / "log").iterdir(), *(place.portal.data / "logs").iterdir(), *place.folder.glob("*.jsonl")]
    logs += [*place.folder.glob("*.out"), place.folder / "launcher.log"]
    assert len(logs) > 10
    for path in logs:
        found = leaked(secrets, path.read_bytes())
        assert not [one for one in found if not (path.name == "launcher.log" and one.startswith("password of"))], path


async def test_two_clusters_serve_one_project_each_with_its_own_jobs(place: Place, pi: Person) -> None:
    await pi.start(place.project, profile="newer", server="newer")
    account = f"cc-{place.project}"
    (line,) = place.newer.run("squeue", "-h", "-A", account, "-o", "%i %u %T").splitlines()
    job_id, login, state = line.split()
    assert state == "RUNNING"
    assert login == login_of(place.newer, account)
    alive = place.older.run("squeue", "-h", "-A", account, "-o", "%i").split()
    assert {int(one) for one in alive} <= set(place.strays)
    await pi.stop("newer")
    charged = await settled(place, pi)
    said = place.newer.run("sacct", "-n", "-X", "-P", "-o", "elapsedraw", "-j", job_id).split()
    older = place.older.run(
        "sacct", "-n", "-X", "-P", "-A", account, "-o", "jobid,elapsedraw", "--allusers", "-S", "now-1hours"
    )
    own = [int(line.split("|")[1]) for line in older.splitlines() if int(line.split("|")[0]) not in place.strays]
    assert charged == 1000 * (sum(map(int, said)) + sum(own))


async def test_who_waits_in_the_queue_gets_one_mail_once_the_notebook_answers_and_its_link_leads_there(
    place: Place, pi: Person
) -> None:
    partition(place.newer, "down")
    try:
        options = {"project": place.project, "profile": "newer", "runtime_s": 3600}
        status, answer = await pi.hub("POST", "/users/pi/servers/waits", {"user_options": options})
        assert status in (201, 202), answer

        async def waits() -> bool:
            await inside(place, pi, "POST", "/reconcile")
            return await state_of(pi, "waits") == "pending"

        await eventually(waits, within_s=PATIENCE_S, what="the portal knows that it waits")
        await inside(
            place, pi, "PUT", "/people/pi", {**PI, "email": "pi@university.example"}
        )  # after the hub told its own
        assert letters(place) == []
    finally:
        partition(place.newer, "up")

    async def told() -> bool:
        await inside(place, pi, "POST", "/reconcile")
        mails = letters(place)
        assert not mails or (await pi.server("waits") or {}).get("ready"), "a mail before the notebook answers"
        return mails != []

    await eventually(told, within_s=PATIENCE_S, what="its owner has a mail")
    (mail,) = letters(place)
    assert mail["Subject"].startswith("Your session “1 GPU of newer” (waits) is ready and runs until "), mail["Subject"]
    try:
        await follow(pi, mail, "/user/pi/waits/")
    finally:
        await pi.stop("waits")
    await settled(place, pi)
    await inside(place, pi, "POST", "/reconcile")
    assert len(letters(place)) == 1


async def follow(pi: Person, mail: EmailMessage, session: str) -> None:
    """Open what the mail leads to, as its reader's browser does, and from there the session."""
    (link,) = re.findall(r"^Your sessions and projects: (\S+)", mail.get_content(), re.MULTILINE)
    async with pi.http.get(link) as page:
        shown = await page.text()
        assert page.status == 200, shown
    ways = set(re.findall(rf'href="([^"]*{session}[^"]*)"', shown))
    assert ways, shown
    async with pi.http.get(URL(link).join(URL(min(ways, key=len)))) as notebook:
        assert (notebook.status, await notebook.text()) == (200, "{}")


async def test_who_is_taken_off_a_project_while_their_job_waits_has_no_job_and_the_project_pays_nothing(
    place: Place, pi: Person
) -> None:
    account, before = f"cc-{place.project}", await settled(place, pi)
    member = f"/projects/{place.project}/members/researcher"
    async with Person(place.portal, "researcher") as researcher:
        status, answer = await pi.api("PUT", member, {"role": "member"})
        assert status == 201, answer
        partition(place.newer, "down")
        try:
            options = {"project": place.project, "profile": "newer", "runtime_s": 3600}
            status, answer = await researcher.hub("POST", "/users/researcher/servers/", {"user_options": options})
            assert status in (201, 202), answer

            def queue() -> list[str]:
                return place.newer.run("squeue", "-h", "-A", account, "-o", "%T").split()

            async def waits() -> bool:
                return queue() == ["PENDING"]

            await eventually(waits, within_s=PATIENCE_S, what="the job waits")
            assert (await pi.api("DELETE", member))[1] == {"removed": True}

            async def gone() -> bool:
                return queue() == [] and await researcher.server() is None

            await eventually(gone, within_s=PATIENCE_S, what="neither job nor server")
        finally:
            partition(place.newer, "up")
        assert await settled(place, pi) == before

        async def off() -> bool:
            listed = place.newer.run("sacctmgr", "-n", "-P", "show", "assoc", f"account={account}", "format=user")
            return len(set(listed.split())) == 1

        await eventually(off, within_s=PATIENCE_S, what="the association is gone, the PI's stays")
        status, answer = await researcher.hub("POST", "/users/researcher/servers/", {"user_options": options})
        assert status == 403, answer


async def inside(place: Place, pi: Person, method: str, path: str, body: object = None) -> None:
    """A call to the quota service as the hub makes it."""
    port = json.loads((place.portal.data / "ports.json").read_text())["quota"]
    url = f"http://127.0.0.1:{port}/services/quota/api/internal{path}"
    headers = {"Authorization": f"Bearer {place.portal.secret('hub_credential')}"}
    async with pi.http.request(method, url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


async def state_of(pi: Person, server: str) -> str:
    status, answer = await pi.api("GET", "/sessions")
    assert status == 200, answer
    return next((str(one["state"]) for one in answer["sessions"] if one["server_name"] == server), "")


def letters(place: Place) -> list[EmailMessage]:
    return [mail for mail in place.smtp.mails() if mail["To"] == "pi@university.example"]


async def test_a_start_whose_gpus_are_not_there_is_refused_and_costs_nothing(place: Place, pi: Person) -> None:
    before = await settled(place, pi)
    options = {"project": place.project, "profile": "bare", "runtime_s": 3600}
    status, answer = await pi.hub("POST", "/users/pi/servers/bare", {"user_options": options})
    assert (status, (answer or {}).get("message", "")[:8]) in ((202, ""), (503, "The GPUs")), answer

    async def over() -> bool:
        return await pi.server("bare") is None

    await eventually(over, within_s=PATIENCE_S, what="the start is refused")

    async def booked() -> bool:  # slurmdbd hears of an end a moment after slurmctld
        form = ("-A", f"cc-{place.project}", "--allusers", "-o", "state,exitcode", "-S", "now-1hours")
        return "FAILED|76:0" in place.newer.run("sacct", "-n", "-X", "-P", *form).splitlines()

    await eventually(booked, within_s=PATIENCE_S, what="the job failed for want of its GPUs")
    assert await settled(place, pi) == before


async def settled(place: Place, pi: Person) -> int:
    """GPU-milliseconds that the project was charged, once nothing is held."""

    async def look() -> tuple[int, int] | None:
        status, answer = await pi.api("GET", f"/projects/{place.project}")
        assert status == 200, answer
        (gpu,) = (one["balance"] for one in answer["allocations"] if one["unit"] == "gpu_ms")
        return (gpu["charged"], gpu["held"]) if gpu["held"] == 0 else None

    charged, _ = await eventually(look, within_s=PATIENCE_S, what="everything is settled", every_s=1)
    return charged


async def test_a_thiefs_job_is_ended_within_a_minute_by_the_service_itself_and_booked_to_nobody(
    place: Place, pi: Person
) -> None:
    """The first thief's job stems from the first test; one that was ended before it used anything is followed by another."""
    assert place.strays

    def rows() -> list[list[str]]:  # by id: one that was ended at once has another name in slurmdbd
        ids = ",".join(map(str, place.strays))
        said = place.older.run("sacct", "-n", "-X", "-P", "--duplicates", "-o", "jobid,state,elapsedraw", "-j", ids)
        return [line.split("|") for line in said.splitlines()]

    async def over() -> bool:
        return {int(job_id) for job_id, state, _ in rows() if state.startswith("CANCELLED")} == set(place.strays)

    before = await settled(place, pi)
    while True:  # bounded: the service looks each 20 s, so that few of these end at once
        await eventually(over, within_s=PATIENCE_S, what="the stray is cancelled")
        used_s = [int(elapsed) for _, _, elapsed in rows()]
        if any(used_s):
            break
        assert len(place.strays) < STRAYS_MAX, rows()
        place.submit_stray()
    assert max(used_s) <= 60, rows()
    async with Person(place.portal, "admin") as admin:

        async def booked_ms() -> int:
            status, answer = await admin.api("GET", "/projects/unallocated")
            return sum(one["balance"]["charged"] for one in answer["allocations"]) if status == 200 else 0

        async def booked() -> bool:
            return await booked_ms() == 1000 * sum(used_s)  # of one GPU each

        await eventually(booked, within_s=PATIENCE_S, what="what they used is booked to the project `unallocated`")
        assert await settled(place, pi) == before
        assert await booked()


@pytest.mark.timeout(1800)  # alone it makes both clusters
async def test_a_student_in_a_job_lists_fetches_and_submits_by_nbgrader_and_only_in_their_own_name(
    place: Place, pi: Person
) -> None:
    async with Person(place.portal, "researcher") as teacher:
        project = await course_with(teacher, pi.name, place.folder)
        await pi.start(project, server="course")
        kernel = await Kernel(pi, "course").open()

        where = await kernel.run("import os; print(os.environ['SLURM_JOB_ID'], os.getuid())")
        job_id, uid = where.split()
        assert int(uid) != 0
        listed = place.older.run("squeue", "-h", "-j", job_id, "-o", "%a %T")
        assert listed.split() == [f"cc-{project}", "RUNNING"]

        assert ["nodes", "ps1"] in [line.split()[-2:] for line in (await nbgrader(kernel, "list")).splitlines()]
        assert "Fetched as: nodes ps1" in await nbgrader(kernel, "fetch_assignment")
        sent = await nbgrader(kernel, "submit")
        # Whoever else the environment names: it is the job's token that says who this is.
        spoofed = dict.fromkeys(("JUPYTERHUB_USER", "USER", "LOGNAME"), teacher.name)
        claimed = await nbgrader(kernel, "submit", **spoofed)
        await kernel.run("import os, shutil; os.chdir(os.environ['HOME']); shutil.copytree('ps1', 'release/ps1')")
        refused = await nbgrader(kernel, "release_assignment", "--force", **spoofed)
        assert not refused.startswith("0 "), refused
        assert "You may not do this." in refused, refused

        receipts = {receipt_of(sent), receipt_of(claimed)}
        _, kept = await teacher.api("GET", "/exchange/courses/nodes/submissions")
        rows = [(one["submission_id"], one["sha256"]) for one in kept["submissions"]]
        assert sorted(rows) == sorted(receipts), (rows, receipts)
        assert {one["student"] for one in kept["submissions"]} == {pi.name}
        _, out = await pi.api("GET", "/exchange/courses/nodes/assignments")
        assert [one["notebooks"] for one in out["assignments"]] == [["ps1"]]

        await sees_what_students_use(pi, "nodes", "course")
        await pi.stop("course")

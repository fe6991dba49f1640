"""From inside containers of a real engine: what was granted works, what was not is refused, limits bite; refusals cost nothing."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from jupyterhub.spawner import SpawnException

from spawners import container_spec as spec
from spawners.phrases import instant
from tests.engine import gpus
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite
from tests.waiting import PATIENCE_S, eventually

HOMES = "loop"  # with a size limit, see tests/engine/fixtures.py
MAKE_AND_OPEN = """
import errno, os, stat, sys
for number, minor in enumerate({minors}):
    path = f"/dev/by-hand-{{os.getuid()}}-{{number}}"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(10, minor))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        print(number, "open")
    except OSError as error:
        print(number, errno.errorcode[error.errno])
"""
CPU = """
import os, time
began = time.monotonic()
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
used = os.times()
print(round((used.children_user + used.children_system) / (time.monotonic() - began), 2))
"""
PIDS = """
import os, time
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except BlockingIOError:
    print("refused after", count, flush=True)
os.killpg(0, 9)
"""


def fresh() -> str:
    return uuid4().hex


def granted(sessions: Sessions, hold_id: str) -> list[int]:
    """Numbers of the simulated GPUs on a session's label."""
    found = sessions.container(hold_id)
    assert found is not None
    return sorted(gpus.IDS.index(one) for one in json.loads(found["Config"]["Labels"][spec.DEVICES]))


async def test_a_device_that_was_not_granted_is_not_permitted_even_by_hand_and_as_root(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="gpu2").start()
    mine = granted(sessions, hold_id)
    assert len(mine) == 2
    status, listed = sessions.execute(hold_id, "sh", "-c", "ls /dev")
    assert status == 0
    assert sorted(int(name.removeprefix("simgpu")) for name in listed.split() if name.startswith("simgpu")) == mine
    program = MAKE_AND_OPEN.format(minors=gpus.minors())
    status, output = sessions.execute(hold_id, "python3", "-c", program, user="0", privileged=True)
    assert status == 0, output
    expected = {number: "open" if number in mine else "EPERM" for number in range(gpus.COUNT)}
    assert {int(line.split()[0]): line.split()[1] for line in output.splitlines()} == expected
    status, output = sessions.execute(hold_id, "python3", "-c", program)
    assert "PermissionError" in output  # as the person: no capability to make a node at all


async def test_a_session_is_shut_in(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu").start()
    _, output = sessions.execute(
        hold_id, "sh", "-c", "cat /proc/self/status; id; touch /opt/x; touch /tmp/x && echo tmp"
    )
    assert "uid=20001 gid=20001 groups=20001,20000" in output.replace("(cc-20001)", "")
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in output
    assert "/opt/x': Read-only file system" in output
    assert "tmp" in output.splitlines()  # beside what was refused, which comes on another stream
    # the engine's socket and everything else of the host are not there to be opened
    _, output = sessions.execute(hold_id, "sh", "-c", "ls /run /var/run; ls -d /proc/[0-9]* | wc -l")
    assert "docker" not in output
    assert int(output.split()[-1]) < 15


async def test_memory_processors_and_processes_are_limited(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu").start()
    status, _ = sessions.execute(hold_id, "python3", "-c", "x = bytearray(1100 * 2**20); print(len(x))")
    assert status == 137  # killed; the session goes on
    assert sessions.runs(hold_id)
    status, processors = sessions.execute(hold_id, "python3", "-c", CPU)
    assert status == 0
    assert float(processors) <= 1.6  # four processes that calculate for 1.5 s have one
    _, refused = sessions.execute(hold_id, "python3", "-c", PIDS)
    assert "refused after" in refused
    assert int(refused.split()[2]) <= 200
    assert sessions.runs(hold_id)


async def test_members_share_a_projects_folder_and_a_home_is_ones_own(sessions: Sessions) -> None:
    first, second = fresh(), fresh()
    await sessions.spawner(first, profile="cpu").start()
    await sessions.spawner(second, profile="cpu", user="grace", login="cc-20002", uid=20_002).start()
    assert sessions.execute(first, "sh", "-c", "umask 007; echo data > /project/shared; echo x > $HOME/private")[0] == 0
    assert sessions.execute(second, "cat", "/project/shared") == (0, "data\n")
    assert sessions.execute(second, "sh", "-c", "ls /home")[1] == "cc-20002\n"
    homes = sessions.site.home_root
    assert (homes / "cc-home-cc-20001" / "private").stat().st_uid == 20_001
    assert (homes / "cc-home-cc-20001").is_mount()
    assert (homes / "cc-home-cc-20001").stat().st_mode & 0o7777 == 0o700
    assert (homes / "cc-project-p1").stat().st_mode & 0o7777 == 0o2770


async def test_the_fifth_start_is_told_what_is_busy_and_until_when(sessions: Sessions) -> None:
    first, second = fresh(), fresh()
    await sessions.spawner(first, profile="gpu2").start()
    await sessions.spawner(second, profile="gpu2", server="other", runtime_s=7200).start()
    assert sorted(granted(sessions, first) + granted(sessions, second)) == [0, 1, 2, 3]
    with pytest.raises(SpawnException) as refused:
        await sessions.spawner(fresh(), server="third", language="zh").start()
    assert "4 块" in refused.value.jupyterhub_message
    with pytest.raises(SpawnException) as refused:
        await sessions.spawner(fresh(), server="third").start()
    due = sessions.site.sessions()[first]["deadline_ms"]
    assert "0 of 4 GPUs" in refused.value.jupyterhub_message
    assert instant(due) in refused.value.jupyterhub_message
    await sessions.spawner(first, profile="gpu2").stop()
    again = fresh()
    await sessions.spawner(again, server="third").start()
    assert len(granted(sessions, again)) == 1


async def test_a_granted_device_that_is_missing_inside_refuses_the_session_at_no_charge(
    sessions: Sessions, tmp_path: Path
) -> None:
    hold_id = fresh()
    devices = [
        {"name": one.partition("=")[2], "containerEdits": {"deviceNodes": [{"path": "/dev/not-there"}]}}
        for one in gpus.IDS
    ]
    (tmp_path / "other.json").write_text(json.dumps({"kind": gpus.KIND, "devices": devices}))
    spawner = sessions.spawner(hold_id)
    spawner.containers = spawner.containers.model_copy(update={"cdi_folders": (str(tmp_path),)})
    with pytest.raises(SpawnException) as refused:
        await spawner.start()
    assert "not usable inside" in refused.value.jupyterhub_message
    assert "/dev/not-there" in refused.value.jupyterhub_html_message
    told = sessions.site.sessions()[hold_id]
    assert told["device_missing"]
    assert not told["holds_devices"]


async def test_a_person_cannot_say_device_missing_afterwards_to_run_for_nothing(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu").start()
    sessions.execute(hold_id, "sh", "-c", "echo 'commons-session: device missing: x' > /proc/1/fd/1")
    sessions.client.api.kill(spec.container_name(hold_id), "SIGUSR1")  # the stub exits 78 on it

    async def ended() -> bool:
        return not sessions.runs(hold_id)

    await eventually(ended, within_s=PATIENCE_S, what="the session has ended")
    told = sessions.site.sessions()[hold_id]
    assert told["exit_status"] == 78
    assert (told["device_missing"], told["never_started"]) == (False, False)


async def test_a_log_that_is_filled_until_its_beginning_is_lost_makes_no_session_free(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu").start()
    filler = "import os\nout = os.open('/proc/1/fd/1', os.O_WRONLY)\nfor _ in range(240): os.write(out, b'x' * 65535 + b'\\n')"
    assert sessions.execute(hold_id, "python3", "-c", filler)[0] == 0
    sessions.client.api.kill(spec.container_name(hold_id))

    async def lost() -> bool:
        return not sessions.runs(hold_id)

    await eventually(lost, within_s=PATIENCE_S, what="the session has ended")
    log: bytes = sessions.client.api.logs(spec.container_name(hold_id))
    assert not log.startswith(spec.PROBE_CONFIRMED.encode())
    told = sessions.site.sessions()[hold_id]
    assert (told["device_missing"], told["never_started"]) == (False, False)


async def test_the_watchdog_ends_a_session_at_its_deadline_without_helper_and_hub(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu", runtime_s=12).start()
    sessions.site.stop_helper()

    async def ended() -> bool:
        return not sessions.runs(hold_id)

    await eventually(ended, within_s=PATIENCE_S, what="the watchdog has ended the session")
    await asyncio.to_thread(sessions.site.start_helper)
    told = sessions.site.sessions()[hold_id]
    assert told["end_reason"] == "deadline"
    assert 11_900 <= told["ended_at_ms"] - told["started_at_ms"] <= 40_000


async def test_a_paused_session_is_not_billed_for_the_pause_and_its_end_moves(sessions: Sessions) -> None:
    hold_id = fresh()
    await sessions.spawner(hold_id, profile="cpu").start()
    before = sessions.site.sessions()[hold_id]["due_ms"]
    sessions.client.api.pause(spec.container_name(hold_id))

    async def seen() -> bool:
        told = sessions.site.sessions()[hold_id]
        return bool(told["paused"]) and told["paused_ms"] >= 1_500

    await eventually(seen, within_s=PATIENCE_S, what="the pause is seen and lasts")
    assert sessions.site.sessions()[hold_id]["due_ms"] is None
    sessions.client.api.unpause(spec.container_name(hold_id))

    async def going_on() -> bool:
        return sessions.site.sessions()[hold_id]["due_ms"] is not None

    await eventually(going_on, within_s=PATIENCE_S, what="the end is known again")
    told = sessions.site.sessions()[hold_id]
    assert told["due_ms"] == before + told["paused_ms"]


async def test_an_image_that_no_longer_is_on_the_host_is_refused_with_its_reason(sessions: Sessions) -> None:
    spawner = sessions.spawner(fresh(), profile="cpu")
    table = spawner.containers
    missing = "sha256:" + "0" * 64
    spawner.containers = table.model_copy(
        update={"images": {"lab": table.images["lab"].model_copy(update={"image": missing})}}
    )
    with pytest.raises(SpawnException) as refused:
        await spawner.start()
    assert (
        "could not be fetched" in refused.value.jupyterhub_message
        or "could not be started" in refused.value.jupyterhub_message
    )


def test_nobody_else_on_the_host_may_open_helper_or_engine(site: ContainerSite) -> None:
    for path in (site.helper, site.keeper, site.engine.socket):
        assert path.stat().st_mode & 0o007 == 0
    assert os.stat(site.helper).st_uid == os.stat(site.state).st_uid != 0

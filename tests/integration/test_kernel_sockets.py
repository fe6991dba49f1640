"""A notebook's kernels listen where no other program of the machine gets in their way, and nobody else gets at them."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from tests.people import Kernel, Person
from tests.portal import Portal
from tests.world import awarded_project


async def test_a_kernel_listens_in_its_sessions_own_folder_answers_after_a_restart_and_leaves_nothing_behind(
    portal: Portal,
) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
        await pi.start(await awarded_project(pi, admin, gpu_hours="10", tokens=1000))
        kernel = await Kernel(pi).open()
        sockets = {Path(f"{await kernel.sockets()}-{number}") for number in range(1, 6)}
        folder = sockets.copy().pop().parent
        assert {path for path in folder.iterdir() if path.is_socket()} == sockets
        assert stat.S_IMODE(folder.stat().st_mode) & 0o777 == 0o700

        status, _ = await pi.call("POST", f"{kernel.base}api/kernels/{kernel.id}/restart")
        assert status == 200
        assert await kernel.run("print('again')") == "again\n"
        other = await Kernel(pi).open()
        assert await other.run("print('another')") == "another\n"
        assert (await pi.call("DELETE", f"{other.base}api/kernels/{other.id}"))[0] == 204
        assert {path for path in folder.iterdir() if path.is_socket()} == sockets

        await pi.stop()
        assert not await asyncio.to_thread(folder.exists)

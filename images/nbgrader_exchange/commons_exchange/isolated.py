"""nbgrader's Execute in a cage or a container, and feedback that keeps hidden tests hidden.

The notebook is executed from outside: a cell enters the cage only when its turn comes, so no code of a student runs where the
gradebook, a token, or the hidden tests of later cells are. From the first cell with hidden tests on, what the kernel says may
contain them; feedback shows of those cells only whether they passed. A cell that did not run to its end has an error, and scores nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import time
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbformat.v4 import new_output
from nbgrader.preprocessors import ClearHiddenTests, Execute, NbGraderPreprocessor
from traitlets import Integer, default

from commons_exchange import cage
from commons_exchange.runs import NotExecuted, PaidRun, end_with

HIDDEN_MARK = "BEGIN HIDDEN TESTS"
_MESSAGE_BYTES = 1024 * 1024
_END_S = 5.0
_LISTENS_S = 60.0
_LOOK_S = 0.01
_SHOWN = frozenset({"stream", "display_data", "execute_result", "update_display_data", "error"})


class CagedClient(AsyncKernelClient):
    """Takes no message that is larger than a sane one, and few at a time: a kernel that sends such is cut off."""

    @default("context")
    def _bounded_context(self) -> Any:
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.MAXMSGSIZE, _MESSAGE_BYTES)
        context.setsockopt(zmq.RCVHWM, 200)
        context.setsockopt(zmq.RECONNECT_IVL, 10)  # of ms, until the kernel listens; 100 to 200 by default
        return context

    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        """Until one question has its answer and the answer's end was heard on the channel of outputs: nothing said later is missed.

        jupyter_client waits for 0.2 s of silence instead. Raises RuntimeError.
        """
        give_up = time.monotonic() + (_LISTENS_S if timeout is None else timeout)
        while time.monotonic() < give_up:
            if not await self._async_is_alive():
                raise RuntimeError("it died before it answered")
            asked = self.kernel_info()
            with contextlib.suppress(TimeoutError, Empty):
                self._handle_kernel_info_reply(await self._async_recv_reply(asked, timeout=1))
                while time.monotonic() < give_up:
                    said = await self._async_get_iopub_msg(timeout=0.2)
                    if (
                        said["parent_header"].get("msg_id") == asked
                        and said["content"].get("execution_state") == "idle"
                    ):
                        return
        raise RuntimeError("it did not answer in time")

    wait_for_ready = _async_wait_for_ready


class CagedManager(AsyncKernelManager):
    """Starts its kernel in a cage, or in a container where the course's runs are executed in such, with copies of the files of its folder.

    `about` is the assignment and the student, for the course's statement.
    """

    about = ("", "")
    run: PaidRun | None = None
    told = False  # whether the portal was told that the run is over

    seconds = Integer(180, help="Longest time of one notebook.").tag(config=True)
    memory_mib = Integer(2048, help="Most memory of one process.").tag(config=True)
    processes = Integer(128, help="Most processes and threads.").tag(config=True)

    def client(self, **more: Any) -> Any:
        self.client_factory = CagedClient
        return super().client(**more)

    async def _async_pre_start_kernel(self, **more: Any) -> Any:
        self.run = PaidRun.of_environment(*self.about)
        if self.run is not None:
            self.run.set_aside()
        self.place = cage.make_place(Path(more.pop("cwd", None) or "."))
        self.transport, self.ip = "ipc", str(self.place.sockets / "k")
        self.connection_file = str(self.place.sockets / "connection.json")
        kernel, settings = await super()._async_pre_start_kernel(**more)
        settings["env"] = cage.environment()
        if self.run is not None and self.run.site["backend"] == "container":
            argv = self.run.in_container(self.place, kernel, Path(self.connection_file))
            settings |= {"cwd": self.run.working_folder, "preexec_fn": functools.partial(end_with, os.getpid())}
            return argv, settings
        if self.place.uid is not None:
            shutil.chown(self.connection_file, self.place.uid, self.place.uid)
        limits = self._limits()
        argv, settings["cwd"] = cage.command(self.place, kernel, limits), "/"
        if self.run is not None:
            argv, settings["cwd"] = self.run.under_runner(argv, settings["env"]), self.run.working_folder
        settings["preexec_fn"] = functools.partial(_confined, limits, os.getpid())
        return argv, settings

    def _limits(self) -> cage.CageLimits:
        if self.run is None:
            return cage.CageLimits(seconds=self.seconds, memory_mib=self.memory_mib, processes=self.processes)
        site = self.run.site
        return cage.CageLimits(
            seconds=self.run.seconds,
            memory_mib=site["memory_mib"],
            processes=site["processes"],
            disk_mib=site["disk_mib"],
        )

    async def _async_interrupt_kernel(self) -> None:
        """By a message, where a signal would reach what stands between us and the kernel.

        Not before a shutdown: a kernel that is interrupted while it ends its last cell hears nothing more and is killed seconds later.
        """
        if self.shutting_down:
            return
        if self.run is None:
            await super()._async_interrupt_kernel()
        elif self.has_kernel:
            self._connect_control_socket()
            self.session.send(self._control_socket, self.session.msg("interrupt_request", content={}))

    async def _async_request_shutdown(self, restart: bool = False) -> None:
        """By a last cell that ends the process: asked to shut down, ipykernel 7.4 now and then waits for itself until it is killed.

        Nothing that a kernel does at its end counts. One that does not obey is ended all the same, seconds later.
        """
        if not self.ipykernel:
            await super()._async_request_shutdown(restart)
            return
        self._connect_control_socket()
        last = {"code": "import os; os._exit(0)", "silent": True, "store_history": False, "user_expressions": {}}
        self.session.send(self._control_socket, self.session.msg("execute_request", content=last))

    async def _async_finish_shutdown(
        self, waittime: float | None = None, pollinterval: float = _LOOK_S, restart: bool = False
    ) -> None:
        """Looks more often than jupyter_client does, ten times a second, which is time of every notebook."""
        await super()._async_finish_shutdown(waittime, pollinterval, restart)

    async def _async_kill_kernel(self, restart: bool = False) -> None:
        """What executes the run is asked to end it first, so that its end is written down."""
        if self.run is not None and self.has_kernel:
            await self._async_send_kernel_sigterm()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._async_wait(), timeout=_END_S)
        await super()._async_kill_kernel(restart)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        if self.run is not None and not self.told:  # nbclient has this done twice
            self.told = True
            self.run.over()
        if hasattr(self, "place"):
            shutil.rmtree(self.place.folder, ignore_errors=True)

    request_shutdown = _async_request_shutdown
    finish_shutdown = _async_finish_shutdown
    interrupt_kernel = _async_interrupt_kernel
    pre_start_kernel = _async_pre_start_kernel
    cleanup_resources = _async_cleanup_resources


def _confined(limits: cage.CageLimits, grader_pid: int) -> None:
    end_with(grader_pid)
    cage.limit(limits)


class CagedExecute(Execute):
    """In place of nbgrader's Execute."""

    output_bytes = Integer(1024 * 1024, help="Most bytes of output that one notebook may leave.").tag(config=True)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        more["kernel_manager_class"] = CagedManager
        super().__init__(*arguments, **more)

    def create_kernel_manager(self) -> Any:
        manager = super().create_kernel_manager()
        told = self.resources.get("nbgrader") or {}
        manager.about = (told.get("assignment", ""), told.get("student", ""))
        self._manager = manager
        return manager

    def start_new_kernel_client(self, **more: Any) -> Any:
        """A kernel that never answers, as on an overloaded machine, has run nothing of a student's. Raises NotExecuted."""
        try:
            return super().start_new_kernel_client(**more)
        except RuntimeError as error:
            run = self._manager.run
            reason = run.failure if run is not None else ""
            raise NotExecuted(reason or f"The kernel did not start, so nothing was executed: {error}") from error

    def preprocess(self, nb: Any, resources: Any, retries: Any = None) -> Any:
        self._room, self._ended = self.output_bytes, set[int]()
        self._first_hidden = next((n for n, cell in enumerate(nb.cells) if HIDDEN_MARK in cell.source), len(nb.cells))
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        try:
            super().preprocess(nb, resources)
        except cage.NoCage:
            raise
        except Exception as error:  # the edge to a student's code: whatever it did, it is graded
            self.log.warning("The notebook did not run to its end: %s: %s", type(error).__name__, error)
        run = self._manager.run
        if run is not None and run.failure:
            raise NotExecuted(run.failure)
        left = self._cells_that_did_not_run(nb)
        if run is not None and run.removed and left:
            raise NotExecuted("The container was removed before the notebook had run to its end. Grade it again.")
        for cell in left:
            text = "This cell did not run to its end: a limit was reached, or the kernel died."
            cell.outputs.append(new_output("error", ename="NotRun", evalue=text, traceback=[text]))
        return nb, resources

    def on_cell_executed(self, **said: Any) -> None:
        super().on_cell_executed(**said)
        self._ended.add(said["cell_index"])

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data" and cell_index >= self._first_hidden:
            return None  # would change what an earlier cell has said
        if msg["msg_type"] in _SHOWN:
            self._room -= len(str(msg["content"]))
            if self._room < 0 and msg["msg_type"] != "error":
                return None
        return super().process_message(msg, cell, cell_index)

    def _cells_that_did_not_run(self, nb: Any) -> list[Any]:
        """Each is to get an error: nbgrader gives full points to a cell without one."""
        code = [(n, cell) for n, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
        return [cell for number, cell in code if number not in self._ended]


class HideTests(NbGraderPreprocessor):
    """In feedback: hidden tests are cut out, and of what the kernel said since one ran only a word is left."""

    def preprocess(self, nb: Any, resources: Any) -> Any:
        clear, seen = ClearHiddenTests(parent=self, enforce_metadata=False), False
        nb.metadata.pop("widgets", None)
        for cell in nb.cells:
            seen = seen or HIDDEN_MARK in cell.source
            if seen and cell.cell_type == "code":
                failed = any(one.output_type == "error" for one in cell.outputs)
                text = "An error ended this cell." if failed else "This cell ran to its end."
                said = f"{text} What it said is not shown, since hidden tests had run.\n"
                cell.outputs = [new_output("stream", name="stdout", text=said)]
            clear._remove_hidden_test_region(cell)
        return nb, resources

"""Sessions as processes of this machine, the embedded default; for one machine and people who trust each other (no isolation).

Invariants: every session runs under its own runner (`spawners.runner`), which outlives the hub; only a recorded end or a runner
that is provably gone counts as stopped, anything unreadable is "still running"; a stop that is not confirmed raises; the
person's options choose no argument, path or variable.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from jupyterhub.spawner import Spawner
from traitlets import Integer, default

from spawners import processes, records
from spawners.delegate import GRACE_S, BackendUnreachable, DeadlineRefused
from spawners.kernel_sockets import FOLDER_VARIABLE, ON_SOCKETS, make_folder
from spawners.local_index import RunningIndex, home_name
from spawners.ports import LOOPBACK, free_port
from spawners.records import EndReason, Order, RecordError, RecordMissing, RecordUnreadable, SessionRecord
from spawners.session_traits import HOLD_VARIABLE, RunningSession, SessionTraits, StopUnconfirmedError, refused
from spawners.session_view import with_view

_ROOT: Final = Path(__file__).resolve().parents[1]
# nbgrader's configuration: its exchange is the portal's
EXCHANGE: Final = Path(__file__).resolve().parent.parent / "images" / "nbgrader_exchange" / "config"
LAB_DEFAULTS: Final = Path(__file__).resolve().parent / "lab"  # JupyterLab asks nobody about news or updates
_OPENS_AT: Final = {"lab": "/lab"}
_HUB_SECRETS: Final = frozenset({"CONFIGPROXY_AUTH_TOKEN", "JUPYTERHUB_CRYPT_KEY", "JUPYTERHUB_COOKIE_SECRET"})


class LocalSpawner(SessionTraits, Spawner):
    """Starts one runner a session and believes its record."""

    stop_grace_s = Integer(GRACE_S, help="Seconds between SIGTERM and SIGKILL on stop.").tag(config=True)
    # A runner needs its grace period, then up to 10 s to sweep and a moment to write the end.
    stop_margin_s = Integer(15, help="Seconds beyond the grace after which a stop counts as not confirmed.").tag(
        config=True
    )
    start_deadline_s = Integer(30, help="Seconds that a session may take to get its process.").tag(config=True)

    _starting = False
    _ordered = False  # whether a session was started or adopted under hold_id
    _runner: subprocess.Popen[bytes] | None = None

    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        return ["LANG", "LC_ALL", "TZ"]

    async def start(self) -> tuple[str, int]:
        """Adopt what already runs for this person and server name, else start it; returns where it listens."""
        self._starting = True
        try:
            running = await self.find_running()
            if running is not None:
                self.log.warning("Adopting running session %s of %s", running.hold_id, self._log_name)
                self.adopt(running)
            else:
                folder = self._prepare()
                self._runner = _launch(folder)
                self._ordered = True
                record = await self._await_record(folder)
                self.log.info("Session %s of %s has process %s", self.hold_id, self._log_name, record.child_pid)
        finally:
            self._starting = False
        return LOOPBACK, self.port

    async def poll(self) -> int | None:
        """None while the session runs or cannot be judged, its exit status once its end is certain."""
        if self._starting:
            return None
        try:
            if not self._ordered:
                running = await self.find_running()
                if running is None:
                    return 0
                self.adopt(running)
            return await self._judge()
        except (RecordUnreadable, OSError) as error:
            # JupyterHub takes an exception at boot for "stopped": what cannot be judged has to be "still running".
            self.log.warning("Session %s of %s cannot be judged: %s", self.hold_id, self._log_name, error)
            return None

    async def stop(self, now: bool = False) -> None:
        """End the session; raises StopUnconfirmedError where its end was not seen in time."""
        if await self.poll() is not None:
            return
        if not self._ordered:
            raise StopUnconfirmedError(f"what runs for {self._log_name} cannot be read")
        grace_s = self.stop_grace_s if self.stop_order.grace_s is None else self.stop_order.grace_s
        with contextlib.suppress(OSError):  # on a full disk the session is stopped all the same
            records.write_stop(self._folder, self.stop_order.reason, grace_s)
        self._terminate_runner()
        give_up = time.monotonic() + grace_s + self.stop_margin_s
        wait_s = 0.02
        while await self.poll() is None:
            if time.monotonic() >= give_up:
                raise StopUnconfirmedError(f"session {self.hold_id} was told to stop and still runs")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, 0.25)
        if self._runner is not None:  # it leaves right after it wrote the end; collected here, it is no zombie
            await asyncio.to_thread(self._runner.wait, self.stop_margin_s)

    async def set_deadline(self, deadline_ms: int) -> None:
        """Write the deadline that the runner follows within a second; nothing but the runner ends a local session."""
        status = await self.poll()
        if status is not None:
            raise DeadlineRefused("the session has ended")
        told_at_ms = records.read_deadline_ms(self._folder)
        if told_at_ms is not None and told_at_ms <= time.time_ns() // 10**6:  # its runner has told it to end by now
            raise DeadlineRefused("the session is ending")
        try:
            await asyncio.to_thread(records.write_deadline, self._folder, deadline_ms)
        except OSError as error:
            raise BackendUnreachable(f"the deadline of session {self.hold_id} cannot be written: {error}") from error

    def get_state(self) -> dict[str, Any]:
        """The hold's id: everything else stands in the session's folder."""
        state: dict[str, Any] = super().get_state()
        return {**state, "hold_id": self.hold_id} if self._ordered else state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the session that the hub remembers."""
        super().load_state(state)
        hold_id = state.get("hold_id")
        if isinstance(hold_id, str) and records.is_hold_id(hold_id):
            self.adopt(RunningSession(hold_id, ""))

    def clear_state(self) -> None:
        """Forget the session, whose end was seen or whose next start will find it again."""
        super().clear_state()
        self._ordered = False
        self._runner = None
        self.hold_id = ""
        self.port = 0

    async def get_url(self) -> str:
        """Where the session listens by its own record: the hub's row may date from before it was started."""
        if not self.port or not self.server:
            return str(await super().get_url())
        return f"http://{LOOPBACK}:{self.port}{self.server.base_url}"

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What the pending page shows."""
        yield {"progress": 40, "message": "Starting the notebook server"}

    async def find_running(self) -> RunningSession | None:
        """Look for a live session of this person and server name in the data folder. Raises BackendUnreachable."""
        try:
            return await asyncio.to_thread(self._index.find_running, self.user.name, self.name)
        except OSError as error:
            raise BackendUnreachable(f"{self._sessions} cannot be read: {error}") from error

    def adopt(self, running: RunningSession) -> None:
        """Take over a session that this object did not start, its API token included so that a stop revokes it."""
        self.hold_id = running.hold_id
        self._ordered = True
        with contextlib.suppress(RecordError):
            record = records.read(self._folder)
            self.port = record.port
            self.set_trait("api_token", _api_token(record) or self.api_token)

    def get_env(self) -> dict[str, str]:
        """The session's whole environment: what the hub gives a server, its own variables, and nothing of the hub's."""
        home = str(self._home)
        environment: dict[str, str] = super().get_env()
        environment = {
            name: value
            for name, value in environment.items()
            if name not in _HUB_SECRETS and not name.startswith("COMMONS_")
        }
        environment |= {"HOME": home, "USER": self.user.name, "LOGNAME": self.user.name, "SHELL": "/bin/bash"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment |= self.session_environment
        environment["JUPYTER_CONFIG_PATH"] = os.pathsep.join(str(one) for one in (LAB_DEFAULTS, EXCHANGE))
        environment[HOLD_VARIABLE] = self.hold_id
        return with_view(environment, str(EXCHANGE.parent))

    @property
    def _sessions(self) -> Path:
        return Path(self.data_folder) / "sessions"

    @property
    def _index(self) -> RunningIndex:
        return RunningIndex(Path(self.data_folder))

    @property
    def _folder(self) -> Path:
        return records.session_folder(self._sessions, self.hold_id)

    @property
    def _home(self) -> Path:
        return Path(self.data_folder) / "homes" / home_name(self.user.name)

    def _argv(self) -> tuple[str, ...]:
        program = str(self.cmd[0])
        if not os.path.isabs(program):
            program = str(Path(sys.executable).with_name(program))
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        return (program, *self.cmd[1:], f"--ip={LOOPBACK}", f"--port={self.port}", *as_root, *self.get_args())

    def _prepare(self) -> Path:
        """Make the session's folder with everything that its runner reads, or leave nothing behind."""
        if not self.hold_id:
            raise refused("This start has no hold, so nothing was started.", reason="no_hold", status_code=500)
        folder = self._folder
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sessions.mkdir(mode=0o700, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # a hold pays for one session
            raise refused("The session has just ended. Start it again.", reason="hold_used", status_code=409) from None
        kernels_folder = make_folder()
        try:
            self._index.add(self.user.name, self.hold_id)
            self._write_order(folder, kernels_folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(kernels_folder, ignore_errors=True)
            raise
        return folder

    def _write_order(self, folder: Path, kernels_folder: str) -> None:
        self.ip, self.port = LOOPBACK, free_port()
        on_sockets = [ON_SOCKETS] if kernels_folder else []
        request = self.resource_request
        if request is not None and not self.default_url:
            self.set_trait("default_url", _OPENS_AT.get(request.application, ""))
        order = Order(
            hold_id=self.hold_id,
            user=self.user.name,
            server_name=self.name,
            profile="" if request is None else request.profile,
            argv=(*self._argv(), *on_sockets),
            cwd=str(self._home),
            port=self.port,
            stop_grace_s=self.stop_grace_s,
            runtime_ms=None if request is None else request.runtime_s * 1000,
            kernels_folder=kernels_folder,
        )
        records.write_order(folder, order)
        if self.deadline_ms:
            records.write_deadline(folder, self.deadline_ms)
        environment = {**self.get_env(), **({FOLDER_VARIABLE: kernels_folder} if kernels_folder else {})}
        records.write_secret(folder / records.ENVIRONMENT, json.dumps(environment).encode())

    async def _judge(self) -> int | None:
        """None while the session runs, its exit status once it has ended; raises RecordUnreadable or OSError."""
        runner_gone = self._runner is not None and self._runner.poll() is not None
        try:
            record = records.read(self._folder)
            if not record.ended and records.is_alive(record):
                return None
            record = records.read(self._folder)  # it may have written its end and left between the two looks
        except RecordMissing:
            return 0 if runner_gone else None  # a runner that left without a record had started nothing
        if not record.ended:
            killed = await asyncio.to_thread(processes.kill_marked, HOLD_VARIABLE, self.hold_id)
            self.log.error("The runner of session %s is gone; %s processes of it were killed", self.hold_id, killed)
            with contextlib.suppress(RecordError):
                shutil.rmtree(records.read_order(self._folder).kernels_folder, ignore_errors=True)
        return record.exit_status or 0

    async def _await_record(self, folder: Path) -> SessionRecord:
        give_up = time.monotonic() + self.start_deadline_s
        wait_s = 0.01
        said: tuple[str, ...] = ()
        while time.monotonic() < give_up:
            left = self._runner is not None and self._runner.poll() is not None
            try:
                record = records.read(folder)
            except RecordMissing:
                if left:
                    said = self._last_words(folder)
                    shutil.rmtree(
                        folder, ignore_errors=True
                    )  # credentials included: no folder is the evidence of no session
                    break
            else:
                if record.end_reason is EndReason.NEVER_STARTED:
                    said = self._last_words(folder)
                    break
                if left or _has_begun(record):
                    return record
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.1, 0.1)  # a record is found at most a tenth later than it was written
        self.log.error("Session %s got no process; its runner said: %s", self.hold_id, " | ".join(said))
        raise refused(
            "The session's process could not be started; nothing is charged. Try again, or tell the portal's operators.",
            reason="never_started",
            status_code=500,
            log_lines=said,
        )

    def _last_words(self, folder: Path) -> tuple[str, ...]:
        """The last lines that session and runner printed."""
        try:
            return tuple((folder / records.LOG).read_text(errors="replace")[-2000:].splitlines()[-10:])
        except OSError:
            return ()

    def _terminate_runner(self) -> None:
        try:
            record = records.read(self._folder)
        except RecordError:
            if self._runner is not None:
                self._runner.terminate()
            return
        if record.boot_id == processes.boot_id():
            processes.send_signal(record.runner_pid, record.runner_started, signal.SIGTERM)


def _launch(folder: Path) -> subprocess.Popen[bytes]:
    """Start the runner, away from the hub's session, files and environment; without `site` it is up in a tenth of a second."""
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-s", "-m", "spawners.runner", str(folder)],
        cwd=_ROOT,
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )


def _has_begun(record: SessionRecord) -> bool:
    """Whether the child is the session's program: until then it is a copy of its runner, and may yet turn out as never started."""
    if record.ended:
        return True
    child = processes.stat(record.child_pid)
    if child is None or not child.running:
        return False  # its runner is writing down how it ended
    # The program's environment names its hold; that of a child which is just leaving reads as empty.
    return processes.environment(record.child_pid).get(HOLD_VARIABLE) == record.hold_id


def _api_token(record: SessionRecord) -> str:
    if not records.is_alive(record):
        return ""
    return processes.environment(record.child_pid).get("JUPYTERHUB_API_TOKEN", "")

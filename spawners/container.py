"""Sessions as containers of one host's engine: DockerSpawner, hardened, on chosen GPUs, behind the engine helper.

Invariants: the choice of devices stands on the container's label before it starts, and the helper lets no other session have them;
nothing of the person's options reaches the engine but ids that were looked up; a session counts as started only once the probe in
the container has found its devices; silence of helper or engine is never an end; containers are kept until their hold is closed
(quota.adapters.engine_evidence removes them), so that their own end is read first; the helper tells for a while beyond that how one ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from dockerspawner import DockerSpawner
from traitlets import Instance, Integer

from spawners import container_spec as spec
from spawners import gpu_inventory
from spawners.container_engine import EngineRefusal, HelperCalls
from spawners.container_refusals import failed_start
from spawners.container_settings import ContainersTable
from spawners.delegate import BackendUnreachable, DeadlineRefused
from spawners.devices import Busy, Device, Wish, choose
from spawners.engine_sessions import Verdict
from spawners.phrases import busy_text, say
from spawners.profiles import Profile, Profiles
from spawners.session_traits import RunningSession, SessionTraits, StopUnconfirmedError, refused

T = TypeVar("T")
CHOICES_MAX: Final = 8  # a choice that another start was faster with is made again
LOOK_S: Final = 0.05
ALIVE_EVERY_S: Final = 0.5
FAREWELL_S: Final = 5.0  # between a first program's last word and its end
_OPENS_AT: Final = {"lab": "/lab"}


class GPUContainerSpawner(SessionTraits, DockerSpawner):
    """One container a session; the hub's delegate of the backend `container`."""

    containers = Instance(ContainersTable, args=(), help="The table [containers] of portal.toml.").tag(config=True)
    profiles = Instance(Profiles, args=((),), help="The catalogue of portal.toml.").tag(config=True)
    hub_port = Integer(help="The hub's port, as the packet rules let sessions reach it.").tag(config=True)
    quota_port = Integer(help="The port of gateway and quota API, likewise.").tag(config=True)
    stop_margin_s = Integer(30, help="Seconds beyond the grace after which a stop counts as not confirmed.").tag(
        config=True
    )

    _executor = ThreadPoolExecutor(16, thread_name_prefix="engine")
    _waiting = ThreadPoolExecutor(128, thread_name_prefix="engine-wait")  # for answers that take as long as a session
    _starting = False
    _ready_told, _has_token = False, True
    _address = ""
    _step: dict[str, Any] | None = None

    @property
    def client(self) -> Any:
        """DockerSpawner's client, on the helper's socket."""
        return self.helper.client

    @property
    def helper(self) -> HelperCalls:
        """The helper and the home keeper."""
        data = Path(self.data_folder)
        return HelperCalls(str(self.containers.helper_socket(data)), str(self.containers.keeper_socket(data)))

    @property
    def container_name(self) -> str:
        """By the hold, so that it is found again after anything."""
        return spec.container_name(self.hold_id)

    async def start(self) -> tuple[str, int]:
        """Adopt what runs for this person and server name, else start it; returns where it listens."""
        self._starting = True
        try:
            running = await self.find_running()
            if running is not None:
                self.log.warning("Adopting running session %s of %s", running.hold_id, self._log_name)
                await self._take_over(running)
            else:
                await self._start_new()
        except BackendUnreachable as error:
            self.log.error("No start for %s: %s", self._log_name, error)
            not_ready = str(error).partition("no session is started: ")[2]
            text = self._say("not_ready", why=not_ready) if not_ready else self._say("engine_away")
            raise refused(text, reason="backend_unreachable", status_code=503) from None
        finally:
            self._starting = False
        return self._address, spec.PORT

    async def poll(self) -> int | None:
        """None while it runs or cannot be judged; its exit status once the engine says that it has ended, or has no such."""
        return None if self._starting else await self._exit_status()

    async def _exit_status(self) -> int | None:
        try:
            if not self.hold_id:
                running = await self.find_running()
                if running is None:
                    return 0
                await self._take_over(running)
            found = await self._look()
            if found is None:
                end = await self._thread(self.helper.end_of, self.hold_id)
                return 0 if end is None else end.exit_status
            state = found["State"]
            if state["Status"] in ("exited", "dead", "removing", "created"):
                return int(state["ExitCode"])
            await self._catch_up()
        except (BackendUnreachable, EngineRefusal) as error:
            self.log.warning("Session %s of %s cannot be judged: %s", self.hold_id, self._log_name, error)
        return None

    async def stop(self, now: bool = False) -> None:
        """End it as `stop_order` says; raises StopUnconfirmedError where its end was not seen."""
        order = self.stop_order
        grace_s = self.containers.stop_grace if order.grace_s is None else order.grace_s
        within_s = grace_s + self.stop_margin_s + 1
        try:
            await self._wait(lambda: self.helper.end(self.hold_id, order.reason, grace_s, within_s))
        except EngineRefusal as error:
            if error.status != 404:
                raise StopUnconfirmedError(f"session {self.hold_id}: {error}") from error
        except BackendUnreachable as error:
            raise StopUnconfirmedError(
                f"session {self.hold_id} was told to stop; its end was not seen: {error}"
            ) from error
        if await self._exit_status() is None:  # a start that takes too long is stopped while it is under way
            raise StopUnconfirmedError(f"session {self.hold_id} was told to stop and still runs")

    async def set_deadline(self, deadline_ms: int) -> None:
        """Write the deadline that the host's watchdog keeps. Raises DeadlineRefused, BackendUnreachable."""
        path = f"/commons/sessions/{self.hold_id}/deadline"
        try:
            await self._thread(self.helper.call, "PUT", path, {"deadline_ms": deadline_ms})
        except EngineRefusal as error:
            raise DeadlineRefused(str(error)) from error

    async def find_running(self) -> RunningSession | None:
        """Look for a live container with this person's and server's label. Raises BackendUnreachable."""
        for one in await self._mine():
            if one["State"] in ("running", "paused", "restarting"):
                return RunningSession(one["Labels"][spec.HOLD], one["Labels"].get(spec.PROFILE, ""))
        return None

    def adopt(self, running: RunningSession) -> None:
        """Take over a session that this object did not start; the next look brings its address and API token."""
        self.hold_id = running.hold_id
        self._ready_told = self._has_token = False

    def get_state(self) -> dict[str, Any]:
        """The hold's id: everything else stands with the engine."""
        return {**super().get_state(), **({"hold_id": self.hold_id} if self.hold_id else {})}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the session that the hub remembers."""
        super().load_state(state)
        if isinstance(state.get("hold_id"), str):
            self.hold_id = state["hold_id"]

    def clear_state(self) -> None:
        """Forget the session."""
        super().clear_state()
        self.hold_id = self.object_id = self._address = ""
        self._step, self._ready_told = None, False

    async def get_url(self) -> str:
        """Where it listens on its own network."""
        if not self._address:
            await self._look()
        if not self._address or not self.server:
            return str(await super().get_url())
        return f"http://{self._address}:{spec.PORT}{self.server.base_url}"

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Each step once, and an image's layers as they come; the hub ends the iteration with the start."""
        shown: dict[str, Any] | None = None
        while True:
            step = self._step
            if step is not None and step != shown:
                shown = step
                yield step
            await asyncio.sleep(0.1)

    async def _start_new(self) -> None:
        profile, image = self._require_startable()
        for one in await self._mine():
            if one["State"] == "created":  # made by a hub that died before it could start it
                await self._thread(self.helper.end, one["Labels"][spec.HOLD], "abandoned", 0)
        self._show(20, "folders")
        try:
            await self._fetch(image)
            _, _, gateway = await asyncio.gather(
                self._folder(spec.home_volume(self.login)),
                self._folder(spec.project_volume(self.resource_request.project)),
                self._thread(self.helper.make_network, self.hold_id),
            )
            await self._create(profile, image, gateway)
        except EngineRefusal as error:
            raise self._refused_by_engine(error) from None
        await self._launch()

    def _require_startable(self) -> tuple[Profile, str]:
        """The profile and the image of the checked request; raises a refusal."""
        request = self.resource_request
        profile = None if request is None else self.profiles.get(request.profile)
        if not self.hold_id or profile is None:
            raise refused(self._say("no_hold"), reason="no_hold", status_code=500)
        if not self.login or not self.uid:
            raise refused(self._say("no_login"), reason="no_login", status_code=500)
        table = self.containers.images.get(request.application)
        if table is None:
            text = self._say("no_application", application=request.application)
            raise refused(text, reason="no_application", status_code=503)
        return profile, table.image

    async def _folder(self, volume: str) -> None:
        try:
            await self._thread(self.helper.make_volume, volume)
        except BackendUnreachable as error:
            self.log.error("No folder for %s: %s", self._log_name, error)
            raise refused(self._say("no_folder", why=error), reason="no_folder", status_code=503) from None

    async def _fetch(self, image: str) -> None:
        """Have the image on the host; a start waits for a first fetch and shows its layers."""
        self._show(25, "image")
        if await self._thread(self.helper.has_image, image):
            return

        def show(figures: Mapping[str, int]) -> None:
            self._show(25 + figures["percent"] // 4, "image.layers", **figures)

        try:
            await self._wait(lambda: self.helper.fetch(image, show))
        except (EngineRefusal, BackendUnreachable) as error:
            self.log.error("The image %s could not be fetched: %s", image, error)
            raise refused(self._say("no_image", why=error), reason="no_image", status_code=503) from None

    async def _create(self, profile: Profile, image: str, gateway: str) -> None:
        """Make the container on devices that nobody has; the helper decides between starts at the same moment."""
        self.port, self.ip = spec.PORT, "0.0.0.0"  # noqa: S104 (inside the container)
        self.hub_connect_url = f"http://{gateway}:{self.hub_port}"
        if not self.default_url:
            self.set_trait("default_url", _OPENS_AT.get(self.resource_request.application, ""))
        limits = spec.Limits(self.containers.processes, self.containers.tmp)
        environment, arguments = self._session_variables(gateway), tuple(self.get_args())
        for _ in range(CHOICES_MAX):
            devices = await self._choose(profile)
            order = spec.ContainerOrder(
                hold_id=self.hold_id,
                user=self.user.name,
                server_name=self.name,
                login=self.login,
                uid=self.uid,
                project=self.resource_request.project,
                profile=profile,
                image=image,
                devices=devices,
                runtime_s=self.resource_request.runtime_s,
                environment=environment,
                arguments=arguments,
            )
            body = spec.container_body(order, limits)
            try:
                path = f"/containers/create?name={self.container_name}"
                made = await self._thread(self.helper.call, "POST", path, body)
            except EngineRefusal as error:
                if error.status != 409:
                    raise
                if "in use by container" in str(error):
                    raise refused(self._say("hold_used"), reason="hold_used", status_code=409) from None
                continue  # another start was faster
            self.object_id = made["Id"]
            return
        raise refused(self._say("engine_away"), reason="devices_contended", status_code=503)

    async def _choose(self, profile: Profile) -> tuple[Device, ...]:
        if profile.gpus == 0:
            return ()
        self._show(55, "devices")
        folders = tuple(Path(one) for one in self.containers.cdi_folders)
        try:
            inventory = await asyncio.to_thread(gpu_inventory.read_kept, self.containers.gpus, folders)
        except gpu_inventory.InventoryError as error:
            raise BackendUnreachable(f"the host's GPUs cannot be told: {error}") from error
        grants = await self._thread(self.helper.grants)
        chosen = choose(inventory, grants, Wish(profile.hardware, profile.gpus, profile.sessions_per_gpu))
        if isinstance(chosen, Busy):
            raise refused(busy_text(self.language, chosen), reason="devices_busy", status_code=503)
        return chosen

    async def _launch(self) -> None:
        """Start the container and wait until its first program has confirmed the devices."""
        self._show(65, "container")
        try:
            await self._thread(self.helper.call, "POST", f"/containers/{self.container_name}/start")
        except EngineRefusal as error:
            raise self._refused_by_engine(error) from None
        end = time.monotonic() + self.containers.start_deadline
        self._show(75, "probe")
        said = await self._wait(lambda: self.helper.first_word(self.hold_id, self.containers.start_deadline + 10))
        soon = min(end, time.monotonic() + FAREWELL_S)
        while said != Verdict.CONFIRMED:
            await self._require_alive(soon)
            await asyncio.sleep(LOOK_S)
        self._show(85, "notebook")
        looked = time.monotonic()
        while not await self._listens():
            if time.monotonic() - looked >= ALIVE_EVERY_S:
                await self._require_alive(end)
                looked = time.monotonic()
            await asyncio.sleep(LOOK_S)
        await self._catch_up()

    async def _require_alive(self, until: float) -> None:
        """Raise a refusal with the last lines where the container has ended or takes too long."""
        found = await self._look()
        lives = found is not None and found["State"]["Status"] not in ("exited", "dead", "removing")
        if lives and time.monotonic() <= until:
            return
        if lives:
            await self.stop()
        end = await self._thread(self.helper.end_of, self.hold_id)  # its container may be removed by now
        said = None if end is None else (end.exit_status, end.lines[:1])  # the first line is the probe's
        self.log.error("Session %s of %s did not come up: %s", self.hold_id, self._log_name, said)
        raise failed_start(self.language, end, stopped_after_s=self.containers.start_deadline if lives else None)

    async def _listens(self) -> bool:
        """Whether the notebook server takes connections: a death before that has its last lines shown."""
        if not self._address:
            await self._look()
        try:
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(self._address, spec.PORT)
            writer.close()
            return True
        except (OSError, TimeoutError):
            return False

    def _refused_by_engine(self, error: EngineRefusal) -> Exception:
        self.log.error("The engine refused session %s: %s %s", self.hold_id, error.status, error)
        return refused(self._say("refused_by_engine", why=error), reason="refused_by_engine", status_code=503)

    def _session_variables(self, gateway: str) -> dict[str, str]:
        """What the hub gives a server, with the portal's addresses as this session reaches them."""
        given = {name: value for name, value in self.get_env().items() if not name.startswith("COMMONS_")}
        variables = given | spec.person_variables(self.login) | self.session_environment
        return spec.seen_from_inside(variables, f"http://{gateway}:{self.quota_port}")

    async def _mine(self) -> list[dict[str, Any]]:
        """This person's and server's containers, newest first. Raises BackendUnreachable."""
        try:
            return await self._thread(self.helper.of, self.user.name, self.name)
        except EngineRefusal as error:
            raise BackendUnreachable(str(error)) from error

    async def _look(self) -> dict[str, Any] | None:
        """The container as the engine tells it; notes its address and API token."""
        found = await self._thread(self.helper.inspect, self.container_name)
        if found is not None:
            network = found["NetworkSettings"]["Networks"].get(spec.network_name(self.hold_id)) or {}
            self._address = network.get("IPAddress") or self._address
            self.object_id = found["Id"]
        return found

    async def _take_over(self, running: RunningSession) -> None:
        """Adopt it with its address and the API token that it already has."""
        self.adopt(running)
        if await self._look() is not None:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Take an adopted session's API token; tell the helper once the notebook answers: it is charged then, from its start."""
        if not self._has_token:
            self.set_trait("api_token", await self._thread(self.helper.api_token, self.hold_id))
            self._has_token = True
        if not self._ready_told and await self._listens():
            try:
                await self._thread(self.helper.tell_ready, self.hold_id)
                self._ready_told = True
            except (BackendUnreachable, EngineRefusal) as error:
                self.log.error("Session %s is ready, which could not be written down yet: %s", self.hold_id, error)

    async def _wait(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._waiting, work)

    async def _thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def _show(self, progress: int, code: str, **params: object) -> None:
        self._step = {"progress": progress, "message": self._say(code, **params)}

    def _say(self, code: str, **params: object) -> str:
        return say(self.language, code, **params)

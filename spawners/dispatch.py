"""The one spawner class that the hub sees: routes each session by its profile to the delegate of the profile's backend.

Invariants: nothing is started, held or asked for before the options were checked; a session that a backend still runs is adopted
before anything new is started; a saved state whose backend is not configured any more is "still running", never "stopped".
Saved state: `{"backend", "profile", "child": the delegate's own state}`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from jupyterhub.utils import maybe_future
from traitlets import Any as AnyTrait
from traitlets import Dict, Instance, default

from spawners.container import GPUContainerSpawner
from spawners.delegate import BackendUnreachable, DeadlineRefused
from spawners.local import LocalSpawner
from spawners.profiles import Backend, Profiles
from spawners.resources import InvalidRequest, ResourceRequest
from spawners.session_traits import RunningSession, SessionTraits, StopOrder, StopUnconfirmedError, refused
from spawners.slurm import SlurmRestSpawner

DELEGATES: Final[Mapping[Backend, type[Spawner]]] = {
    Backend.LOCAL: LocalSpawner,
    Backend.CONTAINER: GPUContainerSpawner,
    Backend.SLURM: SlurmRestSpawner,
}

# Traits that belong to one object: configuration wiring, a request in flight, and the dispatcher's own.
_NOT_PASSED_ON: Final = frozenset(
    {"config", "parent", "log", "db", "handler", "profiles", "delegates", "keep_state", "end_credential", "replaced"}
)


class DispatchSpawner(SessionTraits, Spawner):
    """Holds one delegate (`spawners.delegate.Delegate`) at a time and answers the hub in its name."""

    profiles = Instance(Profiles, args=((),), help="The catalogue of portal.toml.").tag(config=True)
    delegates = Dict(help="Spawner class by Backend.").tag(config=True)
    replaced = AnyTrait(
        help="Coroutine function: whether a newer hub took over; then nothing is started or stopped."
    ).tag(config=True)
    turn = AnyTrait(help="Coroutine function: comes back when the next piece of a start may be done.").tag(config=True)

    _taken = Instance(asyncio.Event, args=())  # set while there is a delegate
    _child: Any = None
    _backend: Backend | str | None = None  # a str names a backend of saved state that is not configured
    _profile_id = ""
    _starting = False
    _invalid: InvalidRequest | None = None

    @default("delegates")
    def _delegates_default(self) -> dict[Backend, type[Spawner]]:
        """Of the backends that the catalogue uses, and the local one: who has no engine is not asked what it runs."""
        used = {Backend.LOCAL, *(one.backend for one in self.profiles)}
        return {backend: kind for backend, kind in DELEGATES.items() if backend in used}

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        return DispatchSpawner.check_user_options

    def check_user_options(self, user_options: Mapping[str, object]) -> None:
        """Attach `resource_request`; what is wrong is kept and refused with its reason before any hook runs."""
        self.resource_request = self._invalid = None
        try:
            self.resource_request = ResourceRequest.from_user_options(user_options, self.profiles)
        except InvalidRequest as error:
            self._invalid = error

    async def run_pre_spawn_hook(self) -> None:
        """Refuse what cannot start, adopt what already runs (its hold stands), else let admission place a hold."""
        self._require_startable()
        if await self._was_replaced():
            raise refused(
                "This portal's hub was replaced by a newer one, so nothing was started. Reload the page in a minute.",
                reason="hub_replaced",
                status_code=503,
            )
        try:
            running = await self.adopt_running()
        except (BackendUnreachable, OSError) as error:
            self.log.warning("What runs for %s cannot be seen, nothing is started: %s", self._log_name, error)
            raise refused(
                "The place where this session would run cannot be reached, so nothing was started and nothing is charged. "
                "Sessions that run go on. Try again in a minute.",
                reason="backend_unreachable",
                status_code=503,
            ) from None
        if running is None:
            await maybe_future(super().run_pre_spawn_hook())

    async def start(self) -> Any:
        """Start the session on its profile's backend; returns what the delegate returns."""
        profile = self._require_startable()
        self._starting = True
        try:
            if self._child is None:  # else the hook before found a running session
                self._take(profile.backend, profile.id)
            address = await self._child.start()
            if self.turn is not None:
                await self.turn()  # JupyterHub writes a lot after this, and many starts may be over at once
        finally:
            self._starting = False
            self._follow_child()
        return address

    async def poll(self) -> int | None:
        """None while the session runs or its backend cannot tell."""
        if self._starting or self._lost:
            return None
        try:
            if self._child is None and await self.adopt_running() is None:
                return 0
            status: int | None = await self._child.poll()
        except (BackendUnreachable, OSError) as error:  # an exception here would mean "stopped" to a starting hub
            self.log.warning("Whether %s runs cannot be seen: %s", self._log_name, error)
            return None
        self._follow_child()
        return status

    async def stop(self, now: bool = False) -> None:
        """Stop the session; the delegate raises where the end is not confirmed."""
        if self._child is None:  # the hub stops only what poll() called running: what that is cannot be seen from here
            raise StopUnconfirmedError(
                f"no backend can be asked to stop {self._log_name} (saved state: {self._backend!r})"
            )
        if await self._was_replaced():
            raise StopUnconfirmedError(f"a newer hub took over: {self._log_name} is not stopped from here")
        self._child.stop_order = self.stop_order
        await self._child.stop(now=now)

    async def set_deadline(self, hold_id: str, deadline_ms: int) -> None:
        """Move the end of the session that runs under `hold_id`.

        Raises DeadlineRefused where the backend says no or another session runs here, BackendUnreachable where it is not known.
        """
        if self._lost:
            raise BackendUnreachable(f"the backend {self._backend} is not configured")
        if self._child is None or self.hold_id != hold_id:
            raise DeadlineRefused("this session does not run any more")
        try:
            await self._child.set_deadline(deadline_ms)
        except OSError as error:
            raise BackendUnreachable(str(error)) from error
        self.deadline_ms = deadline_ms

    async def adopt_running(self) -> RunningSession | None:
        """Ask each backend what it runs for this person and server name, and take it over.

        One that cannot be asked is an outage for the caller only where it could be the one: where nothing else runs the session
        and it is the backend of the start or of the saved state. Raises BackendUnreachable or OSError then.
        """
        silent: BackendUnreachable | OSError | None = None
        for backend in self.delegates:
            child = self._make_child(backend)
            try:
                running: RunningSession | None = await child.find_running()
            except (BackendUnreachable, OSError) as error:
                self.log.warning("Backend %s does not say what it runs for %s: %s", backend, self._log_name, error)
                silent = error if self._concerns(backend) else silent
                continue
            if running is not None:
                self.log.info("Found session %s of %s on backend %s", running.hold_id, self._log_name, backend)
                self._take(backend, running.profile)
                self._child.adopt(running)
                self._follow_child()
                return running
        if silent is not None:
            raise silent
        return None

    def _concerns(self, backend: Backend) -> bool:
        """Whether this backend's silence matters: it would run the start that is asked for, or nobody knows which one would."""
        request: ResourceRequest | None = self.resource_request
        profile = None if request is None else self.profiles.get(request.profile)
        return profile is None or profile.backend is backend

    def get_state(self) -> dict[str, Any]:
        """Backend, profile and the delegate's state."""
        state: dict[str, Any] = super().get_state()
        if self._child is None:
            return state
        return {**state, "backend": str(self._backend), "profile": self._profile_id, "child": self._child.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the delegate that the state names and hand it its own."""
        super().load_state(state)
        name, profile_id, child_state = state.get("backend"), state.get("profile"), state.get("child")
        if not isinstance(name, str) or not isinstance(child_state, dict):
            return
        backend = next((one for one in self.delegates if one == name), None)
        if backend is None:
            self._backend = name
            return
        self._take(backend, profile_id if isinstance(profile_id, str) else "")
        self._child.load_state(child_state)
        self._follow_child()

    def clear_state(self) -> None:
        """Forget the session and everything that admission set for it."""
        super().clear_state()
        if self._child is not None:
            self._child.clear_state()
        self._child = self._backend = self._invalid = None
        self._taken.clear()
        self._profile_id = ""
        self.hold_id, self.session_environment, self.deadline_ms, self.resource_request = "", {}, 0, None
        self.login, self.uid = "", 0
        self.stop_order = StopOrder()

    async def get_url(self) -> str:
        """Where the session listens, by its backend's own knowledge."""
        return str(await (super().get_url() if self._child is None else self._child.get_url()))

    async def take_port(self, port: int) -> bool:
        """Hand a job's port to the delegate that waits for it (spawners.callback); False where none does."""
        take = getattr(self._child, "take_port", None)
        return take is not None and bool(await take(port))

    async def deadline_for_job(self) -> int:
        """When a job has to end, UTC ms (spawners.callback); 0 where its delegate moves no deadline."""
        ask = getattr(self._child, "deadline_for_job", None)
        return 0 if ask is None else int(await ask())

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Admission first, then the delegate's own steps; the hub ends the iteration with the start."""
        yield {"progress": 10, "message": "Checking the project's balance"}
        await self._taken.wait()
        async for event in self._child.progress():
            yield event

    @property
    def _lost(self) -> bool:
        return self._child is None and self._backend is not None

    def _require_startable(self) -> Any:
        """Give the checked request's profile; raises a refusal with its reason."""
        if self._invalid is not None:
            raise refused(f"This start cannot be done: {self._invalid}", reason=f"invalid_{self._invalid.code}")
        request: ResourceRequest | None = self.resource_request
        profile = None if request is None else self.profiles.get(request.profile)
        if profile is None:
            raise refused(
                "This start names no project, profile and runtime. Use the start page.", reason="invalid_missing"
            )
        if profile.backend not in self.delegates:
            raise refused(
                f"The profile {profile.title} runs on the backend {profile.backend}, which this portal does not have yet. "
                "Choose another profile.",
                reason="backend_unavailable",
                status_code=503,
            )
        return profile

    async def _was_replaced(self) -> bool:
        return self.replaced is not None and bool(await self.replaced())

    def _take(self, backend: Backend, profile_id: str) -> None:
        self._child = self._make_child(backend)
        self._child.keep_state = self._keep_state
        self._backend, self._profile_id = backend, profile_id
        self._taken.set()

    async def _keep_state(self) -> None:
        """Save the state now: JupyterHub does so only after `start` returned, and a job may wait for days before that."""
        if self.turn is not None:
            await self.turn()
        if self.orm_spawner is not None:
            self.orm_spawner.state = self.get_state()
            self.db.commit()

    def _end_credential(self, credential: str) -> None:
        """Revoke a session's API token: JupyterHub does so with a stop that it saw through, and forgets the token of any other."""
        found = orm.APIToken.find(self.db, credential) if credential else None
        if found is not None:
            self.db.delete(found)
            self.db.commit()

    def _make_child(self, backend: Backend) -> Any:
        """Make a delegate that knows what this object was told: every common trait that differs from its default.

        A trait left at its default is not passed on, so that `c.LocalSpawner.…` in the hub's configuration counts.
        """
        child = self.delegates[backend](config=self.config, parent=None)
        theirs = set(child.trait_names())
        for name, trait in self.traits().items():
            if name not in theirs or name in _NOT_PASSED_ON or name.startswith("_") or name not in self._trait_values:
                continue
            value = getattr(self, name)
            if value != trait.default(self):
                child.set_trait(name, value)
        child.end_credential = self._end_credential
        return child

    def _follow_child(self) -> None:
        """Take over what only the delegate knows: the adopted hold, and the token that a stop has to revoke."""
        if self._child is not None:
            self.hold_id = self._child.hold_id
            self.api_token = self._child.api_token

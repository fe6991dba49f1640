"""The helper's and the home keeper's sockets as the spawner uses them: blocking calls for a thread, typed outcomes.

Invariant: silence and every 5xx is BackendUnreachable; a refusal of the engine is EngineRefusal with its words.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import docker
import docker.errors
import requests

from spawners import container_spec as spec
from spawners.delegate import BackendUnreachable
from spawners.devices import Grant
from spawners.engine_sessions import Verdict
from spawners.session_ends import SessionEnd

CALL_DEADLINE_S: Final = 90
PULL_SILENCE_S: Final = 300
_STOP_WORD: Final = re.compile(r"[a-z_]{1,40}")  # what the helper takes


class EngineRefusal(Exception):
    """The engine or its helper said no: `status` as HTTP has it, and its words."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class HelperCalls:
    """Calls one helper; `client` is also what DockerSpawner works with. Made in any thread, used in many."""

    _known: Final[dict[str, docker.APIClient]] = {}
    _lock: Final = threading.Lock()

    def __init__(self, helper: str, keeper: str) -> None:
        self._helper = helper
        self._keeper = keeper

    @property
    def client(self) -> docker.APIClient:
        """One connection pool a socket and process. Raises BackendUnreachable."""
        return _client(self._helper)

    def call(self, method: str, path: str, body: object = None, *, within_s: float = CALL_DEADLINE_S) -> Any:
        """One call of a route of the helper's own, or of the engine's; gives the JSON. Raises BackendUnreachable, EngineRefusal."""
        return _call(self._helper, method, path, body, within_s)

    def ensure_folder(self, volume: str) -> str:
        """Have the home keeper make or find the folder of this volume. Raises BackendUnreachable, EngineRefusal."""
        return str(_call(self._keeper, "PUT", f"/folders/{quote(volume)}", None, CALL_DEADLINE_S)["folder"])

    def of(self, user: str, server: str) -> list[dict[str, Any]]:
        """The containers of one person's server, as the engine lists them, newest first."""
        listed = self.call("GET", "/containers/json")
        mine = [one for one in listed if _whose(one) == (user, server)]
        return sorted(mine, key=lambda one: -int(one["Created"]))

    def inspect(self, name: str) -> dict[str, Any] | None:
        """One container; None where the engine positively has none."""
        try:
            found: dict[str, Any] = self.call("GET", f"/containers/{name}/json")
            return found
        except EngineRefusal as error:
            if error.status == 404:
                return None
            raise

    def grants(self) -> list[Grant]:
        """What sessions have of the host's devices, and until when."""
        sessions = self.call("GET", "/commons/sessions")["sessions"]
        return [spec.grant_of(one["labels"], one["due_ms"]) for one in sessions if one["holds_devices"]]

    def end(self, hold_id: str, reason: str, grace_s: int, within_s: float = CALL_DEADLINE_S) -> None:
        """Stop a session, and return once it has ended."""
        body = {"reason": stop_word(reason), "grace_s": grace_s}
        self.call("POST", f"/commons/sessions/{hold_id}/stop", body, within_s=within_s)

    def first_word(self, hold_id: str, within_s: float) -> Verdict:
        """Wait for what the session's first program says of its devices; SILENT, too, where it has ended and was removed."""
        try:
            return Verdict(self.call("GET", f"/commons/sessions/{hold_id}/first-word", within_s=within_s)["said"])
        except EngineRefusal as error:
            if error.status == 404:
                return Verdict.SILENT
            raise

    def end_of(self, hold_id: str) -> SessionEnd | None:
        """How a session ended, whether its container is still there or not; None where it has not, or nobody knows it."""
        try:
            told = self.call("GET", f"/commons/sessions/{hold_id}/end")
        except EngineRefusal as error:
            if error.status == 404:
                return None
            raise
        return SessionEnd(int(told["exit_status"]), tuple(told["lines"]))

    def tell_ready(self, hold_id: str) -> None:
        """Have it written down that the session's notebook server answers."""
        self.call("PUT", f"/commons/sessions/{hold_id}/ready")

    def api_token(self, hold_id: str) -> str:
        """The token that the session's server has for the hub."""
        return str(self.call("GET", f"/commons/sessions/{hold_id}/api-token")["api_token"])

    def make_network(self, hold_id: str) -> str:
        """Make the session's own network; gives the host's address on it. One that was left over is made anew."""
        path = f"/networks/{spec.network_name(hold_id)}"
        try:
            self.call("POST", "/networks/create", spec.network_body(hold_id))
        except EngineRefusal as error:
            if error.status != 409:
                raise
            self.call("DELETE", path)
            self.call("POST", "/networks/create", spec.network_body(hold_id))
        return str(self.call("GET", path)["IPAM"]["Config"][0]["Gateway"])

    def make_volume(self, name: str) -> None:
        """Have the folder made and named as a volume."""
        self.call("POST", "/volumes/create", spec.volume_body(name, self.ensure_folder(name)))

    def has_image(self, image: str) -> bool:
        """Whether the engine has it."""
        try:
            self.call("GET", f"/images/{quote(image, safe='/:')}/json")
            return True
        except EngineRefusal as error:
            if error.status == 404:
                return False
            raise

    def fetch(self, image: str, show: Callable[[Mapping[str, int]], None]) -> None:
        """Fetch an image and show how far its layers are. Raises EngineRefusal, BackendUnreachable."""
        layers = Layers()
        for event in self.pull(image):
            layers.take(event)
            show(layers.figures)

    def pull(self, image: str) -> Iterator[dict[str, Any]]:
        """Fetch an image, giving the engine's events. Raises EngineRefusal, BackendUnreachable."""
        name, _, digest = image.partition("@")
        try:
            for event in self.client.pull(name, tag=digest, stream=True, decode=True):
                if "error" in event:
                    raise EngineRefusal(422, str(event["error"])[:300])
                yield event
        except docker.errors.APIError as error:
            raise _refusal(error.status_code or 500, str(error.explanation)) from error
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise BackendUnreachable(f"the image could not be fetched: {type(error).__name__}") from error


def stop_word(reason: str) -> str:
    """The word that the helper keeps with a session's end; what somebody wrote about a stop is the quota service's to keep."""
    return reason if _STOP_WORD.fullmatch(reason) else "stopped"


def _whose(listed: Mapping[str, Any]) -> tuple[str | None, str | None]:
    labels = listed.get("Labels") or {}
    return labels.get(spec.USER), labels.get(spec.SERVER)


def _client(socket: str) -> docker.APIClient:
    with HelperCalls._lock:
        if socket not in HelperCalls._known:
            try:
                HelperCalls._known[socket] = docker.APIClient(
                    base_url=f"unix://{socket}", version="auto", timeout=CALL_DEADLINE_S, num_pools=32
                )
            except (docker.errors.DockerException, requests.RequestException) as error:
                raise BackendUnreachable(f"the engine's helper does not answer: {type(error).__name__}") from error
        return HelperCalls._known[socket]


_sessions: Final[dict[str, docker.APIClient]] = {}


def _call(socket: str, method: str, path: str, body: object, within_s: float) -> Any:
    """Over the client's adapter for Unix sockets; the API's version is not part of our paths."""
    session = _sessions.setdefault(socket, docker.APIClient(base_url=f"unix://{socket}", version="1.41", num_pools=32))
    try:
        answer = session.request(method, f"{session.base_url}{path}", json=body, timeout=within_s)
    except (requests.RequestException, OSError) as error:
        raise BackendUnreachable(f"the engine's helper does not answer: {type(error).__name__}") from error
    if answer.status_code == 304 or answer.status_code == 204:
        return None
    try:
        content = answer.json() if answer.content else None
    except ValueError:
        content = None
    if answer.status_code >= 400:
        message = content.get("message", "") if isinstance(content, Mapping) else ""
        raise _refusal(answer.status_code, str(message))
    return content


def _refusal(status: int, message: str) -> Exception:
    if status >= 500:
        return BackendUnreachable(message or f"the engine's helper answered {status}")
    return EngineRefusal(status, message)


class Layers:
    """What an image's fetching has come to, from the engine's events: layers done of all, and bytes."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event of the engine's."""
        layer, status = event.get("id"), event.get("status")
        if not isinstance(layer, str) or status in (None, "Pulling from") or str(status).startswith("Pulling from"):
            return
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._sizes[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        self._sizes.setdefault(layer, (0, 0))
        if status in ("Download complete", "Pull complete", "Already exists"):
            total = self._sizes[layer][1]
            self._sizes[layer] = (total, total)
        if status in ("Pull complete", "Already exists"):
            self._done.add(layer)

    @property
    def figures(self) -> dict[str, int]:
        """`done` and `total` layers, `percent` of the bytes that are known of."""
        got, size = (sum(pair[one] for pair in self._sizes.values()) for one in (0, 1))
        return {"done": len(self._done), "total": len(self._sizes), "percent": 100 * got // size if size else 0}

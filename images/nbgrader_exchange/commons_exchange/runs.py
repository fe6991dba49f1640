"""A submission's run that the course pays for: what is set aside before it, where it is executed, what is said when it is over.

The hub gives a formgrader `COMMONS_GRADING`, which says where: `container`, by the engine's helper, or `local`, under the portal's runner on this
machine. Without it (nbgrader in somebody's own session, which is paid for as such) there is no run of its own. Invariants: the run's id is
made before the portal is asked and the portal is asked before anything starts; where it says no, or what has to execute fails, nobody gets a grade.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from commons_exchange import bundles
from commons_exchange.cage import NoCage, Place
from commons_exchange.container_run import FAILED, GONE
from commons_exchange.portal import Portal, PortalError

GRADING: Final = "COMMONS_GRADING"
COURSE: Final = "COMMONS_COURSE"
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


class NotExecuted(NoCage):
    """Nothing was executed, or what executes broke down: nobody is graded by it. The text is for those who grade."""


@dataclass
class PaidRun:
    """One execution of one notebook. `assignment` and `student` are what the course's statement says of it."""

    site: Mapping[str, Any]
    course: str
    assignment: str
    student: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    failure: str = ""
    removed: bool = False  # its container was, and nobody here saw its end
    _folder: Path | None = None

    @classmethod
    def of_environment(cls, assignment: str, student: str) -> PaidRun | None:
        """The run that this process's course pays for; None where it has no course."""
        text = os.environ.get(GRADING, "")
        return cls(json.loads(text), os.environ[COURSE], assignment, student) if text else None

    @property
    def seconds(self) -> int:
        """Its longest time."""
        return int(self.site["runtime_s"])

    def set_aside(self) -> None:
        """Have its longest time held. Raises NotExecuted in the portal's words."""
        body = {"assignment": self.assignment, "student": self.student}
        try:
            Portal.of_session().json("PUT", f"{self._path}", body)
        except PortalError as error:
            raise NotExecuted(str(error)) from error

    def over(self) -> None:
        """Say that it is over, and note what broke down. Not being heard is no loss: the portal looks by itself."""
        if self._folder is not None:
            self.failure = _failure(self._folder, self.site["backend"])
            self.removed = (self._folder / GONE).exists()
        try:
            Portal.of_session().json("POST", f"{self._path}/ended", {})
        except PortalError:
            return

    def in_container(self, place: Place, kernel: Sequence[str], connection_file: Path) -> list[str]:
        """What to start instead of `kernel`: a process that has a container execute it, and ends with it."""
        self._folder = place.folder
        try:
            files = bundles.pack(place.work)
        except bundles.BundleError:  # a submission of a notebook alone
            files = b"\0" * 1024
        (place.folder / "files.tar").write_bytes(files)
        order = {
            "helper": self.site["helper"],
            "hold_id": self.id,
            "body": _named(self.site["body"], self.id),
            "seconds": self.seconds,
            "output_bytes": self.site["output_bytes"],
            "sockets": str(place.sockets),
            "argv": [_moved(word, str(place.sockets)) for word in kernel[1:]],
            "connection": json.loads(connection_file.read_text(encoding="utf-8")),
        }
        file = place.folder / "order.json"
        file.write_text(json.dumps(order), encoding="utf-8")
        return [sys.executable, "-m", "commons_exchange.container_run", str(file)]

    def under_runner(self, argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """What to start instead of `argv`: the portal's runner, which writes down when it really began and ended."""
        self._folder = Path(self.site["sessions"]) / self.id
        self._folder.mkdir(mode=0o700)
        order = {
            "hold_id": self.id,
            "user": "",
            "server_name": "",
            "profile": "grading",
            "argv": list(argv),
            "cwd": "/",
            "port": 0,
            "stop_grace_s": 0,
            "runtime_ms": self.seconds * 1000,
        }
        for name, content in (("order.json", order), ("environment.json", dict(environment))):
            path = self._folder / name
            path.touch(mode=0o600)
            path.write_text(json.dumps(content), encoding="utf-8")
        return [sys.executable, "-S", "-E", "-s", "-m", "spawners.runner", str(self._folder)]

    @property
    def working_folder(self) -> str:
        """Where the started process finds its own program."""
        return str(self.site["root"]) if self.site["backend"] == "local" else str(Path(__file__).resolve().parents[1])

    @property
    def _path(self) -> str:
        return f"/courses/{self.course}/gradings/{self.id}"


def end_with(grader_pid: int) -> None:
    """In the child, before it becomes its program: whoever grades may be killed, and nothing of a run goes on without them."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != grader_pid:  # killed before this was asked for
        os._exit(1)


def _failure(folder: Path, backend: str) -> str:
    """What broke down, and is no student's doing; empty where nothing did."""
    if backend == "container":
        file = folder / FAILED
        return file.read_text(encoding="utf-8") if file.exists() else ""
    if (folder / "record.json").exists():
        return ""
    log = folder / "log"
    said = log.read_text(errors="replace")[-500:] if log.exists() else ""
    shutil.rmtree(folder, ignore_errors=True)  # no folder is the evidence of no run
    return f"the runner did not start: {said}"


def _named(body: Mapping[str, Any], hold_id: str) -> dict[str, Any]:
    """The site's body with this run's hold in the place of the empty one."""
    labels = {name: hold_id if name.endswith(".hold") else value for name, value in body["Labels"].items()}
    return {**body, "Labels": labels}


def _moved(word: str, sockets: str) -> str:
    return "{connection_file}" if word.startswith(f"{sockets}/") else word

"""A course whose runs are paid for: the exchange and the ledger as a process, an instructor's folder, students who submit."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from commons_exchange.portal import Portal
from nbgrader.api import Gradebook

from hub.grading import grading_orders
from quota.store.database import open_database, url_for
from quota.store.verify import verify
from spawners import grading_spec
from spawners.grading_settings import GradingTable
from tests.bundles import tar
from tests.integration.course_directory import make_source, session_of, step, teacher
from tests.integration.course_exchange import SLUG
from tests.integration.exchange_process import ExchangeProcess, student
from tests.waiting import PATIENCE_S

CONFIG = "c = get_config()\nc.CourseDirectory.course_id = {slug!r}\nc.CourseDirectory.root = {root!r}\nc.ExecutePreprocessor.timeout = {timeout}\n"


class RunHold(NamedTuple):
    """A run's hold, as the database has it."""

    id: str
    state: str
    amount: int
    charged: int


@dataclass
class PaidCourse:
    """`grading` is what the hub would tell the course's formgrader."""

    exchange: ExchangeProcess
    course: Path
    grading: Mapping[str, Any]
    cell_s: int = 10
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def prepare(self) -> PaidCourse:
        """Release the assignment."""
        make_source(self.course)
        self.course.joinpath("nbgrader_config.py").write_text(
            CONFIG.format(slug=SLUG, root=str(self.course), timeout=self.cell_s)
        )
        with self.teaching():
            api = teacher(self.course, SLUG)
            assert api.generate_assignment("ps1")["success"]
            assert api.release_assignment("ps1")["success"]
        return self

    def submit(self, number: int, code: str) -> str:
        """A student's answer, through the exchange; the student's name."""
        name = student(number)
        content = nbformat.read(self.course / "release" / "ps1" / "ps1.ipynb", 4)
        next(cell for cell in content.cells if cell.metadata.get("nbgrader", {}).get("solution")).source = code
        work = tar({"ps1.ipynb": nbformat.writes(content).encode(), "data.txt": name.encode()})
        portal = Portal(self.exchange.url, f"token-of-{name}", self.course.parent / "pending" / name)
        self.receipts[name] = portal.upload(work, {"course": SLUG, "kind": "submission", "assignment": "ps1"})
        return name

    def collect(self) -> None:
        """Bring what was submitted into the course's folder."""
        with self.teaching():
            step(self.course, SLUG, "ps1", "Collect")

    def autograde(self, name: str) -> dict[str, Any]:
        """As the formgrader's page does it."""
        with self.teaching():
            api = teacher(self.course, SLUG)
            api.config.ExecutePreprocessor.timeout = self.cell_s
            done: dict[str, Any] = api.autograde("ps1", name, force=True, create=True)
            return done

    def autograding(self, name: str = "*") -> subprocess.Popen[bytes]:
        """nbgrader's command for one student or all, in a process of its own."""
        argv = [sys.executable, "-m", "nbgrader", "autograde", "ps1", f"--student={name}", "--force", "--create"]
        with self.teaching():
            return subprocess.Popen(
                argv, cwd=self.course, env={**os.environ, "JUPYTER_CONFIG_PATH": str(_config_folder())},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """The environment of the course's formgrader."""
        more = {"COMMONS_GRADING": json.dumps(self.grading), "COMMONS_COURSE": SLUG}
        before = {name: os.environ.get(name) for name in more}
        os.environ.update(more)
        try:
            with session_of(self.exchange.url, "token-of-pi", self.course):
                yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def score(self, name: str) -> float:
        """What the gradebook has."""
        with Gradebook(f"sqlite:///{self.course}/gradebook.db", SLUG) as gradebook:
            return float(gradebook.find_submission("ps1", name).score)

    def holds(self) -> list[RunHold]:
        """Every run's hold, oldest first."""
        with sqlite3.connect(f"file:{self.exchange.folder / 'quota' / 'quota.sqlite'}?mode=ro", uri=True) as connection:
            query = "SELECT id, state, amount, charged FROM hold WHERE kind = 'request' ORDER BY placed_us"
            return [RunHold(*row) for row in connection.execute(query)]

    def until_closed(self, within_s: float = PATIENCE_S) -> None:
        """Wait until no run's hold stands."""
        end = time.monotonic() + within_s
        while any(one.state == "held" for one in self.holds()):
            assert time.monotonic() < end, self.holds()
            time.sleep(0.1)

    def verified(self) -> list[object]:
        """What `commons verify` finds wrong."""
        database = open_database(url_for(self.exchange.folder))
        try:
            return list(verify(database))
        finally:
            database.close()


def _config_folder() -> Path:
    return Path(__file__).resolve().parents[2] / "images" / "nbgrader_exchange" / "config"


def local_grading(folder: Path, *, runtime_s: int = 30) -> dict[str, Any]:
    """What the hub tells a formgrader on a machine that grades in cages."""
    root = Path(grading_orders.__code__.co_filename).resolve().parents[1]
    return {
        "backend": "local",
        "sessions": str(folder / "sessions"),
        "root": str(root),
        "runtime_s": runtime_s,
        "memory_mib": 2048,
        "disk_mib": 256,
        "processes": 128,
    }


def container_grading(helper: Path, image: str, table: GradingTable) -> dict[str, Any]:
    """What the hub tells a formgrader where runs are containers."""
    return {
        "backend": "container",
        "helper": str(helper),
        "body": grading_spec.container_body("", image, table),
        "runtime_s": table.runtime,
        "output_bytes": table.output,
    }

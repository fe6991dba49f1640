"""The tests as suites, several side by side: most of their time is waiting for daemons, so two cores bear four lanes.

A lane takes the next suite when it has finished one, the longest first. Invariants: every suite runs, whatever the others said; one
container engine at a time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PARTS: Final = ("unit", "property", "integration", "browser", "security")
LANES: Final = 4
LONGEST_REASON: Final = 600  # characters of a failure that are said again at the end
_NO_TESTS_COLLECTED: Final = 5


@dataclass(frozen=True)
class Suite:
    """One run of pytest: what it is called, the part that it belongs to, and what it collects, as patterns below the checkout."""

    name: str
    part: str
    paths: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    engine: bool = False  # starts the container engine

    def argv(self, root: Path, extra: Sequence[str]) -> list[str]:
        """The command that runs it."""
        ignored = (f"--ignore={path}" for path in found(root, self.ignored))
        return [sys.executable, "-m", "pytest", "-q", *found(root, self.paths), *ignored, *extra]


def found(root: Path, patterns: Sequence[str]) -> list[str]:
    """The files and folders that the patterns name, in order."""
    return [str(path.relative_to(root)) for pattern in patterns for path in sorted(root.glob(pattern))]


_OWN: Final = {  # parts of tests/integration with a suite of their own
    "slurm": "tests/integration/slurm",
    "containers": "tests/integration/containers",
    "store": "tests/integration/store",
    "gateway": "tests/integration/test_gateway_*.py",
    "hub": "tests/integration/test_hub_*.py",
}

SUITES: Final = (  # the longest first
    Suite("slurm", "integration", (_OWN["slurm"],)),
    Suite("browser", "browser", ("tests/browser",), engine=True),
    Suite("integration", "integration", ("tests/integration",), tuple(_OWN.values())),
    Suite("hub", "integration", (_OWN["hub"],)),
    Suite("containers", "integration", (_OWN["containers"],), engine=True),
    Suite("store", "integration", (_OWN["store"],)),
    Suite("gateway", "integration", (_OWN["gateway"],)),
    Suite("security", "security", ("tests/security",)),
    Suite("unit", "unit", ("tests/unit",)),
    Suite("property", "property", ("tests/property",)),
)


@dataclass(frozen=True)
class Result:
    """How one suite ended, how long it took, and pytest's line for each failure (none of a suite that spoke for itself)."""

    suite: Suite
    well: bool
    took_s: float
    failures: tuple[str, ...] = ()


@dataclass
class Run:
    """The chosen parts with pytest's own options, in this environment and folder."""

    root: Path
    extra: Sequence[str]
    environment: Mapping[str, str]
    suites: Sequence[Suite] = SUITES
    results: list[Result] = field(default_factory=list)
    _voice: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _engine_is_taken: bool = False

    def parts(self, parts: Sequence[str]) -> list[Result]:
        """Run them; a single suite speaks for itself, of several each line says whose it is."""
        waiting = [suite for suite in self.suites if suite.part in parts]
        if len(waiting) == 1:
            self._run(waiting[0], self._call)
            return self.results
        threads = [threading.Thread(target=self._lane, args=(waiting,)) for _ in range(LANES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.results

    def _lane(self, waiting: list[Suite]) -> None:
        while (suite := self._taken(waiting)) is not None:
            self._run(suite, self._call_prefixed)
            with self._turn:
                self._engine_is_taken = self._engine_is_taken and not suite.engine
                self._turn.notify_all()

    def _taken(self, waiting: list[Suite]) -> Suite | None:
        """The next suite that may begin, waiting for the engine where only its suites are left; None when all have begun."""
        with self._turn:
            while waiting:
                for suite in waiting:
                    if not (suite.engine and self._engine_is_taken):
                        waiting.remove(suite)
                        self._engine_is_taken = self._engine_is_taken or suite.engine
                        return suite
                self._turn.wait()
            return None

    def _run(self, suite: Suite, call: Callable[[Suite, list[str]], int]) -> None:
        began_s = time.monotonic()
        failures: list[str] = []
        code = call(suite, failures)
        self.results.append(
            Result(suite, code in (0, _NO_TESTS_COLLECTED), time.monotonic() - began_s, tuple(failures))
        )

    def _call(self, suite: Suite, _failures: list[str]) -> int:
        argv = suite.argv(self.root, self.extra)
        return subprocess.run(argv, cwd=self.root, env=dict(self.environment), check=False).returncode

    def _call_prefixed(self, suite: Suite, failures: list[str]) -> int:
        argv = suite.argv(self.root, self.extra)
        with subprocess.Popen(
            argv,
            cwd=self.root,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if line.startswith(("FAILED ", "ERROR ")):  # of pytest's short summary
                    failures.append(line.strip()[:LONGEST_REASON])
                with self._voice:
                    print(f"{suite.name:>11} | {line}", end="", flush=True)
        return run.returncode

"""The tests in two lanes side by side: most of their time is waiting for daemons, so two cores bear both.

Invariants: every suite of a lane runs, whatever the others said. One container engine at a time: all that need it are in one lane.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PARTS: Final = ("unit", "property", "integration", "browser", "security")
_DAEMONS: Final = ("tests/integration/slurm", "tests/integration/containers")
_NO_TESTS_COLLECTED: Final = 5


@dataclass(frozen=True)
class Suite:
    """One run of pytest: what it is called, the part that it belongs to, and what it collects."""

    name: str
    part: str
    paths: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def argv(self, extra: Sequence[str]) -> list[str]:
        """The command that runs it."""
        return [sys.executable, "-m", "pytest", "-q", *self.paths, *(f"--ignore={one}" for one in self.ignored), *extra]


LANES: Final = (
    (Suite("integration", "integration", ("tests/integration",), _DAEMONS),),
    (
        Suite("engines", "integration", _DAEMONS),
        Suite("browser", "browser", ("tests/browser",)),
        Suite("unit", "unit", ("tests/unit",)),
        Suite("security", "security", ("tests/security",)),
        Suite("property", "property", ("tests/property",)),
    ),
)


@dataclass(frozen=True)
class Result:
    """How one suite ended, and how long it took."""

    suite: Suite
    well: bool
    took_s: float


@dataclass
class Run:
    """The chosen parts with pytest's own options, in this environment and folder."""

    root: Path
    extra: Sequence[str]
    environment: Mapping[str, str]
    lanes: tuple[tuple[Suite, ...], ...] = LANES
    results: list[Result] = field(default_factory=list)
    _voice: threading.Lock = field(default_factory=threading.Lock)

    def parts(self, parts: Sequence[str]) -> list[Result]:
        """Run them; a single lane speaks for itself, of two each line says whose it is."""
        lanes = [chosen for lane in self.lanes if (chosen := [suite for suite in lane if suite.part in parts])]
        if len(lanes) == 1:
            self._lane(lanes[0], aloud=True)
        else:
            threads = [threading.Thread(target=self._lane, args=(lane,), kwargs={"aloud": False}) for lane in lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return self.results

    def _lane(self, suites: Sequence[Suite], *, aloud: bool) -> None:
        for suite in suites:
            began_s = time.monotonic()
            code = self._call(suite) if aloud else self._call_prefixed(suite)
            well = code in (0, _NO_TESTS_COLLECTED)
            self.results.append(Result(suite, well, time.monotonic() - began_s))

    def _call(self, suite: Suite) -> int:
        argv = suite.argv(self.extra)
        return subprocess.run(argv, cwd=self.root, env=dict(self.environment), check=False).returncode

    def _call_prefixed(self, suite: Suite) -> int:
        argv = suite.argv(self.extra)
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
                with self._voice:
                    print(f"{suite.name:>11} | {line}", end="", flush=True)
        return run.returncode

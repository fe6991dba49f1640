"""`./commons check`, `./commons test` and `./commons bench`: named steps, one line each with the time it took.

Invariant: a step that could not run failed. Every step runs, whatever the others said; the exit status is 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import daemons, dependency_audit, documents, lanes
from tests.bench import runner

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Step:
    """One named check; returns the lines to show where it failed, and None where all is well."""

    name: str
    run: Callable[[], list[str] | None]


def program(name: str, *argv: str) -> Step:
    """A step that is a program of the virtual environment: exit 0 is well."""

    def run() -> list[str] | None:
        done = subprocess.run([str(BIN / argv[0]), *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else (done.stdout + done.stderr).splitlines()

    return Step(name, run)


def check_steps(*, audit: bool = False) -> list[Step]:
    """What `check` runs."""
    return [
        program("lint", "ruff", "check", ".", "commons"),
        program("format", "ruff", "format", "--check", ".", "commons"),
        program("types", "mypy"),
        program("import rules", "lint-imports", "--no-logo"),
        Step("templates", lambda: documents.broken_templates(ROOT) or None),
        Step("links in the documentation", lambda: documents.broken_links(ROOT) or None),
        Step("known vulnerabilities", lambda: dependency_audit.step(ROOT, strict=audit)),
    ]


def check(arguments: Sequence[str]) -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(prog="./commons check")
    parser.add_argument("--audit", action="store_true", help="known vulnerabilities fail it, too (before a release)")
    options = parser.parse_args(arguments)
    failed = 0
    for step in check_steps(audit=options.audit):
        began_s = time.monotonic()
        lines = step.run()
        failed += lines is not None
        for line in lines or ():
            print(f"    {line}")
        tell(step.name, lines is None, began_s)
    return 1 if failed else 0


def tell(name: str, well: bool, began_s: float) -> None:
    """Print a step's one line."""
    print(f"{'ok    ' if well else 'FAILED'} {name} ({time.monotonic() - began_s:.1f} s)", flush=True)


def test(arguments: Sequence[str]) -> int:
    """Run the tests, suites side by side: each one's output, then its time, then, last, every failure again in a line."""
    own, extra = split_at_dashes(arguments)
    parser = argparse.ArgumentParser(prog="./commons test", epilog="Options after -- go to pytest.")
    named = ", ".join(lanes.PARTS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {named}; all where none is named")
    parser.add_argument("--full", action="store_true", help="also the large counts")
    options = parser.parse_args(own)
    for part in options.parts:
        if part not in lanes.PARTS:
            parser.error(f"{part}: parts are {named}")
    parts = options.parts or list(lanes.PARTS)
    if not daemons.ensure(parts):
        return 1
    if daemons.ENGINE_PARTS & set(parts) and not prepare_engine() and "CI" in os.environ:
        return 1
    environment = {**os.environ, **({"COMMONS_FULL": "1"} if options.full else {})}
    results = lanes.Run(ROOT, extra, environment).parts(parts)
    print()
    for one in results:
        print(f"{'ok    ' if one.well else 'FAILED'} tests: {one.suite.name} ({one.took_s:.1f} s)", flush=True)
    for one in results:
        for failure in one.failures:
            print(f"       {failure}", flush=True)
    return 0 if all(one.well for one in results) else 1


def prepare_engine() -> bool:
    """Have the container engine's programs and images: made once, kept outside the clone. In a process of its own, with its output."""
    return subprocess.run([sys.executable, "-m", "tests.engine.prepare"], cwd=ROOT, check=False).returncode == 0


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after `--`."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first word names."""
    return {"check": check, "test": test, "bench": runner.main}[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Finds the benchmarks (`tests/bench/bench_NAME.py`, each with `main(argv) -> BenchResult`) and runs them.

Invariant: the last line printed for a benchmark is its JSON object; the exit status is 1 where a goal was missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.result import BenchResult

FOLDER = Path(__file__).resolve().parent
PREFIX = "bench_"


def names(folder: Path = FOLDER) -> list[str]:
    """The benchmarks that there are."""
    return sorted(path.stem.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*.py"))


def main(arguments: Sequence[str]) -> int:
    """Run the named benchmark, or all of them."""
    found = names()
    parser = argparse.ArgumentParser(prog="./commons bench", epilog=f"Benchmarks: {', '.join(found)}")
    parser.add_argument("name", nargs="?", metavar="NAME", help="all where none is named")
    options, rest = parser.parse_known_args(arguments)
    if options.name is not None and options.name not in found:
        parser.error(f"{options.name}: there are {', '.join(found)}")
    sys.path.append(str(FOLDER.parent.parent / "images" / "nbgrader_exchange"))  # as pytest has it
    met = True
    for name in [options.name] if options.name is not None else found:
        result: BenchResult = importlib.import_module(f"tests.bench.{PREFIX}{name}").main(rest)
        print(result.table())
        print(result.line(), flush=True)
        met = met and result.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

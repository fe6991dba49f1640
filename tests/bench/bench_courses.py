"""A course's load on one portal: collecting and listing 300 submissions, 30 uploads at once, and what isolation costs autograding.

Invariant: the exchange is a process of its own, its clients are those of the sessions, over HTTP. Autograding is measured twice: the whole command
for a class (tests/bench/course_autograde.py), whose goal is the issue's, and the execution of one notebook (tests/bench/course_grading.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from commons_exchange.portal import Portal

from tests.bench import course_autograde, course_grading
from tests.bench.course_site import GradingSite, container_site
from tests.bench.result import BenchResult, Better, Goal
from tests.bundles import tar
from tests.engine import debs
from tests.integration.course_directory import make_source, session_of, step
from tests.integration.exchange_process import ExchangeProcess, student

SUBMISSIONS, UPLOADS, UPLOAD_BYTES = 300, 30, 5_000_000
ORDER = {"course": "physics", "kind": "submission", "assignment": "ps1"}


def main(arguments: Sequence[str]) -> BenchResult:
    argparse.ArgumentParser(prog="./commons bench courses", description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-courses-") as place:
        folder = Path(place)
        exchange = ExchangeProcess(folder / "portal", SUBMISSIONS)
        exchange.folder.mkdir()
        exchange.start()
        try:
            collected_s = _collecting(exchange, folder)
            uploads_s, errors = _uploading(exchange, folder)
        finally:
            exchange.kill()
        with ExitStack() as stack:
            site: GradingSite | None = None
            try:
                site = stack.enter_context(container_site(folder / "site", course_autograde.STUDENTS))
            except debs.NoEngine as error:
                print(f"without containers: {error}", flush=True)
            whole = course_autograde.measure(folder / "whole", site)
            execution = course_grading.measure(folder / "execution", site)
    goals = [
        Goal("collect and list 300 submissions, s", collected_s, 5, Better.LOWER),
        Goal("errors of 30 uploads of 5 MB at once", errors, 0, Better.LOWER),
        *_goals("autograde of a submission", whole),
        *_goals("execution of a notebook", execution),
    ]
    figures = {
        "30 uploads of 5 MB, s": uploads_s,
        "plain autograde of a submission, s": whole["plain_s"],
        "plain execution of a notebook, s": execution["plain_s"],
    }
    return BenchResult("courses", goals, {**figures})


def _goals(what: str, found: Mapping[str, float]) -> list[Goal]:
    ways = [way for way in ("caged", "contained") if way in found]
    return [Goal(f"{way} {what} / plain nbgrader", found[way], 1.5, Better.LOWER) for way in ways]


def _portal(exchange: ExchangeProcess, name: str, folder: Path) -> Portal:
    return Portal(exchange.url, f"token-of-{name}", folder / "pending" / name)


def _collecting(exchange: ExchangeProcess, folder: Path) -> float:
    course = folder / "course"
    make_source(course)
    notebook = (course / "source" / "ps1" / "ps1.ipynb").read_bytes()
    _portal(exchange, "pi", folder).upload(tar({"ps1.ipynb": notebook}), {**ORDER, "kind": "release"})

    def submit(number: int) -> None:
        work = tar({"ps1.ipynb": notebook, "notes.txt": str(number).encode() * 1000})
        _portal(exchange, student(number), folder).upload(work, ORDER)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(submit, range(SUBMISSIONS)))
    with session_of(exchange.url, "token-of-pi", course):
        began = time.monotonic()
        step(course, "physics", "ps1", "Collect")
        listed, _ = step(course, "physics", "ps1", "List", inbound=True)
        took_s = time.monotonic() - began
    found = len(list((course / "submitted").glob("*/ps1/timestamp.txt")))
    assert len(listed) == found == SUBMISSIONS, (len(listed), found)
    return took_s


def _uploading(exchange: ExchangeProcess, folder: Path) -> tuple[float, int]:
    def upload(number: int) -> bool:
        work = tar({"ps1.ipynb": b"{}", "data": bytes([number]) * UPLOAD_BYTES})
        return bool(_portal(exchange, student(number), folder).upload(work, ORDER)["sha256"])

    began = time.monotonic()
    with ThreadPoolExecutor(UPLOADS) as pool:
        sent = [pool.submit(upload, number) for number in range(UPLOADS)]
    errors = sum(one.exception() is not None for one in sent)
    return time.monotonic() - began, errors

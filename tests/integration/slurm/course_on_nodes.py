"""A course of a whole portal whose student's notebook is a job, and nbgrader's own commands in it."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from commons_exchange.portal import Portal as Exchange

from tests.bundles import tar
from tests.people import Kernel, Person
from tests.portal import ROOT, Portal
from tests.waiting import PATIENCE_S
from tests.world import awarded_project

NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
NBGRADER = """
import os, subprocess
done = subprocess.run({words!r}, cwd=os.environ["HOME"], capture_output=True, text=True, env={{**os.environ, **{more!r}}})
print(done.returncode, done.stdout, done.stderr)
"""


def commons_course(portal: Portal, *words: str, people: str = "") -> None:
    """`./commons course …`, as the site's operator types it."""
    argv = [str(ROOT / "commons"), "course", "--data", str(portal.data), *words]
    done = subprocess.run(argv, input=people, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (done.stdout, done.stderr)


async def course_with(teacher: Person, student: str, folder: Path) -> str:
    """A course of `teacher`'s with one student and an assignment that is out; its project's id."""
    async with Person(teacher.portal, "admin") as admin:
        project = await awarded_project(teacher, admin, gpu_hours="10", tokens=1000)
    when = ("--starts", "2026-01-01 00:00", "--ends", "2030-01-01 00:00", "--zone", "UTC")
    share = ("--gpu-hours-each", "5", "--tokens-each", "100")
    named = ("create", "nodes", "--as", teacher.name, "--project", project, "--title", "On nodes")
    commons_course(teacher.portal, *named, *when, *share)
    commons_course(teacher.portal, "add-list", "nodes", "-", people=f"{student}\n")
    order = {"course": "nodes", "kind": "release", "assignment": "ps1"}
    exchange = Exchange(teacher.portal.url, teacher.token, folder / "uploads")
    await asyncio.to_thread(exchange.upload, tar({"ps1.ipynb": NOTEBOOK}), order)
    return project


async def nbgrader(kernel: Kernel, *words: str, **more: str) -> str:
    """What a command says in the session, after its exit status."""
    return await kernel.run(NBGRADER.format(words=["nbgrader", *words, "ps1", "--course=nodes"], more=more))


def receipt_of(said: str) -> tuple[str, str]:
    """The submission's id and the hash of what arrived, as nbgrader's command shows them."""
    found = re.search(r"receipt ([0-9a-f]+), SHA-256 ([0-9a-f]{64})", said)
    assert found, said
    return found[1], found[2]

"""What isolation costs the execution of a notebook, which is one part of autograding: in a cage and in a container against plain nbgrader.

Invariant: plain, caged and contained executions alternate within a round; the ratio of each round counts, so that a machine that gets slower
slows all of them. A container's time holds its hold, its making, its start, its kernel's, and its end; removing it comes later, as on a portal.
A cage here is that of somebody's own session, which nothing is held for.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from commons_exchange.isolated import CagedExecute
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.preprocessors import Execute

from tests.bench.course_site import GradingSite
from tests.integration.course_directory import session_of
from tests.integration.course_exchange import SLUG

ROUNDS = 7
Figures = dict[str, float]


def measure(folder: Path, site: GradingSite | None, rounds: int = ROUNDS) -> Figures:
    """`plain_s` of a notebook, `caged` and, with a site, `contained` as multiples of it: medians of the rounds."""
    ways: dict[str, Callable[[], float]] = {
        "plain": lambda: _run(Execute, folder),
        "caged": lambda: _run(CagedExecute, folder),
    }
    if site is not None:
        ways["contained"] = lambda: _contained(site, folder)
    for way in ways.values():
        way()  # whatever is loaded once
    return ratios([{name: way() for name, way in ways.items()} for _ in range(rounds)])


def ratios(found: list[Figures]) -> Figures:
    """Of the rounds' seconds: the median of `plain_s`, and of each other way's multiple of it."""
    others = {name: median(one[name] / one["plain"] for one in found) for name in found[0] if name != "plain"}
    return {"plain_s": median(one["plain"] for one in found), **others}


def _run(kind: type[Execute], folder: Path) -> float:
    """Execute one notebook of ten cells; seconds."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(f"import json\nx = {number}\nassert x == {number}") for number in range(10)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    resources = {"metadata": {"path": str(work)}, "nbgrader": {"assignment": "ps1", "student": "student000"}}
    began = time.monotonic()
    done, _ = kind().preprocess(notebook, resources)
    took_s = time.monotonic() - began
    assert not any(one.output_type == "error" for cell in done.cells for one in cell.outputs), done.cells
    return took_s


def _contained(site: GradingSite, folder: Path) -> float:
    os.environ["COMMONS_GRADING"], os.environ["COMMONS_COURSE"] = json.dumps(site.grading), SLUG
    try:
        with session_of(site.exchange.url, "token-of-pi", folder):
            return _run(CagedExecute, folder)
    finally:
        del os.environ["COMMONS_GRADING"], os.environ["COMMONS_COURSE"]

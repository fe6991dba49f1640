"""What isolation costs autograding: a notebook in a cage, and in a container where an engine can be had here, against plain nbgrader.

Invariant: plain, caged and contained executions alternate within a round; the ratio of each round counts, so that a machine that gets slower
slows all of them. A container's time holds its making, its start, its kernel's, and its end; removing it comes later, as on a portal.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from commons_exchange.isolated import CagedExecute
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.preprocessors import Execute

from spawners import grading_spec
from spawners.settings import load
from tests.engine import debs
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.site import ContainerSite
from tests.integration.course_directory import session_of
from tests.integration.course_exchange import SLUG
from tests.integration.exchange_process import ExchangeProcess

ROUNDS = 7
Figures = dict[str, float]


def measure(rounds: int = ROUNDS) -> Figures:
    """`plain_s` of a notebook, `caged` and, with an engine, `contained` as multiples of it: medians of the rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-grading-") as place, ExitStack() as stack:
        folder = Path(place)
        ways: dict[str, Callable[[], float]] = {
            "plain": lambda: _run(Execute, folder),
            "caged": lambda: _run(CagedExecute, folder),
        }
        try:
            contained = stack.enter_context(_containers(folder))
        except debs.NoEngine as error:
            print(f"without containers: {error}", flush=True)
        else:
            ways["contained"] = contained
        for way in ways.values():
            way()  # whatever is loaded once
        found = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    ratios = {name: median(one[name] / one["plain"] for one in found) for name in ways if name != "plain"}
    return {"plain_s": median(one["plain"] for one in found), **ratios}


def _run(kind: type[Execute], folder: Path) -> float:
    """Execute one notebook of ten cells; seconds."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    cells = [new_code_cell(f"import json\nx = {number}\nassert x == {number}") for number in range(10)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    resources = {"metadata": {"path": str(work)}, "nbgrader": {"assignment": "ps1", "student": "student000"}}
    began = time.monotonic()
    done, _ = kind().preprocess(notebook, resources)
    took_s = time.monotonic() - began
    assert not any(one.output_type == "error" for cell in done.cells for one in cell.outputs), done.cells
    return took_s


@contextmanager
def _containers(folder: Path) -> Iterator[Callable[[], float]]:
    """One engine with its helper, and the exchange that pays. Raises NoEngine."""
    engine = Engine()
    with ExitStack() as stack:
        stack.callback(engine.stop)
        engine.start()
        stack.enter_context(engine.namespace.inside())
        client = engine.client(timeout_s=600)
        stack.callback(client.close)
        site = ContainerSite(engine, Images(client, engine.home).base())
        stack.callback(site.stop)
        site.load_rules(1, 2)
        site.start()
        settings = load(site.portal_file)
        exchange = ExchangeProcess(folder / "portal", 1, runtime_s=settings.grading.runtime, helper=str(site.helper))
        exchange.folder.mkdir()
        exchange.start()
        stack.callback(exchange.kill)
        grading = {
            "backend": "container",
            "helper": str(site.helper),
            "body": grading_spec.container_body("", settings.grading_image, settings.grading),
            "runtime_s": settings.grading.runtime,
            "output_bytes": settings.grading.output,
        }

        def contained() -> float:
            os.environ["COMMONS_GRADING"], os.environ["COMMONS_COURSE"] = json.dumps(grading), SLUG
            try:
                with session_of(exchange.url, "token-of-pi", folder):
                    return _run(CagedExecute, folder)
            finally:
                del os.environ["COMMONS_GRADING"], os.environ["COMMONS_COURSE"]

        yield contained

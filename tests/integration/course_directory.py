"""A course's folder for nbgrader, with one assignment whose hidden tests are real, and nbgrader's own interface over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from commons_exchange.configure import configure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.auth import Authenticator
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange.exchange_factory import ExchangeFactory
from traitlets.config import Config

SOLUTION = """def square(x):
    ### BEGIN SOLUTION
    return x * x
    ### END SOLUTION
"""
HIDDEN = """assert square(3) == 9
### BEGIN HIDDEN TESTS
assert square(-1234) == 1522756  # canary-of-the-hidden-tests
### END HIDDEN TESTS
"""


def _graded(grade_id: str, source: str, **more: object) -> Any:
    marks = {"grade": False, "locked": False, "solution": False, "task": False, "schema_version": 3, **more}
    return new_code_cell(source, metadata={"nbgrader": {"grade_id": grade_id, **marks}})


def make_source(root: Path, assignment: str = "ps1") -> None:
    """Write the instructor's version: a function to write, and a test worth nine points."""
    cells = [
        new_markdown_cell("# Squares"),
        _graded("square", SOLUTION, solution=True),
        _graded("test-square", HIDDEN, grade=True, locked=True, points=9),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    folder = root / "source" / assignment
    folder.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{assignment}.ipynb")


def answered(notebook: Path, code: str) -> None:
    """Put `code` where the student's answer goes."""
    content = nbformat.read(notebook, 4)
    next(cell for cell in content.cells if cell.metadata.get("nbgrader", {}).get("solution")).source = code
    nbformat.write(content, notebook)


def course_config(root: Path, course: str) -> Config:
    config = Config()
    configure(config)
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.course_id = course
    config.CourseDirectory.db_url = f"sqlite:///{root}/gradebook.db"
    config.Exchange.assignment_dir = str(root)
    return config


@contextmanager
def session_of(url: str, token: str, home: Path) -> Iterator[None]:
    """What a session's environment says while nbgrader runs in it."""
    ours = {
        "COMMONS_PUBLIC_URL": url,
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # nbgrader calls alembic
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def teacher(root: Path, course: str) -> NbGraderAPI:
    """The instructor's nbgrader, as the formgrader's pages use it."""
    config = course_config(root, course)
    return NbGraderAPI(config=config)


def step(root: Path, course: str, assignment: str, name: str, **traits: object) -> Any:
    """Run one class of the exchange (`Submit`, `FetchAssignment`, `List`, …); what it returned, and the object."""
    config = course_config(root, course)
    config.CourseDirectory.assignment_id = assignment
    factory = ExchangeFactory(config=config)
    made = getattr(factory, name)(
        coursedir=CourseDirectory(config=config), authenticator=Authenticator(config=config), config=config, **traits
    )
    return made.start(), made

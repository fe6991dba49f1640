"""What all parts of the exchange share: the portal, the course, where an assignment lies, errors that people can read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dateutil.tz import gettz
from nbgrader.auth.base import BaseAuthPlugin
from nbgrader.exchange.abc import Exchange as AbstractExchange
from nbgrader.exchange.exchange_factory import ExchangeFactory
from nbgrader.utils import ignore_patterns
from traitlets import Bool

from commons_exchange import bundles
from commons_exchange.portal import Portal, PortalError

SUBMISSION_FILE = "commons_submission.txt"


class Exchange(AbstractExchange):
    """The portal as nbgrader's exchange."""

    path_includes_course = Bool(False, help="Whether assignments lie in a folder named after their course.").tag(
        config=True
    )

    @cached_property
    def portal(self) -> Portal:
        return Portal.of_session()

    @property
    def course(self) -> str:
        """The course's path in the interface."""
        if not self.coursedir.course_id:
            self.fail("No course is named. Run it again with --course.")
        return f"/courses/{self.coursedir.course_id}"

    def start(self) -> Any:
        with self.readable():
            return super().start()

    @contextmanager
    def readable(self) -> Iterator[None]:
        """The portal's refusals as nbgrader's; JupyterLab's list hides the text of ExchangeError, so there it stays our own."""
        try:
            yield
        except (PortalError, bundles.BundleError) as error:
            self.log.error(str(error))
            if isinstance(self.parent, ExchangeFactory):
                raise
            self.fail(str(error))

    def home_of(self, course: str, assignment: str) -> Path:
        """Where a student's copy of an assignment lies."""
        root = Path(self.assignment_dir).absolute()
        return root / course / assignment if self.path_includes_course else root / assignment

    def packed(self, folder: Path) -> bytes:
        """A folder's files as a bundle, without what the course leaves out."""
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "files"
            left_out = ignore_patterns(
                exclude=self.coursedir.ignore,
                include=self.coursedir.include,
                max_file_size=self.coursedir.max_file_size,
                log=self.log,
            )
            shutil.copytree(folder, target, ignore=left_out)
            return bundles.pack(target)

    def shown(self, instant: str) -> str:
        """An instant of the portal's as nbgrader writes timestamps."""
        at = datetime.fromisoformat(instant.replace("Z", "+00:00"))
        return at.astimezone(gettz(self.timezone)).strftime(self.timestamp_format)


class PortalAuth(BaseAuthPlugin):
    """Who is in which course, as the portal says of the token's owner; nbgrader's own lists are not asked."""

    def get_student_courses(self, student_id: str) -> list[str]:
        return [one["course"] for one in Portal.of_session().json("GET", "/courses")["courses"]]

    def add_student_to_course(self, student_id: str, course_id: str) -> None:
        """People join a course in the portal."""

    def remove_student_from_course(self, student_id: str, course_id: str) -> None:
        """People leave a course in the portal."""

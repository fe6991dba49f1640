"""What is out and what was handed in, in the form that nbgrader's pages and commands read."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nbgrader.exchange.abc import ExchangeList as AbstractList

from commons_exchange.exchange import Exchange

Info = dict[str, Any]
FEEDBACK_MARK = ".commons-feedback"


class ExchangeList(Exchange, AbstractList):
    def init_src(self) -> None:
        courses = self.portal.json("GET", "/courses")["courses"]
        wanted = self.coursedir.course_id
        self.courses = [one["course"] for one in courses if wanted in ("", one["course"])]

    def init_dest(self) -> None: ...

    def copy_files(self) -> None: ...

    def list_files(self) -> list[Info]:
        found = self._submitted() if self.inbound or self.cached else self._released()
        for one in found:
            for info in one.get("submissions", [one]):
                self.log.info(
                    " ".join(
                        str(info.get(key, "")) for key in ("course_id", "student_id", "assignment_id", "timestamp")
                    )
                )
        return found

    def remove_files(self) -> list[Info]:
        if self.inbound or self.cached:
            self.fail("Submissions are kept; nobody removes them.")
        found = self._released()
        for one in found:
            self.portal.json("POST", f"/courses/{one['course_id']}/assignments/{one['assignment_id']}/withdraw")
        return [{**one, "status": "removed"} for one in found]

    def _released(self) -> list[Info]:
        found = []
        for course in self.courses:
            for one in self.portal.json("GET", f"/courses/{course}/assignments")["assignments"]:
                if self._wanted(one["assignment"], self.coursedir.assignment_id):
                    found.append(self._assignment(course, one))
        return found

    def _assignment(self, course: str, one: Info) -> Info:
        folder = self.home_of(course, one["assignment"])
        fetched = folder.is_dir()
        names = sorted(path.stem for path in folder.glob("*.ipynb")) if fetched else one["notebooks"]
        return {
            "course_id": course,
            "assignment_id": one["assignment"],
            "status": "fetched" if fetched else "released",
            "path": str(folder),
            "due_at": one["due_at"],
            "notebooks": [{"notebook_id": name, "path": str(folder / f"{name}.ipynb")} for name in names],
        }

    def _submitted(self) -> list[Info]:
        groups: dict[tuple[str, str, str], list[Info]] = defaultdict(list)
        me = self.portal.json("GET", "/courses")["hub_name"]
        for course in self.courses:
            for one in self.portal.json("GET", f"/courses/{course}/submissions")["submissions"]:
                mine = self.inbound or one["student"] == me
                named = self._wanted(one["assignment"], self.coursedir.assignment_id)
                if mine and named and self._wanted(one["student"], self.coursedir.student_id):
                    groups[course, one["student"], one["assignment"]].append(self._submission(course, one))
        return [
            {
                "course_id": course,
                "student_id": student,
                "assignment_id": assignment,
                "status": "submitted",
                "submissions": submissions,
            }
            for (course, student, assignment), submissions in sorted(groups.items())
        ]

    def _submission(self, course: str, one: Info) -> Info:
        timestamp = self.shown(one["received_at"])
        folder = self.home_of(course, one["assignment"]) / "feedback" / timestamp
        here = (folder / FEEDBACK_MARK).read_text(encoding="utf-8") if (folder / FEEDBACK_MARK).is_file() else None
        there = None if one["feedback"] is None else one["feedback"]["sha256"]
        state = {
            "has_local_feedback": here is not None,
            "has_exchange_feedback": there is not None,
            "feedback_updated": None not in (here, there) and here != there,
        }
        return {
            "course_id": course,
            "student_id": one["student"],
            "assignment_id": one["assignment"],
            "submission_id": one["submission_id"],
            "timestamp": timestamp,
            "late": one["late"],
            "status": "submitted",
            "path": str(folder.parent.parent),
            "local_feedback_path": None if here is None else str(folder),
            "notebooks": [self._notebook(name, folder, state) for name in one["notebooks"]],
            **state,
        }

    def _notebook(self, name: str, folder: Path, state: Info) -> Info:
        page = folder / f"{name}.html"
        local = str(page) if page.is_file() else None
        return {
            "notebook_id": name,
            "path": str(folder.parent.parent / f"{name}.ipynb"),
            "local_feedback_path": local,
            **state,
        }

    @staticmethod
    def _wanted(name: str, pattern: str) -> bool:
        return fnmatchcase(name, pattern or "*")

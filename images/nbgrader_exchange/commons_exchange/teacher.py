"""What instructors and graders do: release, collect, give feedback with grades."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, MissingEntry, Student
from nbgrader.exchange.abc import ExchangeCollect as AbstractCollect
from nbgrader.exchange.abc import ExchangeReleaseAssignment as AbstractRelease
from nbgrader.exchange.abc import ExchangeReleaseFeedback as AbstractFeedback
from nbgrader.utils import parse_utc

from commons_exchange import bundles
from commons_exchange.exchange import SUBMISSION_FILE, Exchange

_AT_ONCE = 4


class ExchangeReleaseAssignment(Exchange, AbstractRelease):
    def init_src(self) -> None:
        name = self.coursedir.assignment_id
        self.src_path = Path(self.coursedir.format_path(self.coursedir.release_directory, ".", name))
        if not self.src_path.is_dir():
            self.fail(f"There is no {self.src_path}. Run `nbgrader generate_assignment {name}` first.")

    def init_dest(self) -> None:
        name = self.coursedir.assignment_id
        listed = self.portal.json("GET", f"{self.course}/assignments")["assignments"]
        if any(one["assignment"] == name for one in listed) and not self.force:
            self.fail(f"{name} is out already. Add --force to put this in its place.")

    def copy_files(self) -> None:
        order = {
            "course": self.coursedir.course_id,
            "kind": "release",
            "assignment": self.coursedir.assignment_id,
            "due_at": self._due_at(),
        }
        self.portal.upload(self.packed(self.src_path), order)
        self.log.info("Released as: %s %s", self.coursedir.course_id, self.coursedir.assignment_id)

    def _due_at(self) -> str | None:
        """The gradebook's due date, which nbgrader keeps in UTC without saying so."""
        with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as gradebook:
            try:
                due = gradebook.find_assignment(self.coursedir.assignment_id).duedate
            except MissingEntry:
                return None
        return None if due is None else due.replace(tzinfo=UTC).isoformat()


class ExchangeCollect(Exchange, AbstractCollect):
    def init_src(self) -> None:
        newest = "" if self.before_duedate else "&newest=1"
        path = f"{self.course}/submissions?assignment={self.coursedir.assignment_id}{newest}"
        student = self.coursedir.student_id
        self.found: dict[str, dict[str, Any]] = {}
        answer = self.portal.json("GET", path)
        self.names: dict[str, str] = answer.get("names", {})
        for one in answer["submissions"]:
            if student not in ("", "*", one["student"]):
                continue
            better = one["student"] not in self.found or not one["late"] or self.found[one["student"]]["late"]
            if better:  # in order of arrival: the last in time, else the last of all
                self.found[one["student"]] = one

    def init_dest(self) -> None: ...

    def copy_files(self) -> None:
        self.log.info("Processing %d submissions of %s", len(self.found), self.coursedir.assignment_id)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._collect, self.found.values()))
        self._name_students()

    def _name_students(self) -> None:
        """Give the gradebook the names that people have in the portal, where nobody has written one there."""
        with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as gradebook:
            known = {one.id: one for one in gradebook.students}
            for student in self.found:
                if student not in known:
                    known[student] = Student(id=student)
                    gradebook.db.add(known[student])
                if not known[student].first_name and not known[student].last_name and student in self.names:
                    known[student].first_name, _, known[student].last_name = self.names[student].rpartition(" ")
            gradebook.db.commit()  # one for all: nbgrader's own call makes one for each, 50 ms a student

    def _collect(self, one: dict[str, Any]) -> None:
        student, name = one["student"], self.coursedir.assignment_id
        if student in (".", "..") or "/" in student:
            self.fail(f"{student} is no name of a folder.")
        folder = Path(self.coursedir.format_path(self.coursedir.submitted_directory, student, name))
        timestamp = self.shown(one["received_at"])
        if folder.is_dir():
            there = self.coursedir.get_existing_timestamp(str(folder))
            newer = there is None or parse_utc(timestamp) > there
            if not ((self.update and newer) or (self.before_duedate and there != parse_utc(timestamp))):
                self.log.info("Collected already: %s %s", student, name)
                return
        content = self.portal.bundle(f"{self.course}/submissions/{one['submission_id']}/bundle")
        more = {"timestamp__txt": timestamp, SUBMISSION_FILE.replace(".", "__"): one["submission_id"]}
        bundles.replace(content, folder, **more)
        self.log.info("Collecting submission: %s %s", student, name)


class ExchangeReleaseFeedback(Exchange, AbstractFeedback):
    def init_src(self) -> None:
        name, student = self.coursedir.assignment_id, self.coursedir.student_id or "*"
        left_out = set((self.coursedir.student_id_exclude or "").split(","))
        pattern = Path(self.coursedir.format_path(self.coursedir.feedback_directory, student, name))
        root = Path(self.coursedir.root).absolute()
        folders = root.glob(str(pattern.absolute().relative_to(root)))
        self.folders = sorted(one for one in folders if one.is_dir() and one.parent.name not in left_out)

    def init_dest(self) -> None: ...

    def copy_files(self) -> None:
        for folder in self.folders:
            submission = (folder / SUBMISSION_FILE).read_text(encoding="utf-8").strip()
            order = {
                "course": self.coursedir.course_id,
                "kind": "feedback",
                "assignment": self.coursedir.assignment_id,
                "submission_id": submission,
            }
            self.portal.upload(bundles.pack(folder, "*.html"), order)
            self.log.info("Feedback released: %s", folder)
        self._send_grades({folder.parent.name for folder in self.folders})

    def _send_grades(self, students: set[str]) -> None:
        """What the gradebook has for those whose feedback is out."""
        name = self.coursedir.assignment_id
        with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as gradebook:
            lines = [
                {
                    "student": one.student.id,
                    "score_milli": round(one.score * 1000),
                    "max_milli": round(one.max_score * 1000),
                    "late_penalty_milli": round(one.late_submission_penalty * 1000),
                }
                for one in gradebook.assignment_submissions(name)
                if one.student.id in students
            ]
        if lines:
            self.portal.json("PUT", f"{self.course}/assignments/{name}/grades", {"grades": lines})

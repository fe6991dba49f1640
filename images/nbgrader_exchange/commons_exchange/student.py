"""What students do: fetch an assignment, submit their work, fetch feedback."""

from __future__ import annotations

from pathlib import Path

from nbgrader.exchange.abc import ExchangeFetchAssignment as AbstractFetch
from nbgrader.exchange.abc import ExchangeFetchFeedback as AbstractFeedback
from nbgrader.exchange.abc import ExchangeSubmit as AbstractSubmit

from commons_exchange import bundles
from commons_exchange.exchange import Exchange
from commons_exchange.listing import FEEDBACK_MARK


class ExchangeFetchAssignment(Exchange, AbstractFetch):
    def init_src(self) -> None:
        self.source = f"{self.course}/assignments/{self.coursedir.assignment_id}/bundle"

    def init_dest(self) -> None:
        self.dest_path = self.home_of(self.coursedir.course_id, self.coursedir.assignment_id)
        if self.dest_path.is_dir() and not self.replace_missing_files:
            self.fail(f"You have this assignment already, in {self.dest_path}.")

    def copy_files(self) -> None:
        bundles.unpack(self.portal.bundle(self.source), self.dest_path, only_missing=self.replace_missing_files)
        self.log.info("Fetched as: %s %s", self.coursedir.course_id, self.coursedir.assignment_id)


class ExchangeSubmit(Exchange, AbstractSubmit):
    def init_src(self) -> None:
        # nbgrader takes a path as an assignment, too
        self.src_path = self.home_of(self.coursedir.course_id, self.coursedir.assignment_id)
        self.coursedir.assignment_id = self.src_path.name
        if not self.src_path.is_dir():
            self.fail(f"There is no assignment in {self.src_path}. Fetch it first.")

    def init_dest(self) -> None:
        listed = self.portal.json("GET", f"{self.course}/assignments")["assignments"]
        names = next((one["notebooks"] for one in listed if one["assignment"] == self.coursedir.assignment_id), None)
        if names is None:
            self.fail(f"{self.coursedir.assignment_id} is not out in {self.coursedir.course_id}.")
        self.missing = sorted(set(names or ()) - {path.stem for path in self.src_path.glob("*.ipynb")})

    def copy_files(self) -> None:
        if self.missing:
            text = f"Not in {self.src_path}: {', '.join(f'{name}.ipynb' for name in self.missing)}."
            if self.strict:
                self.fail(f"Nothing was submitted. {text}")
            self.log.warning(text)
        order = {
            "course": self.coursedir.course_id,
            "kind": "submission",
            "assignment": self.coursedir.assignment_id,
        }
        receipt = self.portal.upload(self.packed(self.src_path), order)
        self.receipt = {**order, **receipt}
        self.log.info(
            "Submitted as: %s %s %s (receipt %s, SHA-256 %s)",
            self.coursedir.course_id,
            self.coursedir.assignment_id,
            self.shown(receipt["at"]),
            receipt["upload_id"],
            receipt["sha256"],
        )


class ExchangeFetchFeedback(Exchange, AbstractFeedback):
    def init_src(self) -> None:
        name = self.coursedir.assignment_id
        query = f"?assignment={name}" if name else ""
        me = self.portal.json("GET", "/courses")["hub_name"]
        listed = self.portal.json("GET", f"{self.course}/submissions{query}")["submissions"]
        self.found = [one for one in listed if one["feedback"] is not None and one["student"] == me]

    def init_dest(self) -> None: ...

    def copy_files(self) -> None:
        for one in self.found:
            home = self.home_of(self.coursedir.course_id, one["assignment"])
            folder: Path = home / "feedback" / self.shown(one["received_at"])
            content = self.portal.bundle(f"{self.course}/submissions/{one['submission_id']}/feedback")
            bundles.unpack(content, folder)
            (folder / FEEDBACK_MARK).write_text(one["feedback"]["sha256"], encoding="utf-8")
            self.log.info("Fetched feedback: %s", folder)
        if not self.found:
            self.log.warning("There is no feedback yet.")

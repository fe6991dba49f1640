"""`./commons course …`: courses of a running portal, through its quota service, in the name of a person who teaches there.

Invariant: holds no rule of its own: what a person may and what a list contains is decided by the service, whose words are printed.
Whoever reads the data folder's secrets is the operator, and acts in an instructor's name; the audit says whose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from deploy.onehost import ports
from deploy.onehost.calls import Answer, Silent, call, fetch
from deploy.onehost.console import CannotGoOn, report
from deploy.onehost.data_folder import DataFolder, read_holder
from deploy.onehost.ports import LOOPBACK
from deploy.onehost.up import ROOT

_ROOT: Final = "/services/quota/api/internal"
_DEADLINE_S: Final = 30.0


class Service:
    """The internal routes of one data folder's portal."""

    def __init__(self, data: DataFolder) -> None:
        inner, holder = ports.read(data.ports_file), read_holder(data.lock_file)
        if inner is None or holder is None:
            raise CannotGoOn(f"--data {data.path}: no portal runs there; ./commons up starts it")
        self._url = f"http://{LOOPBACK}:{inner['quota']}{_ROOT}"
        self._credential = data.secret("hub_credential")
        self.public_url = holder.url

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer's JSON. Raises CannotGoOn with the service's words for a refusal, and for silence."""
        try:
            answer = call(method, self._url + path, credential=self._credential, body=body, deadline_s=_DEADLINE_S)
        except Silent:
            raise CannotGoOn("the quota service does not answer; look at the portal's terminal") from None
        if answer.status < 300:
            return answer.json
        raise _refusal(answer)

    def fetch(self, path: str, target: Path) -> None:
        """A file's bytes into `target`. Raises CannotGoOn likewise."""
        try:
            answer = fetch(self._url + path, target, credential=self._credential, deadline_s=_DEADLINE_S)
        except Silent:
            raise CannotGoOn("the quota service broke off; nothing was written") from None
        if answer.status >= 300:
            raise _refusal(answer)

    def course(self, slug: str) -> Any:
        return self.ask("GET", f"/courses/{quote(slug, safe='')}")

    def actor(self, options: argparse.Namespace) -> str:
        """Who acts: the one named, else the course's first instructor."""
        if options.actor:
            return str(options.actor)
        people = self.course(options.slug)["people"]
        return str(next(one["hub_name"] for one in people if one["role"] == "instructor"))


def _refusal(answer: Answer) -> CannotGoOn:
    error = (answer.json or {}).get("error", {})
    fields = [f"{one['field']} {one['text']}" for one in error.get("params", {}).get("fields", [])]
    words = " ".join(str(error.get(name, "")) for name in ("message", "next")).strip()
    return CannotGoOn(words or f"the quota service answered {answer.status}", details=fields)


def create(service: Service, options: argparse.Namespace) -> int:
    """Make a project a course."""
    payers = service.ask("GET", f"/people/{quote(options.actor, safe='')}/payers")["payers"]
    project = next((one for one in payers if options.project in (one["slug"], one["project_id"])), None)
    if project is None:
        raise CannotGoOn(f"--project {options.project}: {options.actor} is in no such project")
    body = {
        "actor": options.actor,
        "project_id": project["project_id"],
        "title": options.title or project["title"],
        "starts_at": options.starts,
        "ends_at": options.ends,
        "zone": options.zone,
        "gpu_hours_each": options.gpu_hours_each,
        "tokens_each": options.tokens_each,
    }
    _print_course(service.ask("PUT", f"/courses/{quote(options.slug, safe='')}", body))
    return 0


def list_courses(service: Service, options: argparse.Namespace) -> int:
    """Every course with its dates and how many are in it."""
    for one in service.ask("GET", "/courses")["courses"]:
        _print_course(one)
        counts = {role: len(names) for role, names in one["people"].items()}
        print("  " + ", ".join(f"{count} {role}{'' if count == 1 else 's'}" for role, count in counts.items()))
    return 0


def people(service: Service, options: argparse.Namespace) -> int:
    """Who is in a course: user name, role, name."""
    for one in service.course(options.slug)["people"]:
        print(f"{one['hub_name']}\t{one['role']}\t{one['display_name']}")
    return 0


def invite(service: Service, options: argparse.Namespace) -> int:
    """Print a new link; the one before it is worth nothing any more."""
    body = {"actor": service.actor(options), "role": options.role}
    made = service.ask("POST", f"/courses/{quote(options.slug, safe='')}/invitations", body)
    print(f"{service.public_url}services/quota/{made['path']}")
    return 0


def add_list(service: Service, options: argparse.Namespace) -> int:
    """Enrol a list; exit 1 where lines have to be corrected, each named."""
    text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    body = {"actor": service.actor(options), "people": text}
    taken = service.ask("POST", f"/courses/{quote(options.slug, safe='')}/people", body)
    print(f"added {len(taken['added'])}, role changed {len(taken['changed'])}, in it already {len(taken['unchanged'])}")
    for one in taken["wrong"]:
        print(f"line {one['line']}: {one['text']}: {one['why']}", file=sys.stderr)
    return 1 if taken["wrong"] else 0


def export(service: Service, options: argparse.Namespace) -> int:
    """Write what the portal keeps of a course to a tar: people, receipts, grades as CSV, every bundle, sources, gradebook."""
    query = f"?actor={quote(service.actor(options), safe='')}"
    service.fetch(f"/courses/{quote(options.slug, safe='')}/export{query}", options.file)
    print(options.file)
    return 0


def retire(service: Service, options: argparse.Namespace) -> int:
    """End a course before its date."""
    path = f"/courses/{quote(options.slug, safe='')}/retire"
    _print_course(service.ask("POST", path, {"actor": service.actor(options)}))
    return 0


def _print_course(one: Mapping[str, Any]) -> None:
    dates = f"{one['starts_shown']} to {one['ends_shown']}"
    print(f"{one['slug']}\t{one['phase']}\t{dates}\t{one['title']}")


_COMMANDS: Final[Mapping[str, Callable[[Service, argparse.Namespace], int]]] = {
    "create": create,
    "list": list_courses,
    "people": people,
    "invite": invite,
    "add-list": add_list,
    "export": export,
    "retire": retire,
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse exits on a mistake."""
    parser = argparse.ArgumentParser(prog="./commons course", description="Courses of a running portal.")
    parser.add_argument("--data", type=Path, default=ROOT / ".commons" / "data", help="data folder (.commons/data)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in _COMMANDS.items():
        one = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        one.add_argument("--data", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name != "list":
            one.add_argument("slug", metavar="NAME")
        if name not in ("list", "people"):
            who = "who acts: the project's PI or co-PI" if name == "create" else "who acts (its first instructor)"
            one.add_argument("--as", dest="actor", default="", required=name == "create", metavar="USER", help=who)
        if name == "create":
            _create_options(one)
        elif name == "invite":
            one.add_argument("--role", choices=("student", "grader"), default="student")
        elif name == "export":
            one.add_argument("file", type=Path, metavar="FILE", help="where to write the tar")
        elif name == "add-list":
            one.add_argument("file", metavar="FILE", help="a user name a line, then optionally ,grader; - reads stdin")
    return parser.parse_args(arguments)


def _create_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", required=True, metavar="NAME", help="the project's short name or id")
    parser.add_argument("--title", default="", help="the project's title")
    parser.add_argument("--starts", required=True, metavar="TIME", help='a clock in the zone, "2026-09-01 09:00"')
    parser.add_argument("--ends", required=True, metavar="TIME")
    parser.add_argument("--zone", required=True, help="Europe/Berlin, Asia/Shanghai, UTC, …")
    parser.add_argument("--gpu-hours-each", default=None, metavar="N", help="every student's share")
    parser.add_argument("--tokens-each", type=int, default=None, metavar="N", help="every student's share")


def main(arguments: Sequence[str]) -> int:
    """Run the command; 1 where it was refused, with the reason."""
    options = parse(arguments)
    try:
        return _COMMANDS[options.command](Service(DataFolder(options.data.absolute())), options)
    except (CannotGoOn, OSError) as error:
        report(error if isinstance(error, CannotGoOn) else CannotGoOn(f"{error.filename}: {error.strerror}"))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

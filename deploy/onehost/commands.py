"""The `commons` command line: prepares the environment that a subcommand needs and then becomes that subcommand.

Invariant: standard library only. The process id that started is the one that serves (exec, no child in between), so a
signal to `./commons up` reaches the launcher itself.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deploy.onehost.bootstrap import Environment, prepare
from deploy.onehost.console import BEGAN_VARIABLE, CannotGoOn, Progress, report
from deploy.onehost.up import parse

HELP = """\
usage: ./commons COMMAND [options]

run the portal
  up [--data DIR] [--port N] [--ready-file FILE] [--no-model] [--containers [SOCKET]] [--demo-course]
                         start everything on this machine; Ctrl-C settles what runs and stops it;
                         --containers (as root): sessions in containers of this machine's engine, too;
                         --demo-course: an example course with nbgrader, ready to try

  gateway --port N [--host ADDRESS] [--data DIR]
                         a gateway process of its own, as many as you like, over the portal's PostgreSQL

teach (each takes --data DIR; the portal runs meanwhile)
  course create NAME --as USER --project NAME --title T --starts "2026-09-01 09:00" --ends … --zone Europe/Berlin
                         make a project a course; --gpu-hours-each N and --tokens-each N are every student's share
  course list | people NAME | invite NAME [--role grader] | add-list NAME FILE | retire NAME
                         see the courses, who is in one, make a link that joins it, enrol a list, end it early

look after the portal's books (each takes --data DIR)
  verify [--all]         re-prove every balance from the ledger's entries; exit 1 and the row named on a difference
  checkpoint             prove what came since the last checkpoint and sign a new one, from which verify then starts
  balance [--json]       what each allocation was awarded, charged, holds and has available
  export [--csv]         every statement line
  ledger export|hash|move|archive [--check]
                         the entries themselves: write them out, prove that two copies are equal, move to PostgreSQL,
                         keep each month that is over as a signed file, or prove such files
  migrate                bring the database to this version's tables

develop
  check                  lint, format, types, import rules, templates, links in the documentation
  test [unit property integration browser security] [--full] [-- pytest options]
                         run the tests; installs what they need; --full runs the large counts, too
  bench [NAME]           measure, against the goals

Data is kept in .commons/data where --data does not say otherwise.
"""

LEDGER_COMMANDS = ("gateway", "verify", "checkpoint", "balance", "export", "ledger", "migrate")
# Tests start portals with and without the model, some of them where no registry can be reached.
DEVELOPER_COMMANDS = {"check": ("test",), "test": ("run", "model", "test"), "bench": ("run", "model", "test")}
# The one benchmark that starts no portal and asks no model.
BENCHMARKS_WITHOUT_A_PORTAL = frozenset({"ledger"})


@dataclass(frozen=True)
class Call:
    """What the prepared environment is to run: a module with its arguments, and the requirements it needs."""

    module: str
    arguments: tuple[str, ...]
    requirements: tuple[str, ...]


def plan(arguments: Sequence[str]) -> Call:
    """Choose module and requirements of a command line that names a command. Raises CannotGoOn for a word that is none;
    that, and what `up` cannot read, is said before anything is installed."""
    command, rest = arguments[0], tuple(arguments[1:])
    if command == "up":
        return Call("deploy.onehost.up", rest, ("model",) if parse(rest).model else ("run",))
    if command == "course":
        return Call("deploy.onehost.course_command", rest, ("run",))
    if command in DEVELOPER_COMMANDS:
        without = command == "bench" and bool(rest) and rest[0] in BENCHMARKS_WITHOUT_A_PORTAL
        return Call("tests.commands", (command, *rest), ("test",) if without else DEVELOPER_COMMANDS[command])
    if command in LEDGER_COMMANDS or command.startswith("--data"):
        return Call("deploy.onehost.quota_command", (command, *rest), ("run",))
    raise CannotGoOn(f"there is no command {command!r}; ./commons --help lists them")


def main(root: Path, arguments: Sequence[str]) -> int:
    """Prepare and become the command; returns only where that failed, or for the help."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        call = plan(arguments)
    except CannotGoOn as error:
        report(error)
        return 2
    environment = Environment(root)
    progress = Progress()
    try:
        for requirements in call.requirements:
            prepare(environment, requirements, progress)
        _become(environment, call, progress)
    except CannotGoOn as error:
        report(error)
        return 1
    except OSError as error:
        report(CannotGoOn(f"{error.filename or 'the clone'}: {error.strerror}; mend this and run it again"))
        return 1
    except KeyboardInterrupt:
        print("commons: interrupted; run it again to go on where this stopped", file=sys.stderr)
        return 130


def _become(environment: Environment, call: Call, progress: Progress) -> NoReturn:
    path = os.environ.get("PYTHONPATH")
    env = {
        **os.environ,
        BEGAN_VARIABLE: str(progress.started_s),
        "PYTHONPATH": f"{environment.root}{os.pathsep}{path}" if path else str(environment.root),
        "PATH": f"{environment.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execve(environment.python, [str(environment.python), "-m", call.module, *call.arguments], env)  # noqa: S606


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

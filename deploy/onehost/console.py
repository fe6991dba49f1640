"""What the launcher prints: plain lines with the seconds that have passed, and one line for every error.

Invariant: standard library only, because it runs before anything is installed. An error that a person can mend is a
`CannotGoOn`: its text says what is wrong and what to do, in one line, and no traceback follows it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STILL_WORKING_S = 10.0
POLL_S = 0.1
# What an installer has to end by itself before the kernel ends it.
END_GRACE_S = 5.0
TAIL_LINES = 15
# Carries the start over the launcher's exec, so that the seconds go on; CLOCK_MONOTONIC is the same in every process.
BEGAN_VARIABLE = "COMMONS_BEGAN_S"


class CannotGoOn(Exception):
    """The command stops here; the text is the one line that the person reads."""

    def __init__(self, text: str, *, details: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.details = tuple(details)


@dataclass(frozen=True)
class Progress:
    """Prints lines led by the seconds since it was made."""

    started_s: float = field(default_factory=time.monotonic)

    @classmethod
    def resumed(cls) -> "Progress":
        """Go on counting where the program that became this one began."""
        began = os.environ.get(BEGAN_VARIABLE)
        return cls() if began is None else cls(float(began))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.started_s

    def say(self, text: str) -> None:
        """Print one line at once, also into a pipe. A reader that went away (a closed terminal) must not end a clean stop."""
        with contextlib.suppress(OSError):
            print(f"[{self.elapsed_s:6.1f} s] {text}", flush=True)


@dataclass(frozen=True)
class Step:
    """A program that does one part of the set-up, with its output kept in `log`."""

    what: str
    argv: Sequence[str | Path]
    log: Path
    cwd: Path
    env: Mapping[str, str] | None = None
    keep_fds: tuple[int, ...] = ()
    # Ends the step when it is set: a step in a thread of its own sees no Ctrl-C.
    stop: threading.Event = field(default_factory=threading.Event)


def run_step(step: Step, progress: Progress) -> None:
    """Run `step`, telling every ten seconds that it is still at work.

    Raises CannotGoOn with the last lines of its output where it fails. Interrupted, it first ends the program and what that
    started, so that nothing goes on writing into what the next run makes anew.
    """
    progress.say(f"{step.what} …")
    began_s = told_s = time.monotonic()
    step.log.parent.mkdir(parents=True, exist_ok=True)
    with step.log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in step.argv],
            cwd=step.cwd,
            env=None if step.env is None else dict(step.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=step.keep_fds,
            process_group=0,
        )
        try:
            while process.poll() is None:
                if step.stop.wait(POLL_S):
                    raise CannotGoOn(f"{step.what}: interrupted")
                if time.monotonic() - told_s >= STILL_WORKING_S:
                    told_s = time.monotonic()
                    progress.say(f"{step.what}: {told_s - began_s:.0f} s so far")
        except BaseException:
            _end_group(process)
            raise
    if process.returncode != 0:
        tail = last_lines(step.log)
        raise CannotGoOn(f"{step.what} failed (exit {process.returncode}); all of it: {step.log}", details=tail)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program that leads its own process group, with all of the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_lines(log: Path, count: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, empty where there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16_384))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:]


def report(error: CannotGoOn) -> None:
    """Print the details, if any, and then the one line."""
    for line in error.details:
        print(f"    {line}", file=sys.stderr)
    print(f"commons: {error}", file=sys.stderr, flush=True)

"""A network namespace for the engine and everything that talks to it; the machine's own is never touched.

`inside` moves the calling thread (setns(2)): what it starts from then on, threads and processes, is in there too.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_RUN: Final = Path("/run/netns")


@dataclass(frozen=True)
class Namespace:
    """A named network namespace with nothing in it but its loopback."""

    name: str

    @property
    def path(self) -> Path:
        return _RUN / self.name

    def make(self) -> None:
        self.remove()
        subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True, timeout=60)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True, capture_output=True, timeout=60)

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "del", self.name], check=True, capture_output=True, timeout=60)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run this thread in the namespace; back in the old one afterwards."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            yield
        finally:
            _setns(before)
            os.close(there)
            os.close(before)


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")

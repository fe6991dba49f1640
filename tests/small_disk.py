"""A small file system in a mount namespace of its own, to fill up or to make read-only; nobody else sees it.

As root, or as anyone where user namespaces are allowed. Processes enter it by the `entering` prefix; it is gone when its keeper ends.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """`folder` is its root, as seen by processes that entered."""

    folder: Path
    keeper: int

    def entering(self, uid: int | None = None, gid: int | None = None) -> list[str]:
        """What to put before a command; as another user where `uid` is given (root only)."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        other = [] if uid is None else [f"--setuid={uid}", f"--setgid={gid if gid is not None else uid}"]
        return ["nsenter", f"--target={self.keeper}", "--mount", *user, *other, "--"]

    def run(self, *argv: str) -> str:
        """Run a command in there; its output. Raises CalledProcessError."""
        return subprocess.run([*self.entering(), *argv], check=True, capture_output=True, text=True).stdout

    def read(self, name: str) -> bytes:
        """A file's content; nothing where there is no such file."""
        argv = [*self.entering(), "cat", str(self.folder / name)]
        return subprocess.run(argv, check=False, capture_output=True).stdout

    def fill(self) -> None:
        """Leave no room at all."""
        self.run("sh", "-c", f"! dd if=/dev/zero of={self.folder}/filler bs=4k oflag=append conv=notrunc 2>/dev/null")

    def empty(self) -> None:
        """Give back the room that `fill` took."""
        self.run("rm", "-f", str(self.folder / "filler"))

    def read_only(self, *, on: bool) -> None:
        """Remount it; nothing on it may be open for writing."""
        self.run("mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.folder))


@contextmanager
def small_disk(size_mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size on a folder of its own, which every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="commons-disk-"))
    folder.chmod(0o755)
    mount = f'mount -t tmpfs -o size={size_mib}m,mode=0755 none "$0" && echo ready && read _'
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv: Sequence[str] = ["unshare", "--mount", *root, "--", "sh", "-c", mount, str(folder)]
    keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == "ready\n", "no mount namespace can be made here (unshare --mount)"
        yield SmallDisk(folder, keeper.pid)
    finally:
        keeper.communicate("\n", timeout=30)
        folder.rmdir()

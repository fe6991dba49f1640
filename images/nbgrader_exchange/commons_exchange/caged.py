"""The first program of a cage: builds a root that holds Python and a copy of one notebook's folder in memory, and gives it to the kernel.

`python -I -S caged.py WORK SOCKETS DISK_MIB UID READ_ONLY_PATH… -- COMMAND…`, as the first process of fresh mount, pid, network and IPC
namespaces; UID `-`: stay who we are, in a user namespace of our own. Invariants: the kernel gets no capability; once it listens, the
folder of its sockets is read-only, so that from then on nothing inside can write to the host's disks; where anything of this fails,
the kernel is not started. Needs nothing but the standard library's smallest part, so that it starts in a moment.
Source: mount(2), pivot_root(2).
"""

import ctypes
import os
import signal
import sys
import time
from typing import Final

_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_REMOUNT, _BIND, _BELOW, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH: Final = 2  # MNT_DETACH of umount2(2)
_TMP: Final = "/tmp"  # noqa: S108  (the cage's own)
_SOCKETS: Final = 5
_LISTENS_S: Final = 60.0
_LOOK_S: Final = 0.01
_OF_ETC: Final = ("passwd", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "alternatives", "nsswitch.conf", "fonts")  # fmt: skip
_NO_POWERS: Final = ("--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Build the cage, start the kernel in it, and stay until it has ended."""
    work, sockets, disk_mib, uid, *more = sys.argv[1:]
    shown, kernel = more[: more.index("--")], more[more.index("--") + 1 :]
    signal.signal(signal.SIGINT, lambda *_: None)  # meant for the kernel, which has its own way with it
    os.umask(0o022)
    _build(os.path.dirname(work) + "/root", work, sockets, disk_mib, shown)
    os.environ.pop("JPY_PARENT_PID", None)
    os.environ.update(HOME="/notebook", TMPDIR=_TMP, IPYTHONDIR=f"{_TMP}/ipython")
    somebody = [] if uid == "-" else [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    pid = os.spawnvp(os.P_NOWAIT, "setpriv", ["setpriv", *somebody, *_NO_POWERS, *kernel])  # noqa: S606
    give_up = time.monotonic() + _LISTENS_S
    while len([one for one in os.listdir(sockets) if one.startswith("k-")]) < _SOCKETS and time.monotonic() < give_up:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return 1
        time.sleep(_LOOK_S)
    _mount("none", sockets, flags=_REMOUNT | _BIND | _READ_ONLY | _kept(sockets))
    while os.wait()[0] != pid:  # as the first process we inherit whoever loses a parent
        pass
    return 0


def _build(root: str, work: str, sockets: str, disk_mib: str, shown: list[str]) -> None:
    _mount("none", "/", flags=_BELOW | _PRIVATE)
    os.mkdir(root)
    _mount("cage", root, "tmpfs", options="size=16m,mode=755")
    os.mkdir(root + _TMP)  # before what is shown: Python may lie below it
    _mount("tmp", root + _TMP, "tmpfs", options="size=64m,mode=1777")
    for path in (*shown, *(f"/etc/{name}" for name in _OF_ETC)):
        _show(root, path)
    for name in ("proc", "dev", "notebook", "old"):
        os.mkdir(f"{root}/{name}")
    for name in ("null", "zero", "random", "urandom"):
        _file(f"{root}/dev/{name}")
        _mount(f"/dev/{name}", f"{root}/dev/{name}", flags=_BIND)
    _mount("proc", f"{root}/proc", "proc")
    _mount("notebook", f"{root}/notebook", "tmpfs", options=f"size={disk_mib}m,mode=1777")
    _run("cp", "-r", f"{work}/.", f"{root}/notebook/")
    _run("chmod", "-R", "a+rwX", f"{root}/notebook")
    os.makedirs(root + sockets)
    _mount(sockets, root + sockets, flags=_BIND)
    os.chdir(root)
    _checked(_libc.pivot_root(b".", b"old"), "pivot_root")
    _checked(_libc.umount2(b"/old", _DETACH), "umount2")
    os.rmdir("/old")
    os.chdir("/notebook")


def _show(root: str, path: str) -> None:
    """Have a path of the machine's there, to be read only; one that is not there is left out."""
    place = root + path
    if not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), place)
        return
    if os.path.isdir(path):
        os.makedirs(place, exist_ok=True)
    else:
        _file(place)
    _mount(path, place, flags=_BIND | _BELOW)
    _mount("none", place, flags=_REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _kept(place))


def _kept(place: str) -> int:
    """What a mount forbids already, and a user namespace may not allow again."""
    return os.statvfs(place).f_flag & (_READ_ONLY | _NO_SUID | _NO_DEVICES | _NO_PROGRAMS)


def _mount(source: str, place: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    words = (source.encode(), place.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*words), f"mount {place}")


def _run(*argv: str) -> None:
    if os.spawnvp(os.P_WAIT, argv[0], argv) != 0:  # noqa: S606
        raise OSError(f"{argv[0]} failed")


def _file(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _checked(answer: int, what: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), what)


if __name__ == "__main__":
    sys.exit(main())

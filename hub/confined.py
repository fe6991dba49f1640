"""Starts a program that may use few of this machine's files, whoever it runs as: Linux' Landlock, which needs no root.

`python -I -S hub/confined.py --read PATH… --write PATH… -- PROGRAM…`. Invariants: what is not named is neither read nor written nor listed, by
the program and by all that it starts, for good; nothing of it looks into another process's memory, environment or files through /proc
(Landlock's own rule of ptrace); where the kernel knows how, it sends no signal to a process outside. Sockets are not files here: what listens on
this machine can still be asked. Needs nothing but the standard library, so that it starts in a moment.
Source: landlock(7), Linux 5.13 (ABI 1) to 6.15 (ABI 7).
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_NO_NEW_PRIVILEGES: Final = 38  # PR_SET_NO_NEW_PRIVS of prctl(2)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_TRUNCATE: Final = 1 << 14
_READ: Final = _EXECUTE | _READ_FILE | _READ_FOLDER
# What is governed, by the ABI that knew it first: 13 rights; moving between folders; truncating; ioctl of devices.
_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_DEVICES_MADE: Final = 1 << 6 | 1 << 11  # character and block devices: nobody may make one
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
_NO_SIGNALS: Final = 1 << 1  # LANDLOCK_SCOPE_SIGNAL, ABI 6
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc", "/proc", "/sys", "/run/systemd/resolve")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/full", "/dev/tty", "/dev/shm")  # noqa: S108


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def kernel_abi() -> int:
    """The kernel's version of Landlock; 0 where it has none or does not use it."""
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def confine(read: Iterable[str], write: Iterable[str]) -> None:
    """Give up every file but those below `read` and `write`, and the system's own programs and libraries. Raises OSError."""
    abi = kernel_abi()
    if not abi:
        raise OSError("this kernel has no Landlock")
    governed = sum(rights for since, rights in _RIGHTS.items() if since <= abi)
    wanted = _Ruleset(governed, 0, _NO_SIGNALS if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _checked(_libc().syscall(_CREATE, ctypes.byref(wanted), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    for path in (*_SYSTEM, *read):
        _allow(ruleset, path, _READ & governed)
    for path in (*_DEVICES, *write):
        _allow(ruleset, path, governed & ~_DEVICES_MADE)
    _checked(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_libc().syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    os.close(ruleset)


def argv(read: Sequence[str], write: Sequence[str], program: Sequence[str]) -> list[str]:
    """What to start so that `program` is confined."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), "--read", *read, "--write", *write, "--", *program]


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Allow what is below a path; one that is not there is left out."""
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rights if os.path.isdir(path) else rights & _OF_FILES
        rule = _Beneath(rights, folder)
        how = (ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
        _checked(_libc().syscall(_ADD, *how))
    finally:
        os.close(folder)


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(answer)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def main(words: Sequence[str]) -> None:
    """Confine this process and become the program."""
    paths, program = words[: words.index("--")], words[words.index("--") + 1 :]
    middle = paths.index("--write")
    confine(paths[1:middle], paths[middle + 1 :])
    os.execvp(program[0], list(program))  # noqa: S606 (this process becomes it)


if __name__ == "__main__":
    main(sys.argv[1:])

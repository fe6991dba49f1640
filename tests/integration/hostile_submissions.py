"""Answers that mean harm: each makes its tests pass only if what it tried worked, so that a score of nothing says that it did not."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from tests.integration.paid_course import PaidCourse

RIGHT: Final = "def square(x):\n    return x * x\n"
_IF_IT_WORKED: Final = "\ndef square(x):\n    return x * x\n"

HOSTILE: Final[dict[str, str]] = {
    "network": "import socket\nsocket.create_connection(('{host}', {port}), 3).close()" + _IF_IT_WORKED,
    "gradebook": "import pathlib\nassert pathlib.Path('{course}/gradebook.db').read_bytes()" + _IF_IT_WORKED,
    "hidden-tests": (
        "import glob, pathlib\n"
        "places = glob.glob('{course}/**/*.ipynb', recursive=True) + glob.glob('/**/ps1.ipynb', recursive=True)\n"
        "assert any('HIDDEN' in pathlib.Path(one).read_text() for one in places)" + _IF_IT_WORKED
    ),
    "others-work": "import os\nassert os.listdir('{course}/submitted')" + _IF_IT_WORKED,
    "token": (
        "import glob, os\n"
        "said = str(os.environ) + ''.join(open(one, errors='replace').read() for one in glob.glob('/proc/[0-9]*/environ'))\n"
        "assert 'COMMONS' in said or 'JUPYTERHUB' in said" + _IF_IT_WORKED
    ),
    "fork-bomb": (
        "import os, time\nmade = 0\n"
        "while made < 2000:\n    if os.fork() == 0:\n        time.sleep(600)\n        os._exit(0)\n    made += 1"
        + _IF_IT_WORKED
    ),
    "endless-loop": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass" + _IF_IT_WORKED
    ),
    "ten-gigabytes": ("line = 'y' * 100_000\nfor _ in range(100_000):\n    print(line, flush=True)" + _IF_IT_WORKED),
    "memory": "hoard = bytearray(16 * 2**30)\nfor at in range(0, len(hoard), 4096):\n    hoard[at] = 1" + _IF_IT_WORKED,
    "kill-all": "import os\nos.kill(-1, 9)" + _IF_IT_WORKED,
    "disk": ("for number in range(40):\n    open(f'big{{number}}', 'wb').write(bytes(50 * 2**20))" + _IF_IT_WORKED),
}
"""By what it tries; `{course}` is the course's folder on the host, `{host}` and `{port}` what listens there."""

QUICK: Final = ("network", "kill-all")


def score_only_what_is_right(room: PaidCourse, tried: Sequence[str], *, listens_on: str) -> None:
    """Students 0, 1, … hand in what is `tried` and one more a right answer; all are autograded, and the right one alone scores."""
    with socket.create_server((listens_on, 0)) as listening:
        place = {"course": str(room.course), "host": "127.0.0.1", "port": listening.getsockname()[1]}
        names = {what: room.submit(number, HOSTILE[what].format(**place)) for number, what in enumerate(tried)}
        good = room.submit(len(tried), RIGHT)
        room.collect()
        for name in (*names.values(), good):
            done = room.autograde(name)
            assert done["success"], done["log"]
    assert {what: room.score(name) for what, name in names.items()} == dict.fromkeys(names, 0)
    assert room.score(good) == 9

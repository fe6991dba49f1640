"""Local sessions that a test ends together with their runners, who cannot clear anything away then."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

from spawners import processes, records
from spawners.session_traits import HOLD_VARIABLE


def kill_sessions(data: Path) -> None:
    """Kill every session of a data folder; nothing of them stays but their records."""
    for folder in (data / "sessions").glob("*"):
        with contextlib.suppress(records.RecordError):
            record = records.read(folder)
            processes.send_signal(record.runner_pid, record.runner_started, signal.SIGKILL)
        processes.kill_marked(HOLD_VARIABLE, folder.name)
        with contextlib.suppress(records.RecordError):
            shutil.rmtree(records.read_order(folder).kernels_folder, ignore_errors=True)

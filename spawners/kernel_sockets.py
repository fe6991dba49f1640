"""Where the kernels of a session listen: on Unix sockets in a folder that only the session's own user enters.

jupyter_client chooses five TCP ports long before a kernel listens on them; on a busy machine an outgoing connection has one by then, and
the kernel hangs and never answers. And whoever is on the node can listen to what a kernel prints: its iopub channel asks for no key.
Invariant: the folder is of mode 0700, on a disk of the machine's own, and its path leaves room for a socket's name (107 bytes, unix(7)).
`spawners.job_runner` does the same inside a job. Sources: jupyter_client 8 (sockets lie beside kernel-<uuid>.json, as kernel-<uuid>-ipc-<1..5>),
jupyter_core 5 (JUPYTER_RUNTIME_DIR).
"""

import tempfile
from typing import Final

ON_SOCKETS: Final = "--KernelManager.transport=ipc"
FOLDER_VARIABLE: Final = "JUPYTER_RUNTIME_DIR"
IN_CONTAINER: Final = "/tmp/jupyter"  # noqa: S108  (the container's own; the notebook server makes it)


def make_folder() -> str:
    """A fresh folder for one session, away from its home, whose path may be long; "" where none can be made: TCP has to do."""
    try:
        return tempfile.mkdtemp(prefix="commons-", dir="/tmp")
    except OSError:
        return ""

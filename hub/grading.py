"""Where a formgrader has submissions executed, as `COMMONS_GRADING` says it (images/nbgrader_exchange, runs.py).

Invariant: a formgrader is told a socket, a folder and the site's own limits, and no secret: the helper and the portal judge each run by
what they know themselves.
"""

import json
from pathlib import Path
from typing import Final

from hub.settings import Settings
from spawners import grading_spec
from spawners.container_settings import MIB
from spawners.profiles import Backend

_ROOT: Final = Path(__file__).resolve().parents[1]


def grading_orders(site: Settings) -> str:
    """The variable's value."""
    table = site.grading
    if table.backend is Backend.CONTAINER:
        return json.dumps(
            {
                "backend": table.backend.value,
                "helper": str(site.containers.helper_socket(site.data)),
                "body": grading_spec.container_body("", site.grading_image, table),
                "runtime_s": table.runtime,
                "output_bytes": table.output,
            }
        )
    return json.dumps(
        {
            "backend": table.backend.value,
            "sessions": str(site.data / "sessions"),
            "root": str(_ROOT),
            "runtime_s": table.runtime,
            "memory_mib": table.memory // MIB,
            "disk_mib": table.disk // MIB,
            "processes": table.processes,
        }
    )

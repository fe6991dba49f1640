"""What the launcher does for sessions in containers: the processes around the engine, the packet rules. Nothing, where no profile uses them.

Invariant: where the host runs helper, watchdog or home keeper itself (`containers.helper`, `containers.keeper` in portal.toml), the
launcher runs none of its own beside it. docs/howto/containers.md says which is for what.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

from deploy.onehost.console import Progress
from deploy.onehost.programs import Site
from spawners import session_firewall
from spawners.profiles import Backend
from spawners.settings import SettingsError, load

HELPER: Final = "helper"


def engine_programs(portal_file: Path) -> tuple[str, ...]:
    """Names of `spawners.engine_process` to run; empty where no profile runs in containers, or the host runs them all."""
    try:
        settings = load(portal_file)
    except SettingsError:
        return ()  # portal_check has told what is wrong with it
    if not any(profile.backend is Backend.CONTAINER for profile in settings.catalogue):
        return ()
    table = settings.containers
    return ((HELPER, "watchdog") if not table.helper else ()) + (("homes",) if not table.keeper else ())


def load_packet_rules(site: Site, progress: Progress) -> None:
    """Shut sessions off from this host; where that cannot be done, the canary keeps sessions from starting and says why."""
    rules = session_firewall.render([site.ports["hub"], site.ports["quota"]], [os.getuid()])
    try:
        session_firewall.load(rules)
    except (OSError, subprocess.SubprocessError) as error:
        progress.say(f"the packet rules for sessions could not be loaded (as root? nftables?): {error}")

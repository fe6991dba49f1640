"""The units of deploy/systemd as the tests run them: the commands as written, as confined as systemd would have them.

Invariant: what a host's systemd starts is what the tests start: command, user's rights, variables; only the folder of the
installation and the values of the variables differ. Source: systemd.exec(5), setpriv(1).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.portal import ROOT

FOLDER: Final = ROOT / "deploy" / "systemd"
INSTALLED_PYTHON: Final = "/opt/compute-commons/.venv/bin/python"
SYSTEMD_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)\}")


@dataclass(frozen=True)
class Unit:
    """One service; a key that is given twice keeps both values, joined by a space."""

    name: str
    settings: Mapping[str, str]

    @classmethod
    def read(cls, name: str) -> Unit:
        """Read `deploy/systemd/<name>.service`."""
        settings: dict[str, str] = {}
        for line in (FOLDER / f"{name}.service").read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                settings[key] = f"{settings[key]} {value}" if key in settings else value
        return cls(name, settings)

    @property
    def variables(self) -> frozenset[str]:
        """The variables that its command names."""
        return frozenset(_VARIABLE.findall(self.settings["ExecStart"]))

    def argv(self, environment: Mapping[str, str]) -> list[str]:
        """Its command with this interpreter and these values."""
        words = shlex.split(_VARIABLE.sub(lambda found: environment[found[1]], self.settings["ExecStart"]))
        assert words[0] == INSTALLED_PYTHON, words
        return [sys.executable, *words[1:]]

    def confined(self, uid: int | None = None) -> list[str]:
        """The program that takes away what the unit takes away, and becomes this user."""
        argv = ["setpriv"]
        if "CapabilityBoundingSet" in self.settings:
            kept = [f"+{one.removeprefix('CAP_').lower()}" for one in self.settings["CapabilityBoundingSet"].split()]
            argv.append(f"--bounding-set={','.join(['-all', *kept])}")
        if self.settings.get("NoNewPrivileges") == "yes":
            argv.append("--no-new-privs")
        return argv if uid is None else [*argv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def example_environment() -> dict[str, str]:
    """What `engine.env.example` sets."""
    lines = (FOLDER / "engine.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def names() -> list[str]:
    """Every service of the folder."""
    return sorted(path.stem for path in Path(FOLDER).glob("*.service"))

"""The units of deploy/ are what systemd takes, name nothing that their environment file does not set, and run what there is.

The container tests run the commands of deploy/systemd as written, with the capabilities that the units leave (tests/engine/units.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine import units
from tests.engine.units import FOLDER, Unit
from tests.portal import ROOT
from tests.waiting import PATIENCE_S

UNITS = sorted([*FOLDER.glob("*.service"), *(ROOT / "deploy" / "slurm").glob("*.service")])
INSTALLED = ("/opt/compute-commons", "/opt/commons")


def test_systemd_finds_nothing_wrong_with_any_unit(tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:
        text = unit.read_text()
        for folder in INSTALLED:  # an executable has to be there
            text = text.replace(f"{folder}/.venv/bin/python", sys.executable).replace(folder, str(ROOT))
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", *map(str, copies)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    about_ours = [line for line in done.stderr.splitlines() if "commons-" in line or str(tmp_path) in line]
    assert about_ours == []


@pytest.mark.parametrize("name", units.names())
def test_a_unit_names_no_variable_that_its_environment_file_lacks(name: str) -> None:
    assert Unit.read(name).variables <= set(units.example_environment())


def test_the_packet_rules_of_the_unit_are_those_of_the_example_values() -> None:
    unit = Unit.read("commons-firewall")
    argv = [*unit.argv(units.example_environment()), "--print"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "tcp dport { 8081, 8090 }" in done.stdout
    assert "meta skuid != { 990 }" in done.stdout


@pytest.mark.parametrize("name", [one for one in units.names() if one != "commons-firewall"])
def test_a_unit_says_in_words_what_its_host_lacks(name: str, tmp_path: Path) -> None:
    unit = Unit.read(name)
    environment = {"PATH": units.SYSTEMD_PATH, "COMMONS_PORTAL_FILE": str(tmp_path / "none.toml"), "COMMONS_DATA": "/"}
    argv = unit.argv(environment)
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 2, done.stderr
    assert "none.toml" in done.stderr
    assert "Traceback" not in done.stderr

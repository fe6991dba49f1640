"""Known vulnerabilities in what is installed: every pinned package of requirements/*.txt and of the package-lock files, asked of OSV at once.

OSV holds what pip-audit and npm audit read (PyPA's and GitHub's advisories). One request with a deadline, so that `./commons check` stays
quick; where the database cannot be reached that is said in one line and nothing fails: silence is no answer. What is found is told, and
fails `./commons check --audit`, which is run before a release.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DATABASE: Final = "https://api.osv.dev/v1/querybatch"
DEADLINE_S: Final = 6.0
_AT_ONCE: Final = 1000
# Advisories that do not concern this use, each with its reason.
ACCEPTED: Final[dict[str, str]] = {}
_PINNED: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")


class NotAsked(Exception):
    """The database did not answer, or with nonsense."""


@dataclass(frozen=True, order=True)
class Package:
    """One pinned package."""

    ecosystem: str
    name: str
    version: str


def pinned(root: Path) -> list[Package]:
    """Every package that the portal or its tests install."""
    found = set()
    for file in sorted((root / "requirements").glob("*.txt")):
        matches = (_PINNED.match(line) for line in file.read_text().splitlines())
        found |= {Package("PyPI", one[1], one[2]) for one in matches if one is not None}
    for file in (*root.glob("deploy/*/package-lock.json"), *root.glob("tests/*/package-lock.json")):
        packages = json.loads(file.read_text()).get("packages", {})
        for path, entry in packages.items():
            name = path.rpartition("node_modules/")[2]
            if name and "version" in entry:
                found.add(Package("npm", name, str(entry["version"])))
    return sorted(found)


def known(packages: Iterable[Package], url: str = DATABASE, deadline_s: float = DEADLINE_S) -> list[str]:
    """One line for each advisory that concerns a package. Raises NotAsked."""
    asked = list(packages)
    found = []
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        for package, result in zip(some, _results(some, url, deadline_s), strict=True):
            ids = [str(one["id"]) for one in result.get("vulns", ()) if str(one["id"]) not in ACCEPTED]
            found += [f"{package.ecosystem} {package.name} {package.version}: {one}" for one in sorted(ids)]
    return found


def _results(packages: list[Package], url: str, deadline_s: float) -> list[dict[str, list[dict[str, str]]]]:
    queries = [{"package": {"ecosystem": one.ecosystem, "name": one.name}, "version": one.version} for one in packages]
    request = urllib.request.Request(
        url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=deadline_s) as answer:
            results = json.load(answer)["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotAsked(type(error).__name__) from error
    if not isinstance(results, list) or len(results) != len(packages):
        raise NotAsked("an answer of another length")
    return results


def step(root: Path, *, strict: bool, url: str = DATABASE, deadline_s: float = DEADLINE_S) -> list[str] | None:
    """What `./commons check` runs; `strict` alone returns advisories as failures: one published today breaks no change of yesterday."""
    packages = pinned(root)
    try:
        found = known(packages, url, deadline_s)
    except NotAsked as error:
        print(f"    no vulnerability database could be reached ({error}): {len(packages)} packages are not checked")
        return None
    if strict:
        return found or None
    for line in found:
        print(f"    known vulnerability (fails with --audit): {line}")
    return None

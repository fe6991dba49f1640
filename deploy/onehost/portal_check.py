"""Checks portal.toml before anything starts: each package validates its own tables, and a table that nobody owns is an error.

Invariant: prints nothing but `file: key: reason` lines, never a value, and exits 2 if there is one.
`python -m deploy.onehost.portal_check FILE`
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import hub.settings
import quota.settings
import spawners.settings


@dataclass(frozen=True)
class Owner:
    """A package's tables, and what raises a SettingsError with its `lines` where one of them is wrong."""

    tables: frozenset[str]
    check: Callable[[Path], object]


OWNERS: Final = (
    Owner(hub.settings.TABLES, hub.settings.load),
    Owner(quota.settings.TABLES, quota.settings.load),
    Owner(spawners.settings.TABLES, spawners.settings.load),
)


def problems(portal_file: Path, owners: Sequence[Owner] = OWNERS) -> list[str]:
    """Every mistake in the file, one line each, none twice."""
    found: list[str] = []
    for owner in owners:
        try:
            owner.check(portal_file)
        except (spawners.settings.SettingsError, quota.settings.SettingsError) as error:
            found += error.lines
    claimed = frozenset[str]().union(*(owner.tables for owner in owners))
    try:
        tables = spawners.settings.read_tables(portal_file)
        found += [f"{portal_file}: {table}: unknown table" for table in tables if table not in claimed]
    except spawners.settings.SettingsError as error:
        found = error.lines  # not even TOML: each owner said so in its own words
    return list(dict.fromkeys(found))


def main(arguments: Sequence[str]) -> int:
    """Check the named file."""
    if len(arguments) != 1:
        print("usage: python -m deploy.onehost.portal_check FILE", file=sys.stderr)
        return 2
    found = problems(Path(arguments[0]))
    for line in found:
        print(line, file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

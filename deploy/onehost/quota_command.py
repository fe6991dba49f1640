"""`./commons verify` and its like: the quota service's own command line, with the environment of one data folder filled in.

Invariant: becomes `python -m quota.cli` (exec); what the caller set in the environment is kept where `up` never ran here.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.onehost import ports
from deploy.onehost.bootstrap import Environment
from deploy.onehost.console import CannotGoOn, report
from deploy.onehost.data_folder import DataFolder, read_holder
from deploy.onehost.programs import Site, commons_variables, public_address
from deploy.onehost.up import DEFAULT_PORT, ROOT

DEFAULT_DATA: Final = ROOT / ".commons" / "data"


def split_data(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--data DIR` out of the arguments; the rest is the quota service's."""
    rest: list[str] = []
    data: Path | None = None
    words = iter(arguments)
    for word in words:
        if word == "--data":
            value = next(words, None)
            if value is None:
                raise CannotGoOn("--data: name the data folder after it")
            data = Path(value)
        elif word.startswith("--data="):
            data = Path(word.removeprefix("--data="))
        else:
            rest.append(word)
    return data, rest


def variables(data: DataFolder) -> dict[str, str]:
    """The portal's variables as far as the data folder tells them."""
    inner = ports.read(data.ports_file)
    portal_file = Path(os.environ.get("COMMONS_PORTAL_FILE", ROOT / "portal.toml")).absolute()
    if inner is None:
        return {"COMMONS_PORTAL_FILE": str(portal_file), "COMMONS_DATA": str(data.path)}
    found = commons_variables(
        Site(Environment(ROOT), data, portal_file, DEFAULT_PORT, inner, model=True, public=public_address(portal_file))
    )
    holder = read_holder(data.lock_file)
    return found | ({"COMMONS_PUBLIC_URL": holder.url} if holder is not None else {})


def environment_for(chosen: Path | None) -> dict[str, str]:
    """The caller's environment with the portal's variables; those that the caller set stand where no folder is named."""
    if chosen is None and "COMMONS_DATA" in os.environ:
        return dict(os.environ)
    data = DataFolder((chosen or DEFAULT_DATA).absolute())
    if not data.path.is_dir():
        raise CannotGoOn(f"--data {data.path}: there is no such folder; ./commons up makes it")
    return {**os.environ, **variables(data)}


def main(arguments: Sequence[str]) -> int:
    """Become the quota service's command; returns only where that cannot be."""
    try:
        chosen, rest = split_data(arguments)
        environment = environment_for(chosen)
    except CannotGoOn as error:
        report(error)
        return 1
    module = "quota.cli"
    if rest[:1] == ["gateway"]:
        module, rest = "quota.gateway_main", rest[1:]
    return os.execve(sys.executable, [sys.executable, "-m", module, *rest], environment)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

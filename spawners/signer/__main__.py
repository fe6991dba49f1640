"""`python -m spawners.signer SIGNER.TOML`: serve until SIGTERM. Exits 2 for settings that cannot be used."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from spawners.office_settings import load
from spawners.settings import SettingsError
from spawners.signer.audit import Audit
from spawners.signer.office import Office
from spawners.signer.server import open_server
from spawners.signer.settings import SignerSettings
from spawners.signer.tickets import Tickets
from spawners.signer.tokens import Mint
from spawners.slurmrestd.wire import Http


def open_office(settings: SignerSettings) -> Office:
    """Open key, tickets and audit. Raises OSError, ValueError."""
    tickets = Tickets(Path(settings.tickets))
    tickets.prepare()
    return Office(settings, Mint.open(settings), tickets, Audit(Path(settings.audit_file)), Http(settings.url))


def main(arguments: list[str]) -> int:
    """Serve the office of one cluster."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        print("usage: python -m spawners.signer SIGNER.TOML", file=sys.stderr)
        return 2
    try:
        settings = load(SignerSettings, Path(arguments[0]))
        server = open_server(settings, open_office(settings))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"the signer cannot start: {error}", file=sys.stderr)
        return 2
    logging.getLogger("commons.signer").info("serving %s", settings.socket)
    server.serve_until_terminated()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

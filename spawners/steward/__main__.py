"""`python -m spawners.steward STEWARD.TOML`: serve until SIGTERM, as root. Exits 2 for settings that cannot be used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spawners.office_settings import load
from spawners.peers import BadRequest, Peer, PeerServer, allowed, text, whole
from spawners.settings import SettingsError
from spawners.steward.books import AccountConflict
from spawners.steward.office import Office, StewardRefused, open_office
from spawners.steward.settings import StewardSettings, Verb

log = logging.getLogger("commons.steward")


def answer(settings: StewardSettings, office: Office, body: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
    """Carry one request out. Raises BadRequest, OSError."""
    try:
        verb = Verb(text(body, "verb"))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if verb not in allowed(settings.peers, peer[1]):
        log.warning("uid %d may not %s", peer[1], verb)
        return {"error": "refused", "message": "this process may not ask for that"}
    try:
        return {"ok": perform(office, verb, body)}
    except (StewardRefused, AccountConflict) as error:
        return {"error": "refused", "message": str(error)}


def perform(office: Office, verb: Verb, body: Mapping[str, Any]) -> dict[str, Any]:
    """One verb; the body of its answer."""
    if verb is Verb.MEMBERS:
        return {"members": office.members()}
    if verb is Verb.LIMIT:
        office.limit(text(body, "account"), whole(body, "gpu_minutes"))
    elif verb is Verb.RETIRE:
        office.retire(text(body, "login"))
    elif verb is Verb.REMOVE:
        office.remove(text(body, "login"), text(body, "account"))
    else:
        office.ensure(text(body, "login"), text(body, "account"))
    return {}


def main(arguments: list[str]) -> int:
    """Serve one cluster's office."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        print("usage: python -m spawners.steward STEWARD.TOML", file=sys.stderr)
        return 2
    try:
        settings = load(StewardSettings, Path(arguments[0]))
        office = open_office(settings)
        server = PeerServer(settings.socket, lambda body, peer: answer(settings, office, body, peer))
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the steward cannot start: {error}", file=sys.stderr)
        return 2
    log.info("serving %s", settings.socket)
    server.serve_until_terminated()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

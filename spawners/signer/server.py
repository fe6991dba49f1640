"""The signer's requests, from the wire to the office: who asks is known from the kernel, and may use the verbs of signer.toml.

Invariants: a peer that is not named gets an error and no verb; a token is in no log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from spawners.peers import BadRequest, Peer, PeerServer, allowed, text, whole
from spawners.signer import protocol
from spawners.signer.office import Office
from spawners.signer.settings import SignerSettings, Verb
from spawners.slurmrestd.errors import ActionRefused, SlurmError
from spawners.slurmrestd.model import SubmitOrder

log = logging.getLogger("commons.signer")


def open_server(settings: SignerSettings, office: Office) -> PeerServer:
    """The server of an office on its socket."""
    return PeerServer(settings.socket, lambda body, peer: answer(settings, office, body, peer))


def answer(settings: SignerSettings, office: Office, body: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
    """Carry one request out. Raises BadRequest, OSError where audit or tickets cannot be written."""
    try:
        verb = Verb(text(body, "verb"))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    try:
        if verb not in allowed(settings.peers, peer[1]):
            log.warning("uid %d may not %s", peer[1], verb)
            raise ActionRefused("this process may not ask for that")
        return {"ok": perform(office, verb, body, peer)}
    except SlurmError as error:
        return protocol.error_body(error)


def perform(office: Office, verb: Verb, body: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
    """Carry one request out; the body of its answer."""
    if verb is Verb.SUBMIT_AS:
        permit = office.submit_as(_order(body.get("order")), peer)
        return {"login": permit.credential.login, "token": permit.credential.token, "ticket": permit.ticket}
    if verb is Verb.CANCEL:
        office.cancel(whole(body, "job_id"), peer)
        return {}
    if verb is Verb.EXTEND:
        office.extend(whole(body, "job_id"), whole(body, "minutes"), peer)
        return {}
    params = body.get("params", [])
    if not isinstance(params, list) or not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one) for one in params
    ):
        raise BadRequest("params must be pairs of texts")
    answer = office.get(text(body, "path"), [(one[0], one[1]) for one in params], peer)
    return {"status": answer.status, "body": answer.body}


def _order(body: object) -> SubmitOrder:
    if not isinstance(body, dict) or set(body) != {one.name for one in fields(SubmitOrder)}:
        raise BadRequest("an order has exactly the fields of SubmitOrder")
    texts = {name: text(body, name) for name in body if name != "time_limit_min"}
    return SubmitOrder(**texts, time_limit_min=whole(body, "time_limit_min"))

"""Scopes, roles, groups and services of the portal, as data.

Invariant: least privilege. People get what they need to read their own quota; review, decide, admin and audit are four
separate roles, each tied to a hub group that the sign-in fills; the services hold only what they call.
Source: JupyterHub 6.1.1, scopes.py (custom scopes, `!service=` filter).
"""

import sys
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from hub.settings import Settings

IDLE_CULLER: Final = "idle-culler"
ADMIN_SCOPE: Final = "custom:quota:admin"
EXCHANGE_SCOPE: Final = "custom:quota:exchange"
ENFORCE_SCOPE: Final = "custom:quota:enforce"
DECIDE_SCOPE: Final = "custom:quota:decide"
QUOTA_ACCESS: Final = "access:services!service=quota"

CUSTOM_SCOPES: Final[dict[str, dict[str, str]]] = {
    "custom:quota:read": {"description": "Read one's own projects, balances and sessions."},
    "custom:quota:write": {"description": "Apply, change members and stop sessions in one's own name."},
    "custom:quota:review": {"description": "Review applications for allocations."},
    "custom:quota:decide": {"description": "Decide applications for allocations."},
    EXCHANGE_SCOPE: {"description": "Take part in the exchange of one's own courses, in one's own name."},
    ADMIN_SCOPE: {"description": "Adjust balances of every project."},
    "custom:quota:audit": {"description": "Read every project's statement."},
    ENFORCE_SCOPE: {
        "description": "List sessions with their holds, stop them and move their ends; for the quota service."
    },
}

# What every person has beside the hub's own `self`.
PERSON_SCOPES: Final = (QUOTA_ACCESS, "custom:quota:read", "custom:quota:write", EXCHANGE_SCOPE)

# What a session's own token may: the stock scopes of `server`, and its owner's part in the exchange of courses. Nothing of the
# quota service else, since whatever runs in the session has this token.
_SESSION: Final = ("users:activity!user", "access:servers!server", QUOTA_ACCESS, EXCHANGE_SCOPE)

# Groups that the sign-in fills, and the role that each gives.
ROLE_GROUPS: Final[dict[str, str]] = {
    "quota-reviewers": "custom:quota:review",
    "quota-deciders": "custom:quota:decide",
    "quota-admins": ADMIN_SCOPE,
    "quota-auditors": "custom:quota:audit",
}

# Groups by role of the sign-in (portal.toml's `roles`, the demo's list). An admin is the hub's admin, too.
_GROUPS: Final[dict[str, frozenset[str]]] = {
    "admin": frozenset({"quota-deciders", "quota-admins", "quota-auditors"}),
    "decider": frozenset({"quota-deciders"}),
    "reviewer": frozenset({"quota-reviewers"}),
    "auditor": frozenset({"quota-auditors"}),
}

# The culler: which servers are ready, their own lists of kernels, and their stop.
_CULL_SERVERS: Final = ("list:users", "read:users:activity", "read:servers", "delete:servers", "access:servers")

# `GET /users?state=active` with each server's options and start, and stopping what has to stop. Server state is not needed.
_WATCH_SERVERS: Final = ("list:users", "read:servers", "delete:servers")
_ENFORCE: Final = (*_WATCH_SERVERS, ENFORCE_SCOPE)


def groups_of(held: Iterable[str]) -> frozenset[str]:
    """The groups of somebody who holds these roles; unknown roles give nothing."""
    return frozenset().union(*(_GROUPS.get(role, frozenset()) for role in held))


def load_roles() -> list[dict[str, Any]]:
    """The value of `JupyterHub.load_roles`."""
    of_groups = [
        {
            "name": group.removesuffix("s"),
            "description": CUSTOM_SCOPES[scope]["description"],
            "scopes": [scope],
            "groups": [group],
        }
        for group, scope in ROLE_GROUPS.items()
    ]
    return [
        *of_groups,
        {"name": "server", "description": "What a session's own token may.", "scopes": list(_SESSION)},
        {
            "name": "quota-service",
            "description": "See who runs what, stop it and move its end.",
            "scopes": list(_ENFORCE),
            "services": ["quota"],
        },
        {
            "name": "launcher",
            "description": "Stop what runs before the portal goes down.",
            "scopes": list(_WATCH_SERVERS),
            "services": ["launcher"],
        },
        {
            "name": "idle-culler",
            "description": "Stop notebooks whose kernels do nothing.",
            "scopes": list(_CULL_SERVERS),
            "services": [IDLE_CULLER],
        },
    ]


def services(settings: Settings) -> list[dict[str, Any]]:
    """The value of `JupyterHub.services`."""
    return [
        {
            "name": "quota",
            "url": settings.quota_url,
            "api_token": settings.secrets.quota_api_token,
            "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": [scope for scope in CUSTOM_SCOPES if scope != ENFORCE_SCOPE],
            # The hub starts without it; its routes do not wait for it longer than this.
            "timeout": 1,
        },
        {"name": "launcher", "api_token": settings.secrets.launcher_api_token, "display": False},
        {
            "name": IDLE_CULLER,
            # A process of the hub that ends with it, however the hub ends.
            "command": ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "hub.idle_culler"],
            "environment": dict(settings.environment),
            "display": False,
        },
    ]


def extra_routes(settings: Settings) -> dict[str, str]:
    """Routes to what is no service of the hub: the gateway takes its own keys, so it is no OAuth client."""
    host = urlsplit(settings.public_url).hostname if settings.tables.hub.user_domains else ""
    return {f"{host}{settings.base_path}services/gateway/": settings.tables.hub.gateway_url or settings.quota_url}

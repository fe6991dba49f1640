"""What of a container's inspection the helper hands on. Pure.

Invariant: the environment stays behind, since it holds the session's credentials (hub, gateway): whoever may look at sessions may
not act as them. The one that an adopting hub needs, the session's own token for the hub, has a route of its own.
Source: Docker Engine API 1.45, ContainerInspect.
"""

from collections.abc import Mapping
from typing import Any, Final

_HANDED_ON: Final = ("Id", "Name", "Created", "State", "Image")
API_TOKEN: Final = "JUPYTERHUB_API_TOKEN"  # noqa: S105 (a variable's name)


def shown(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """Its state, labels and addresses."""
    config, network = inspected.get("Config") or {}, inspected.get("NetworkSettings") or {}
    answer = {key: inspected[key] for key in _HANDED_ON if key in inspected}
    return answer | {
        "Config": {"Labels": config.get("Labels")},
        "NetworkSettings": {"Networks": network.get("Networks")},
    }


def api_token(inspected: Mapping[str, Any]) -> str:
    """The token by which the session's server speaks to the hub; empty where it has none."""
    for line in (inspected.get("Config") or {}).get("Env") or ():
        name, _, value = str(line).partition("=")
        if name == API_TOKEN:
            return value
    return ""

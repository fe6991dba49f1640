"""How many sessions the engine's address pools have room for: one bridge a session. Pure.

Invariant: with what Docker has as default the pools end at about 31 bridges, unseen until the thirty-second start fails; the helper
says at its start for how many the host's pools are. Source: dockerd's `default-address-pools`; `GET /info`, DefaultAddressPools.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

# Docker's own where daemon.json names none: 172.17.0.0/16 to 172.31.0.0/16, and 192.168.0.0/16 in networks of /20.
DOCKERS_OWN: Final = 31
ADDRESSES_OF_A_SESSION: Final = 4  # network, gateway, container, broadcast


def sessions_that_fit(pools: Sequence[Mapping[str, Any]] | None) -> int:
    """The number of bridges in these pools (`Base`, `Size`). Raises ValueError where they are none."""
    if not pools:
        return DOCKERS_OWN
    return sum(_bridges(ipaddress.ip_network(str(pool["Base"])), int(pool["Size"])) for pool in pools)


def _bridges(base: ipaddress.IPv4Network | ipaddress.IPv6Network, size: int) -> int:
    """How many networks of this prefix length are in `base`; none where a session's addresses do not fit, or of IPv6."""
    if not isinstance(base, ipaddress.IPv4Network) or size < base.prefixlen:
        return 0
    return 2 ** (size - base.prefixlen) if 2 ** (32 - size) >= ADDRESSES_OF_A_SESSION else 0

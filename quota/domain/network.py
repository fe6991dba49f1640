"""Which network addresses are public: where prompts and keys may go without a word of the site's.

Invariant: an address that carries another one inside it (IPv4-mapped and -compatible, 6to4, Teredo, NAT64, SIIT) is public only where
that one is; `ipaddress.is_global` calls ::127.0.0.1, 64:ff9b::7f00:1 and 2002:7f00:1:: global, and multicast, too.
Sources: IANA's special-purpose registries; RFC 4291, 6052, 3056, 4380, 2765.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_LAST_FOUR_BYTES: Final = tuple(
    IPv6Network(one) for one in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_NEVER: Final = tuple(IPv6Network(one) for one in ("64:ff9b:1::/48", "fec0::/10", "5f00::/16", "3fff::/20"))

_NEVER_V4: Final = tuple(IPv4Network(one) for one in ("192.0.0.0/24", "192.88.99.0/24"))


def is_public(text: str) -> bool:
    """Whether an address in its text form, a scope id allowed, is everybody's. Raises ValueError for what is no address."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return _is_public_v4(address)
    by_registry = address.is_global or address.sixtofour is not None  # newer Pythons call no 6to4 address global
    if not by_registry or address.is_multicast:
        return False
    if any(address in network for network in _NEVER):
        return False
    inner = _inside(address)
    return inner is None or _is_public_v4(inner)


def _is_public_v4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in one for one in _NEVER_V4)


def _inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one leads to."""
    if any(address in network for network in _LAST_FOUR_BYTES):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.sixtofour

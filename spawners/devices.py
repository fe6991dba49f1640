"""Which GPUs a session gets: a pure choice from the host's inventory and what running sessions were granted.

Invariant: a device goes to one session at a time unless every session on it, the new one included, has a profile that shares; a
whole GPU and its MIG slices are never out at the same time. Docker itself does not allocate: with `count=1` twice it hands out the
same device twice (facts measured in docs/decisions/0008-containers.md), so ids are chosen here and written on the container's label.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or MIG slice. `id` is a CDI name (`nvidia.com/gpu=GPU-…`) or the driver's UUID; `nodes` are its paths in a container."""

    id: str
    hardware: str
    nodes: tuple[str, ...] = ()
    parent: str = ""  # of a MIG slice: the id of the whole GPU


@dataclass(frozen=True, slots=True)
class Grant:
    """What one session holds. `sharing` is how many sessions may be on each of its devices; `ends_at_ms` in UTC, None: unknown."""

    ids: frozenset[str]
    sharing: int = 1
    ends_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Not enough devices: how many there are and are free, and by when enough should be (UTC ms; None: never, or unknown)."""

    wanted: int
    total: int
    free: int
    expected_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a start asks for."""

    hardware: str
    count: int
    sharing: int = 1


def choose(inventory: Sequence[Device], grants: Iterable[Grant], wish: Wish) -> tuple[Device, ...] | Busy:
    """Choose `wish.count` devices; shared ones are filled up first, so that whole ones stay free. Deterministic.

    Raises ValueError for a count or sharing below what makes sense.
    """
    if wish.count < 0 or wish.sharing < 1:
        raise ValueError("a start asks for no negative number of devices, and for a place on each")
    held = list(grants)
    fitting = [one for one in inventory if one.hardware == wish.hardware]
    free = [one for one in fitting if is_free(one, inventory, held, wish.sharing)]
    if len(free) < wish.count:
        return Busy(wish.count, len(fitting), len(free), _expected_at_ms(fitting, inventory, held, wish))
    load = Counter(id_ for grant in held for id_ in grant.ids)
    free.sort(key=lambda one: -load[one.id])  # stable: the inventory's order decides among equals
    return tuple(free[: wish.count])


def is_free(device: Device, inventory: Sequence[Device], held: Iterable[Grant], sharing: int) -> bool:
    """Whether one more session that shares with up to `sharing` may be put on this device."""
    relatives = {one.id for one in inventory if one.parent == device.id} | ({device.parent} - {""})
    there = 0
    most = sharing
    for grant in held:
        if relatives & grant.ids:
            return False
        if device.id in grant.ids:
            there += 1
            most = min(most, grant.sharing)
    return there < most


def conflicts(ids: frozenset[str], inventory: Sequence[Device], held: Iterable[Grant], sharing: int) -> frozenset[str]:
    """Those of `ids` that cannot be given out, unknown ones included; empty where all can."""
    known = {one.id: one for one in inventory}
    others = list(held)
    return frozenset(one for one in ids if one not in known or not is_free(known[one], inventory, others, sharing))


def _expected_at_ms(
    fitting: Sequence[Device], inventory: Sequence[Device], held: Sequence[Grant], wish: Wish
) -> int | None:
    """The first end of a session after which enough devices are free, if all end when they should."""
    if len(fitting) < wish.count:
        return None
    ends = sorted(grant.ends_at_ms for grant in held if grant.ends_at_ms is not None)
    for end in dict.fromkeys(ends):
        left = [grant for grant in held if grant.ends_at_ms is None or grant.ends_at_ms > end]
        if sum(is_free(one, inventory, left, wish.sharing) for one in fitting) >= wish.count:
            return end
    return None

"""When a session that nobody uses is told so, and when it is stopped. Pure.

Only kernels and terminals are use: an open page is none. Invariants: nobody is stopped who was not told at least `notice_s` before;
keeping alive moves the stop, and never beyond the idle time plus what the profile allows to keep after the last use. What is remembered is
the owner's wish, whole: the limit is applied to the last use that is known when the session is judged, since one may be known late.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class IdleRule:
    """Seconds: without use until the stop (0: never stopped), from the notice to the stop, and how long it may be kept alive beyond."""

    idle_s: int
    notice_s: int
    keep_alive_s: int

    @property
    def lead(self) -> timedelta:
        """From the notice to the stop; at most half the idle time, so that short ones are not told at once."""
        return timedelta(seconds=min(self.notice_s, self.idle_s // 2))


@dataclass(frozen=True, slots=True)
class IdleState:
    """What is remembered of a session: its last use, until when its owner wants it kept alive, and since when a notice stands."""

    active_at: datetime
    kept_until: datetime | None = None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class IdleVerdict:
    """`stops_at`: when it is stopped if nothing happens, None for never; `tell`: a notice is due; `stop`: it is to be stopped now."""

    state: IdleState
    stops_at: datetime | None
    tell: bool = False
    stop: bool = False


def judge(rule: IdleRule, known: IdleState, seen_at: datetime, at: datetime) -> IdleVerdict:
    """What follows from the last use `seen_at` that is known at `at`."""
    active_at = max(known.active_at, seen_at)
    told_at = known.told_at if known.told_at is not None and known.told_at >= active_at else None
    state = IdleState(active_at, known.kept_until, told_at)
    if rule.idle_s == 0:
        return IdleVerdict(state, None)
    stops_at = stop_instant(rule, state)
    if at < stops_at - rule.lead:
        return IdleVerdict(IdleState(active_at, known.kept_until), stops_at)
    if told_at is None:
        return IdleVerdict(IdleState(active_at, known.kept_until, at), max(stops_at, at + rule.lead), tell=True)
    stops_at = max(stops_at, told_at + rule.lead)
    return IdleVerdict(state, stops_at, stop=at >= stops_at)


def stop_instant(rule: IdleRule, state: IdleState) -> datetime:
    """When the session is stopped if nothing happens and its owner is told in time."""
    unused = state.active_at + timedelta(seconds=rule.idle_s)
    return unused if state.kept_until is None else max(unused, min(state.kept_until, _last(rule, state)))


def keep(state: IdleState, at: datetime, seconds: int) -> IdleState:
    """Its owner wants to keep it for `seconds` from `at`: a longer wish of before stands, a notice is taken back."""
    wish = at + timedelta(seconds=seconds)
    return replace(state, kept_until=wish if state.kept_until is None else max(wish, state.kept_until), told_at=None)


def _last(rule: IdleRule, state: IdleState) -> datetime:
    return state.active_at + timedelta(seconds=rule.idle_s + rule.keep_alive_s)

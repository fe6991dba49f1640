"""When an idle session is told so and stopped: never untold, never while it works, kept alive no longer than allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quota.domain.idle import IdleRule, IdleState, judge, keep, stop_instant

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
RULE = IdleRule(idle_s=3600, notice_s=600, keep_alive_s=7200)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_after_fifty_minutes_a_notice_after_sixty_the_stop() -> None:
    state = IdleState(START)
    quiet = judge(RULE, state, START, at(49))
    assert (quiet.tell, quiet.stop, quiet.stops_at) == (False, False, at(60))
    told = judge(RULE, quiet.state, START, at(50))
    assert (told.tell, told.stop, told.stops_at) == (True, False, at(60))
    waiting = judge(RULE, told.state, START, at(55))
    assert (waiting.tell, waiting.stop) == (False, False)
    assert judge(RULE, waiting.state, START, at(60)).stop


def test_a_use_after_the_notice_takes_it_back_and_the_next_one_is_told_again() -> None:
    told = judge(RULE, IdleState(START), START, at(50))
    used = judge(RULE, told.state, at(55), at(56))
    assert (used.tell, used.stop, used.stops_at) == (False, False, at(115))
    assert judge(RULE, used.state, at(55), at(106)).tell


def test_whoever_could_not_be_told_in_time_gets_the_whole_notice_first() -> None:
    late = judge(RULE, IdleState(START), START, at(300))  # the portal was away
    assert (late.tell, late.stop, late.stops_at) == (True, False, at(310))
    assert not judge(RULE, late.state, START, at(309)).stop
    assert judge(RULE, late.state, START, at(310)).stop


def test_keeping_alive_moves_the_stop_and_no_further_than_the_profile_allows() -> None:
    state = IdleState(START)
    kept = keep(state, at(50), 3600)
    assert stop_instant(RULE, kept) == at(110)
    assert stop_instant(RULE, keep(state, at(50), 86_400)) == at(180)
    assert judge(RULE, kept, START, at(99)).stops_at == at(110)
    assert judge(RULE, kept, START, at(100)).tell
    assert stop_instant(RULE, keep(kept, at(109), 86_400)) == at(180)  # again and again: the same last instant
    assert stop_instant(RULE, keep(keep(state, at(50), 7200), at(51), 60)) == at(170)  # a longer wish stands


def test_what_it_is_kept_beyond_is_the_last_use_even_where_that_is_learnt_after_the_wish() -> None:
    """The quota service hears of a use a look later: the owner who keeps a session that was just used loses nothing by that."""
    wish = keep(IdleState(START), at(50), 86_400)  # used at 49, which nobody has told yet
    assert judge(RULE, wish, at(49), at(51)).stops_at == at(49 + 60 + 120)


def test_a_profile_without_a_limit_stops_nobody() -> None:
    verdict = judge(IdleRule(0, 600, 0), IdleState(START), START, at(100_000))
    assert (verdict.tell, verdict.stop, verdict.stops_at) == (False, False, None)


looks = st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.booleans()), max_size=120)


@given(idle_s=st.integers(2, 5000), notice_s=st.integers(1, 5000), keep_s=st.integers(0, 5000), looks=looks)
def test_nobody_is_stopped_untold_or_while_it_works_and_nothing_runs_idle_for_ever(
    idle_s: int, notice_s: int, keep_s: int, looks: list[tuple[int, bool, bool]]
) -> None:
    rule, state, now, used, told_at = IdleRule(idle_s, notice_s, keep_s), IdleState(START), START, START, None
    for step, works, keeps in looks:
        now += timedelta(minutes=step)
        used = now if works else used
        if keeps:
            state = keep(state, now, 3600)
            told_at = None
        verdict = judge(rule, state, used, now)
        state = verdict.state
        told_at = now if verdict.tell else told_at if state.told_at else None
        if verdict.stop:
            assert told_at is not None
            assert now - told_at >= rule.lead
            assert now - used >= timedelta(seconds=idle_s)
            return
        last = timedelta(seconds=idle_s + keep_s) + rule.lead + timedelta(minutes=31 * 2)
        assert now - used < last or keeps or verdict.tell or told_at is not None

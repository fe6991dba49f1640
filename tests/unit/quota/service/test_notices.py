"""Who is told what, when, and once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.messages import render
from quota.domain.notice import Choice, Notice, NoticeKind, Topic
from quota.domain.project import ProjectRole
from quota.domain.session import SessionState
from quota.service import endings, members, notices, sessions
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.callers import Caller
from quota.service.notice_pass import EVERY_S, NoticePass
from quota.service.services import Services
from tests.fakes import World, world

HOUR = 3_600_000


def mailing(made: World) -> Services:
    made.services = replace(made.services, sends_mail=True)
    return made.services


async def running(made: World, owner: Caller, project: ProjectId, *, runtime_s: int = 7200) -> HoldId:
    """A session of `owner` that started now."""
    hold_id = HoldId(f"hold-{len(made.books.holds) + 1:04}")
    request = SessionHoldRequest(hold_id, owner.person.hub_name, project, "gpu1", "lab", runtime_s, "")
    await place_session_hold(made.services, request)
    now = made.clock.now()
    session = made.books.sessions[hold_id]
    made.books.sessions[hold_id] = replace(
        session, state=SessionState.RUNNING, started_at=now, alive_at=now, ends_at=now + timedelta(seconds=runtime_s)
    )
    return hold_id


def told(made: World, kind: NoticeKind | None = None) -> list[Notice]:
    return [one for one in made.books.told.notices if kind is None or one.kind is kind]


async def test_the_three_notices_before_an_end_come_when_they_are_due_and_once() -> None:
    made = world()
    services, pi = mailing(made), made.person("pi")
    await running(made, pi, made.project(pi, gpu_ms=100 * HOUR))
    looks, late_s = NoticePass(services), []
    ends = made.clock.now() + timedelta(seconds=7200)
    while made.clock.now() < ends:
        if await looks.run():
            newest = told(made)[-1]
            late_s.append(newest.params["step_s"] - (ends - made.clock.now()).total_seconds())  # type: ignore[operator]
        assert 0 < looks.due_in_s() <= EVERY_S
        made.clock.tick(looks.due_in_s())
    assert [one.params["step_s"] for one in told(made)] == [1800, 600, 120]
    assert all(0 <= late <= EVERY_S for late in late_s)
    assert [mail.notice.params["step_s"] for mail in made.books.told.mails.values()] == [1800]


async def test_a_portal_that_was_away_tells_the_nearest_step_only_and_how_long_is_really_left() -> None:
    made = world()
    pi = made.person("pi")
    await running(made, pi, made.project(pi, gpu_ms=100 * HOUR))
    made.clock.tick(7200 - 300)
    await NoticePass(made.services).run()
    (only,) = told(made)
    assert (only.params["step_s"], only.params["left_s"]) == (600, 300)


async def test_another_process_and_a_restart_tell_nobody_twice() -> None:
    made = world()
    pi = made.person("pi")
    await running(made, pi, made.project(pi, gpu_ms=100 * HOUR))
    made.clock.tick(7200 - 1790)
    assert [await NoticePass(made.services).run() for _ in range(3)] == [1, 0, 0]


async def test_an_extension_makes_new_notices_and_hides_the_old_ones() -> None:
    made = world()
    pi = made.person("pi")
    hold_id = await running(made, pi, made.project(pi, gpu_ms=100 * HOUR))
    looks = NoticePass(made.services)
    made.clock.tick(7200 - 600)
    await looks.run()
    assert [one.kind for one in (await notices.unread(made.services, pi))[0]] == [NoticeKind.ENDING]
    session = made.books.sessions[hold_id]
    assert session.ends_at is not None
    made.books.sessions[hold_id] = replace(session, ends_at=session.ends_at + timedelta(hours=1))
    assert (await notices.unread(made.services, pi))[0] == []
    made.clock.tick(3600)
    await looks.run()
    assert len((await notices.unread(made.services, pi))[0]) == 1
    assert len(told(made)) == 2


async def test_an_ended_session_leaves_no_notice_of_its_end_on_the_page() -> None:
    made = world()
    pi = made.person("pi")
    hold_id = await running(made, pi, made.project(pi, gpu_ms=100 * HOUR))
    made.clock.tick(7200 - 600)
    await NoticePass(made.services).run()
    made.books.sessions[hold_id] = replace(made.books.sessions[hold_id], state=SessionState.SETTLED)
    assert (await notices.unread(made.services, pi))[0] == []
    assert len((await notices.listed(made.services, pi, before=None, limit=10)).notices) == 1


async def test_somebody_elses_stop_is_told_to_the_owner_with_their_name_and_the_owners_own_is_not() -> None:
    made = world()
    pi, member = made.person("pi"), made.person("member")
    project = made.project(pi, gpu_ms=100 * HOUR)
    await members.put_member(made.services, pi, project, "member", ProjectRole.MEMBER)
    theirs, own = await running(made, member, project), await running(made, member, project)
    await sessions.stop(made.services, pi, theirs)
    await sessions.stop(made.services, pi, theirs)
    await sessions.stop(made.services, member, own)
    (only,) = told(made)
    assert (only.kind, only.person_id, only.params["by"]) == (NoticeKind.STOPPED, member.id, "pi")


async def test_a_removed_member_is_told_each_time_and_one_who_leaves_is_not() -> None:
    made = world()
    pi, member = made.person("pi"), made.person("member")
    project = made.project(pi, gpu_ms=HOUR)
    for _ in range(2):
        made.clock.tick(10)
        await members.put_member(made.services, pi, project, "member", ProjectRole.MEMBER)
        await members.remove_member(made.services, pi, project, "member")
    await members.put_member(made.services, pi, project, "member", ProjectRole.MEMBER)
    await members.remove_member(made.services, member, project, "member")
    assert [(one.kind, one.person_id) for one in told(made)] == [(NoticeKind.REMOVED, member.id)] * 2


async def test_everybody_in_a_suspended_project_is_told_why_each_time_and_mailed_unless_they_chose_otherwise() -> None:
    made = world()
    services, pi, ann = mailing(made), made.person("pi"), made.person("ann")
    project = made.project(pi, gpu_ms=100 * HOUR)
    await members.put_member(services, pi, project, "ann", ProjectRole.MEMBER)
    await notices.choose(services, ann, Choice(mails=frozenset()))
    hold_id = await running(made, ann, project)
    made.clock.tick(300)
    for _ in range(2):
        await endings.suspend_project(services, pi, project, finish=False, reason="the audit")
        made.clock.tick(60)
        await endings.resume_project(services, pi, project, reason="done")
    found = told(made, NoticeKind.SUSPENDED)
    assert sorted(one.person_id for one in found) == sorted([pi.id, ann.id] * 2)
    assert {one.params["reason"] for one in found} == {"the audit"}
    assert "the audit" in render(found[0].code, found[0].params, str).message
    assert {mail.notice.person_id for mail in made.books.told.mails.values()} == {pi.id}
    await NoticePass(services).run()  # and whoever has a session running reads when it ends
    (ends,) = told(made, NoticeKind.ENDING)
    assert (ends.subject, ends.person_id, ends.params["step_s"]) == (hold_id, ann.id, 600)
    assert render(ends.code, ends.params, str).message.endswith("in 8 min: its project was suspended.")


async def test_whoever_has_to_end_by_a_decision_is_mailed_why_ten_minutes_before() -> None:
    made = world()
    services, pi, ann = mailing(made), made.person("pi"), made.person("ann")
    project = made.project(pi, gpu_ms=100 * HOUR)
    await members.put_member(services, pi, project, "ann", ProjectRole.MANAGER)
    await running(made, ann, project)
    made.clock.tick(300)
    await members.put_member(services, pi, project, "ann", ProjectRole.MEMBER)
    await NoticePass(services).run()
    (mail,) = made.books.told.mails.values()
    assert (mail.notice.person_id, mail.notice.topic) == (ann.id, Topic.STOPPED)
    assert "your role in its project was lowered" in render(mail.notice.code, mail.notice.params, str).message


async def test_leads_hear_of_a_low_balance_and_everybody_of_an_exhausted_one() -> None:
    made = world()
    pi, member = made.person("pi"), made.person("member")
    project = made.project(pi, gpu_ms=HOUR)
    await members.put_member(made.services, pi, project, "member", ProjectRole.MEMBER)
    charge(made, project, charged=HOUR * 8 // 10)
    looks = NoticePass(made.services)
    await looks.run()
    assert [(one.kind, one.person_id) for one in told(made)] == [(NoticeKind.LOW, pi.id)]
    charge(made, project, charged=HOUR)
    await looks.run()
    assert len(told(made)) == 1  # looked at balances a moment ago
    made.clock.tick(20)
    await looks.run()
    exhausted = {one.person_id for one in told(made, NoticeKind.EXHAUSTED)}
    assert exhausted == {pi.id, member.id}
    made.clock.tick(20)
    await looks.run()
    assert len(told(made)) == 3


async def test_a_mail_is_queued_only_where_the_site_sends_any_and_the_person_wants_it() -> None:
    made = world()
    pi = made.person("pi")
    notice = Notice(pi.id, NoticeKind.LOW, "a", "80@1", made.clock.now())

    async def queued(services: Services, occasion: str) -> int:
        await services.store.write(lambda tx: notices.tell(services, tx, replace(notice, occasion=occasion)))
        return len(made.books.told.mails)

    assert await queued(made.services, "1") == 0
    services = mailing(made)
    assert await queued(services, "2") == 1
    await notices.choose(services, pi, Choice(None, frozenset({Topic.ENDING})))
    assert await queued(services, "3") == 1
    assert len(told(made)) == 3


async def test_nobody_puts_away_what_others_were_told() -> None:
    made = world()
    pi, other = made.person("pi"), made.person("other")
    notice = Notice(pi.id, NoticeKind.REMOVED, "p", "1", made.clock.now())
    await made.services.store.write(lambda tx: notices.tell(made.services, tx, notice))
    await notices.put_away(made.services, other, [1])
    assert len((await notices.unread(made.services, pi))[0]) == 1
    await notices.put_away(made.services, pi, [1])
    assert (await notices.unread(made.services, pi))[0] == []


def charge(made: World, project: ProjectId, *, charged: int) -> None:
    """Let the project's GPU allocation be charged so much."""
    key = AllocationId(f"{project}-gpu")
    known = made.books.allocations[key]
    made.books.allocations[key] = replace(known, balance=replace(known.balance, charged=charged))

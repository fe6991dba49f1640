"""Notices and the outbox, on both engines: one row a notice, claims that end, and a seq that nobody can overtake."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from quota.domain.ids import PersonId
from quota.domain.notice import MAILED_BY_DEFAULT, Choice, Notice, NoticeKind, Topic
from quota.store.database import Database
from quota.store.unit_of_work import SqlStore
from tests import ledgers
from tests.ledgers import NOW
from tests.waiting import PATIENCE_S


def notice(person: PersonId, occasion: str) -> Notice:
    params = {"project": "数据", "n": 1}
    return Notice(person, NoticeKind.LOW, "account-0", occasion, NOW, params, until=NOW + timedelta(hours=1))


async def test_what_was_told_is_read_back_and_told_once(database: Database) -> None:
    store = SqlStore(database)
    ann = (await store.write(lambda tx: ledgers.register(tx, "ann"))).id
    one = notice(ann, "80@1")
    assert [await store.write(lambda tx: tx.notices.add(one, mail=True)) for _ in range(2)] == [True, False]
    (read,) = await store.read(lambda tx: tx.notices.unread(ann, limit=5))
    assert (read.id, read.params, read.until, read.at) == (one.id, one.params, one.until, NOW)
    assert len(await store.write(lambda tx: tx.outbox.claim(NOW, NOW, limit=9))) == 1


async def test_many_who_tell_at_once_give_one_notice_and_seqs_without_a_gap_that_a_reader_could_miss(
    database: Database,
) -> None:
    store = SqlStore(database)
    ann = (await store.write(lambda tx: ledgers.register(tx, "ann"))).id
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 10:  # ends with the last of the ten
            news = await store.read(lambda tx: tx.notices.after(ann, seen[-1] if seen else 0, limit=3))
            seen.extend(one.seq for one in news)
            await asyncio.sleep(0)

    same = [notice(ann, f"{number % 10}@1") for number in range(40)]
    following = asyncio.create_task(follow())
    added = await asyncio.gather(
        *(store.write(lambda tx, one=one: tx.notices.add(one, mail=False)) for one in same)  # type: ignore[misc]
    )
    await asyncio.wait_for(following, PATIENCE_S)
    assert sum(added) == 10
    assert seen == sorted(one.seq for one in await store.read(lambda tx: tx.notices.after(ann, 0, limit=100)))
    assert await store.read(lambda tx: tx.notices.latest([ann, PersonId("nobody")])) == {ann: seen[-1]}


async def test_putting_away_counts_once_and_for_ones_own_only(database: Database) -> None:
    store = SqlStore(database)
    ann = (await store.write(lambda tx: ledgers.register(tx, "ann"))).id
    bob = (await store.write(lambda tx: ledgers.register(tx, "bob"))).id
    await store.write(lambda tx: tx.notices.add(notice(ann, "1"), mail=False))
    (one,) = await store.read(lambda tx: tx.notices.of_person(ann, before=None, limit=5))
    await store.write(lambda tx: tx.notices.put_away(bob, [one.seq], NOW))
    assert len(await store.read(lambda tx: tx.notices.unread(ann, limit=5))) == 1
    for minutes in (1, 2):
        at = NOW + timedelta(minutes=minutes)
        await store.write(lambda tx, at=at: tx.notices.put_away(ann, [one.seq], at))  # type: ignore[misc]
    (read,) = await store.read(lambda tx: tx.notices.of_person(ann, before=None, limit=5))
    assert read.read_at == NOW + timedelta(minutes=1)
    assert await store.read(lambda tx: tx.notices.of_person(ann, before=one.seq, limit=5)) == []


async def test_two_senders_never_hold_one_mail_and_a_claim_ends_by_itself(database: Database) -> None:
    store = SqlStore(database)
    ann = (await store.write(lambda tx: ledgers.register(tx, "ann"))).id
    ids = {(one := notice(ann, str(number))).id for number in range(12)}
    for number in range(12):
        await store.write(lambda tx, n=number: tx.notices.add(notice(ann, str(n)), mail=True))  # type: ignore[misc]
    until = NOW + timedelta(minutes=2)
    claims = await asyncio.gather(*(store.write(lambda tx: tx.outbox.claim(NOW, until, limit=5)) for _ in range(4)))
    claimed = [letter.notice.id for claim in claims for letter in claim]
    assert (len(claimed), set(claimed)) == (12, ids)
    await store.write(lambda tx: tx.outbox.sent(claimed[0], NOW))
    await store.write(lambda tx: tx.outbox.failed(claimed[0], "too late", NOW))  # what was sent stays sent
    await store.write(lambda tx: tx.outbox.give_back(claimed[1:3]))
    assert len(await store.write(lambda tx: tx.outbox.claim(NOW, until, limit=20))) == 2
    later = await store.write(lambda tx: tx.outbox.claim(until, until, limit=20))
    assert {letter.notice.id for letter in later} == ids - {claimed[0]}
    assert one.id in ids


async def test_a_choice_outlives_a_sign_in(database: Database) -> None:
    store = SqlStore(database)
    ann = (await store.write(lambda tx: ledgers.register(tx, "ann"))).id
    assert (await store.read(lambda tx: tx.notices.choice(ann))).mails == MAILED_BY_DEFAULT
    chosen = Choice("zh", frozenset({Topic.PROJECT}))
    for wanted in (Choice(), chosen):
        await store.write(lambda tx, wanted=wanted: tx.notices.choose(ann, wanted))  # type: ignore[misc]
    await store.write(lambda tx: ledgers.register(tx, "ann"))
    assert await store.read(lambda tx: tx.notices.choice(ann)) == chosen

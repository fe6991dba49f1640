"""Notices on pages: in the reader's language, put away, and the choice of mails."""

from __future__ import annotations

from datetime import timedelta

from quota.domain.notice import MAILED_BY_DEFAULT, Notice, NoticeKind, Topic
from quota.domain.session import SessionState
from tests.fake_notices import FakeNotices
from tests.unit.quota.pages.browser import Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW


def told(site: Site, name: str, kind: NoticeKind, subject: str = "x", **params: object) -> None:
    number = len(site.world.told.notices)
    notice = Notice(site.world.person(name).id, kind, subject, str(number), NOW - timedelta(minutes=number), params)
    FakeNotices(site.world.told).add(notice, mail=False)


async def test_the_home_page_says_what_happened_in_the_readers_language_and_it_can_be_put_away() -> None:
    site = Site()
    told(site, "ada", NoticeKind.STOPPED, profile="gpu1", server_name="", by="grace", reason="The node is needed.")
    async with site.browser("ada") as ada, site.browser("ada", language="zh") as chinese:
        text = text_of(await ada.get())
        assert "Your session “1 simulated GPU” was stopped by grace: The node is needed." in text
        assert "您的会话“1 块模拟 GPU”已被 grace 停止" in text_of(await chinese.get())
        away = await ada.submit("notices/put-away", {"seq": "1"})
        assert away.headers["location"] == "/services/quota/"
        assert "stopped by grace" not in text_of(await ada.get())
        assert "stopped by grace" in text_of(await ada.get("notices"))


async def test_nobody_sees_or_puts_away_what_another_was_told() -> None:
    site = Site()
    told(site, "ada", NoticeKind.REMOVED, project="Folding")
    async with site.browser("eve") as eve, site.browser("ada") as ada:
        await eve.submit("notices/put-away", {"seq": "1"})
        assert "Folding" not in text_of(await eve.get("notices"))
        assert "no longer a member of Folding" in text_of(await ada.get())


async def test_a_notice_before_an_end_shows_its_instants_to_the_readers_zone() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    session = site.world.session(project, "ada", SessionState.RUNNING)
    assert session.ends_at is not None
    params = {"profile": "gpu1", "ends_at": session.ends_at.isoformat(), "left_s": 600}
    told(site, "ada", NoticeKind.ENDING, session.hold_id, **params)
    async with site.browser("ada") as ada:
        page = await ada.get()
    assert 'ends at <time datetime="2026-03-10T13:25:00Z"' in page.text
    assert "in 10 min." in page.text


async def test_texts_of_people_are_escaped_in_notices() -> None:
    site = Site()
    told(site, "ada", NoticeKind.REMOVED, project="<script>alert(1)</script>")
    async with site.browser("ada") as ada:
        for path in ("", "notices"):
            assert "<script>alert" not in (await ada.get(path)).text


async def test_the_older_notices_are_a_page_further_and_nonsense_shows_the_newest() -> None:
    site = Site()
    for number in range(60):
        told(site, "ada", NoticeKind.REMOVED, project=f"Project {number:02}")
    async with site.browser("ada") as ada:
        first = await ada.get("notices")
        assert "Project 59" in first.text
        assert "Project 09" not in first.text
        assert 'href="/services/quota/notices?before=11"' in first.text
        assert "Project 09" in (await ada.get("notices?before=11")).text
        assert "Project 59" in (await ada.get("notices?before=nonsense")).text


async def test_people_choose_their_mails_and_the_language_of_them() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        page = await ada.get("notices/choices")
        assert page.text.count(" checked") == len(MAILED_BY_DEFAULT)
        assert "sends no mails at present" in text_of(page)
        kept = await ada.submit("notices/choices", {"language": "zh", "mail_ending": "on", "mail_nonsense": "on"})
        assert kept.headers["location"] == "/services/quota/notices/choices?said=chosen"
        page = await ada.get("notices/choices")
        assert page.text.count(" checked") == 1
        assert '<option value="zh" lang="zh-Hans" selected>' in page.text
        await ada.submit("notices/choices", {"language": "xx"})
    choice = site.world.told.choices[site.world.person("ada").id]
    assert (choice.language, choice.mails) == (None, frozenset())


async def test_each_topic_has_words_to_choose_it_by() -> None:
    async with Site().browser("ada") as ada:
        page = await ada.get("notices/choices")
    for topic in Topic:
        assert f'name="mail_{topic.value}"' in page.text

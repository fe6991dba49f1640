"""Home: figures, running sessions, and what a newcomer reads."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

from quota.domain.idle import IdleState
from quota.domain.ids import AllocationId
from quota.domain.session import EndReason, SessionState, Target
from quota.domain.units import Unit
from tests.unit.quota.pages.browser import Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW


async def test_a_newcomer_reads_what_to_do_and_their_user_name() -> None:
    async with Site().browser("nadia") as browser:
        page = await browser.get()
    assert page.status_code == 200
    assert "Ask its PI to add your user name: nadia" in text_of(page)
    assert 'href="/services/quota/apply"' in page.text
    assert "commons/start" not in page.text


async def test_numbers_come_first_and_agree() -> None:
    site = Site()
    site.world.project("Folding", "ada", gpu=(10 * HOUR, 2_340_000, 4_980_000), tokens=(1_000_000, 12_345, 0))
    async with site.browser("ada") as browser:
        text = text_of(await browser.get())
    assert "7.97 of 10 GPU-h left 6.5 % used · ends 6 Sep 2026" in text
    assert "charged 0.65 held 1.38 available 7.97" in text
    assert "987,655 of 1,000,000 tokens left" in text
    assert "last updated 12:04 UTC" in text


async def test_start_leads_to_the_chooser_with_the_project() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    async with site.browser("ada") as browser:
        page = await browser.get()
    assert f'href="/hub/commons/start?project={project}"' in page.text
    assert page.text.count("btn-primary") == 1


async def test_at_zero_the_button_asks_for_more() -> None:
    site = Site()
    site.world.project("Folding", "ada", gpu=(10 * HOUR, 10 * HOUR, 0))
    async with site.browser("ada") as browser:
        page = await browser.get()
    assert "Request more" in text_of(page)
    assert page.text.count("btn-primary") == 1


async def test_at_zero_what_is_free_still_starts() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 10 * HOUR, 0))
    site.world.project("Overdrawn", "ada", gpu=(HOUR, 2 * HOUR, 0))
    site.world.project("Ready", "ada", gpu=(HOUR, 0, 0))
    async with site.browser("ada") as ada, site.browser("ada", language="zh") as reader:
        page = await ada.get()
        assert f'href="/hub/commons/start?project={project}&amp;profile=cpu"' in page.text
        assert page.text.count("profile=cpu") == 1
        assert "Start CPU only Folding" in text_of(page)
        assert "启动“仅 CPU” Folding" in text_of(await reader.get())
        assert "profile=cpu" in (await ada.get(f"projects/{project}")).text


async def test_a_session_that_was_not_charged_yet_shows_no_false_zero() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    fresh = {"charged": 0, "alive_at": None}
    site.world.session(project, "ada", SessionState.RUNNING, **fresh, started_at=NOW - timedelta(seconds=8))
    site.world.session(project, "ada", SessionState.RUNNING, **fresh)
    starting = site.world.session(project, "ada", SessionState.HELD, **fresh, started_at=None)
    async with site.browser("ada") as ada:
        text = text_of(await ada.get())
        asked = text_of(await ada.get(f"sessions/{starting.hold_id}/stop"))
    assert "for 8 s 1 GPU-h per hour first charge within a minute" in text
    assert "for 39 min 1 GPU-h per hour not charged yet" in text
    assert "charged once it runs" in text
    assert "charged 0 GPU-h" not in text
    assert "0 GPU-h so far" not in asked


async def test_what_was_charged_says_up_to_when() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    site.world.session(project, "ada", SessionState.RUNNING, alive_at=NOW - timedelta(seconds=17))
    async with site.browser("ada") as ada:
        assert "charged 0.65 GPU-h up to 12:03:43 UTC" in text_of(await ada.get())


async def test_an_overdraft_is_shown_negative() -> None:
    site = Site()
    site.world.project("Folding", "ada", gpu=(HOUR, 2 * HOUR, 0))
    async with site.browser("ada") as browser:
        text = text_of(await browser.get())
    assert "−1 of 1 GPU-h left" in text
    assert "overdrawn" in text


async def test_a_running_session_shows_rate_charge_hold_and_end() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    session = site.world.session(project, "ada", SessionState.RUNNING)
    async with site.browser("ada") as browser:
        page = await browser.get("now")
    text = text_of(page) or page.text
    for part in ("1 simulated GPU", "running", "39 min", "1 GPU-h per hour", "charged 0.65 GPU-h", "held 1.38 GPU-h"):
        assert part in page.text, (part, text)
    assert 'datetime="2026-03-10T13:25:00Z"' in page.text
    assert 'href="/user/ada/"' in page.text
    assert f'href="/services/quota/sessions/{session.hold_id}/stop"' in page.text


async def test_why_the_last_session_ended_is_said() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    ended = {"ended_at": NOW - timedelta(hours=1), "end_reason": EndReason.DEADLINE, "stop_reason": None}
    site.world.session(project, "ada", SessionState.SETTLED, charged=10_000, **ended)
    async with site.browser("ada") as browser:
        text = text_of(await browser.get())
        site.world.session(project, "ada", SessionState.SETTLED, stop_reason="by:grace")
        after = text_of(await browser.get())
    assert "Charged 0.0028 GPU-h. The chosen runtime was over." in text
    assert "Stopped by grace." in after


async def test_an_outage_is_a_clear_page_and_never_zeros() -> None:
    site = Site()
    site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    async with site.browser("ada") as browser:
        site.world.down = True
        page = await browser.get()
    assert page.status_code == 503
    assert page.headers["retry-after"]
    text = text_of(page)
    assert "Not available just now" in text
    assert "none are shown" in text
    assert "GPU-h left" not in text
    assert "0 of" not in text


async def test_an_allocation_that_has_not_begun_or_is_over_says_so() -> None:
    site = Site()
    for title, days in (("Early", 10), ("Late", -300)):
        project = site.world.project(title, "ada", gpu=(HOUR, 0, 0))
        for unit in ("gpu-ms", "tokens"):
            key = AllocationId(f"{project}-{unit}")
            known = site.world.allocations[key]
            start = NOW + timedelta(days=days)
            site.world.allocations[key] = replace(known, starts_at=start, ends_at=start + timedelta(days=30))
    async with site.browser("ada") as browser:
        text = text_of(await browser.get())
    assert "The allocation starts 20 Mar 2026" in text
    assert "Apply for a new one to go on." in text


async def test_texts_of_people_are_escaped() -> None:
    site = Site()
    site.world.project("<script>alert(1)</script>", "ada", gpu=(HOUR, 0, 0))
    async with site.browser("ada") as browser:
        page = await browser.get()
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


async def test_chinese_readers_get_chinese_pages_and_may_choose_otherwise() -> None:
    site = Site()
    site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    async with site.browser("ada", language="zh-CN,zh;q=0.9,en;q=0.5") as browser:
        page = await browser.get()
        assert '<html lang="zh-Hans"' in page.text
        assert "剩余 10 / 10 GPU 小时" in text_of(page)
        chosen = await browser.send("language", {"language": "en", "next": "/services/quota/apply"})
        assert (chosen.status_code, chosen.headers["location"]) == (303, "/services/quota/apply")
        assert '<html lang="en"' in (await browser.get()).text


async def test_a_session_that_has_to_end_says_when_and_why() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    soon = NOW + timedelta(minutes=9)
    wanted = {"target": Target.STOPPED, "stop_at": soon, "ends_at": soon, "stop_reason": "suspended"}
    site.world.session(project, "ada", SessionState.RUNNING, **wanted)
    async with site.browser("ada") as ada, site.browser("ada", language="zh") as chinese:
        text = text_of(await ada.get())
        assert "stops soon" in text
        assert "reason: its project was suspended" in text
        assert "Extend" not in text
        assert "原因：" in text_of(await chinese.get())


async def test_when_it_runs_out_is_a_range_with_its_definition_or_honestly_nothing() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(1000 * HOUR, 200 * HOUR, 0), tokens=(1000, 10, 0))
    today = NOW.date()
    week = {today - timedelta(days=back): 12 * HOUR for back in range(7)}
    before = {today - timedelta(days=back): 8 * HOUR for back in range(7, 28)}
    site.world.used[project] = {Unit.GPU_MS: week | before}
    async with site.browser("ada") as ada, site.browser("ada", language="zh") as chinese:
        text = text_of(await ada.get())
        assert "At this rate runs out 11 May – 5 Jun" in text
        assert "When it runs out: not enough history" in text  # the tokens
        assert "divided by each gives two days" in text
        assert "按此速度将于 5月11日至6月5日 用尽" in text_of(await chinese.get())
        assert "At this rate runs out 11 May – 5 Jun" in text_of(await ada.get(f"projects/{project}"))


async def test_what_was_put_in_a_forecast_is_the_projects_own_use() -> None:
    site = Site()
    mine = site.world.project("Folding", "ada", gpu=(1000 * HOUR, 0, 0))
    other = site.world.project("Weather", "ada", gpu=(1000 * HOUR, 0, 0))
    site.world.used[other] = {Unit.GPU_MS: {NOW.date() - timedelta(days=back): 100 * HOUR for back in range(5)}}
    async with site.browser("ada") as ada:
        assert "not enough history" in text_of(await ada.get(f"projects/{mine}"))
        assert "At this rate runs out" in text_of(await ada.get(f"projects/{other}"))


async def test_one_click_extends_within_the_profiles_limit_and_says_what_it_holds() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    hour = site.world.session(project, "ada", SessionState.RUNNING)
    short = site.world.session(project, "ada", SessionState.RUNNING, extended_s=43_200 - 7200 - 1800)
    longest = site.world.session(project, "ada", SessionState.RUNNING, extended_s=43_200 - 7200)
    async with site.browser("ada") as ada, site.browser("ada", language="zh") as chinese:
        page = await ada.get()
        text = text_of(page)
        assert "Extend 1 h 1 simulated GPU holds 1 GPU-h more" in text
        assert "Extend 30 min 1 simulated GPU holds 0.5 GPU-h more" in text
        for session, there in ((hour, True), (short, True), (longest, False)):
            assert (f'action="/services/quota/sessions/{session.hold_id}/extend"' in page.text) is there
        ids = re.findall(r'name="extension_id" value="([0-9a-f]{32})"', page.text)
        assert len(set(ids)) == 2
        assert "延长 1 小时" in text_of(await chinese.get())


async def test_what_waits_is_idle_or_is_not_heard_of_is_said_in_words() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    waits = {"started_at": None, "alive_at": None, "ends_at": None, "charged": 0, "waiting_since": NOW}
    site.world.session(project, "ada", SessionState.PENDING, **waits, note="Waiting for GPUs that are in use.")
    site.world.session(project, "ada", SessionState.UNKNOWN, alive_at=NOW - timedelta(minutes=9))
    quiet = site.world.session(project, "ada", SessionState.RUNNING)
    site.world.told.idle[quiet.hold_id] = IdleState(NOW - timedelta(minutes=52), told_at=NOW - timedelta(minutes=2))
    async with site.browser("ada") as ada:
        page = await ada.get()
    text = text_of(page)
    assert "in the queue" in text
    assert "waits since 10 Mar 2026 12:04 UTC Waiting for GPUs that are in use." in text
    assert "charged once it runs" in text
    assert "no news from it" in text
    assert "last seen 10 Mar 2026 11:55 UTC" in text
    assert "idle, stops 12:12 UTC" in text
    assert f'action="/services/quota/sessions/{quiet.hold_id}/keep-alive"' in page.text


async def test_those_who_decide_read_how_many_applications_wait_and_others_do_not() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("chair", "read", "decide") as chair:
        fields = {
            "title": "Folding", "purpose": "We fold proteins.", "gpu_hours": "5", "tokens": "10",
            "starts_on": "2026-03-10", "ends_on": "2026-12-31",
        }  # fmt: skip
        sent = await ada.submit("apply", {"application_id": "a" * 32, **fields})
        assert sent.status_code == 303, sent.text
        assert "1 application waits for a decision" in text_of(await chair.get())
        assert "waits for a decision" not in text_of(await ada.get())

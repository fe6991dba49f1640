"""Shares on pages: leads set them, each member reads their own."""

from __future__ import annotations

from quota.domain.ids import ProjectId
from quota.domain.limits import member_limit
from quota.domain.project import ProjectRole
from quota.domain.units import Unit
from quota.service.ports import LimitStanding
from tests.unit.quota.pages.browser import Site, text_of
from tests.unit.quota.pages.fakes import HOUR


def site_with_members() -> tuple[Site, ProjectId]:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(100 * HOUR, 0, 0), tokens=(1000, 0, 0))
    site.world.join(project, "ann")
    site.world.join(project, "bob", ProjectRole.MANAGER)
    return site, project


def share(site: Site, project: ProjectId, name: str, cap: int, *, held: int = 0) -> None:
    limit = member_limit(project, site.world.person(name).id, Unit.GPU_MS, cap)
    site.world.shares[limit.id] = LimitStanding(limit.id, cap, 0, held)


async def test_a_lead_sets_shares_in_both_units_and_the_member_reads_them() -> None:
    site, project = site_with_members()
    path = f"projects/{project}/members/ann/limits"
    async with site.browser("ada") as ada, site.browser("ann") as ann, site.browser("ann", language="zh") as chinese:
        assert "Limits of Ann" in text_of(await ada.get(path))
        done = await ada.submit(path, {"gpu_total": "12.5", "tokens_total": "500"})
        assert done.headers["location"] == f"/services/quota/projects/{project}?said=limits_set"
        for reader in (ada, ann):
            text = text_of(await reader.get(f"projects/{project}"))
            assert "0 of 12.5 GPU-h" in text
            assert "0 of 500 tokens" in text
        assert "0 / 500 token" in text_of(await chinese.get(f"projects/{project}"))
        assert 'name="gpu_total" value="12.5"' in (await ada.get(path)).text
        await ada.submit(path, {"gpu_total": "", "tokens_total": "500"})
        assert "GPU-h 0 of" not in text_of(await ann.get(f"projects/{project}"))


async def test_what_a_day_allows_is_set_in_both_units_and_shown_with_what_the_day_used() -> None:
    site, project = site_with_members()
    path = f"projects/{project}/members/ann/limits"
    async with site.browser("ada") as ada, site.browser("ann") as ann, site.browser("ann", language="zh") as chinese:
        await ada.submit(path, {"gpu_day": "2.5", "tokens_day": "300"})
        page = (await ada.get(path)).text
        assert 'name="gpu_day" value="2.5"' in page
        assert 'name="tokens_day" value="300"' in page
        text = text_of(await ann.get(f"projects/{project}"))
        assert "0 of 2.5 GPU-h today (UTC)" in text
        assert "0 of 300 tokens today (UTC)" in text
        assert "今天" in text_of(await chinese.get(f"projects/{project}"))


async def test_nonsense_comes_back_with_its_reason_and_sets_nothing() -> None:
    site, project = site_with_members()
    async with site.browser("ada") as ada:
        for field, value in (
            ("gpu_total", "much"),
            ("gpu_total", "-1"),
            ("tokens_total", "1.5"),
            ("tokens_total", "1e9"),
        ):
            page = await ada.submit(f"projects/{project}/members/ann/limits", {field: value})
            assert page.status_code == 400
            assert f'value="{value}"' in page.text
            assert 'aria-invalid="true"' in page.text
    assert site.world.shares == {}


async def test_a_member_sees_no_form_and_nobody_elses_share() -> None:
    site, project = site_with_members()
    share(site, project, "bob", 7 * HOUR)
    async with site.browser("ann") as ann:
        assert (await ann.get(f"projects/{project}/members/ann/limits")).status_code == 403
        assert (await ann.submit(f"projects/{project}/members/ann/limits", {"gpu_total": "9"})).status_code == 403
        assert "of 7 GPU-h" not in text_of(await ann.get(f"projects/{project}"))


async def test_a_share_that_is_used_up_says_so_in_words() -> None:
    site, project = site_with_members()
    share(site, project, "ann", HOUR, held=HOUR)
    async with site.browser("ann") as browser:
        assert "1 of 1 GPU-h reached" in text_of(await browser.get(f"projects/{project}"))

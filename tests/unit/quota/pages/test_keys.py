"""A project's keys and its use of models, as people see them."""

from __future__ import annotations

import csv
import io
import re
from datetime import date, timedelta
from html import unescape

from quota.domain.gateway_key import hash_of, read_key
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole
from quota.service.gateway_ports import TierUse, UseOfDay
from tests.unit.quota.pages.browser import Browser, Site, hidden, text_of
from tests.unit.quota.pages.fakes import NOW


def site_with_project() -> tuple[Site, ProjectId]:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(0, 0, 0))
    site.world.person("rui", "Rui Chen")
    return site, project


def shown_key(text: str) -> str | None:
    found = re.search(r'readonly value="([^"]*)"', text)
    return unescape(found[1]) if found is not None else None


async def made_by(browser: Browser, project: ProjectId, **fields: str) -> tuple[str, dict[str, str]]:
    page = await browser.get(f"projects/{project}/keys")
    form = {"form_token": hidden(page, "form_token"), "key_id": hidden(page, "key_id"), "name": "laptop", "days": "30"}
    answered = await browser.send(f"projects/{project}/keys", {**form, **fields})
    assert answered.status_code == 200, text_of(answered)
    assert answered.headers["cache-control"] == "no-store"
    return answered.text, {**form, **fields}


async def test_a_key_is_shown_once_and_stored_as_a_hash() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        text, form = await made_by(ada, project, tokens_max="1,000")
        key = shown_key(text)
        assert key is not None
        parts = read_key(key)
        assert parts is not None
        stored = site.world.books.gateway_keys[parts[0]]
        assert (stored.secret_hash, stored.tokens_max) == (hash_of(parts[1]), 1000)
        again = await ada.send(f"projects/{project}/keys", form)
        assert shown_key(again.text) is None
        assert "nobody can show it again" in text_of(again)
        listed = await ada.get(f"projects/{project}/keys")
        assert key not in listed.text
        assert stored.shown in text_of(listed)
    assert len(site.world.books.gateway_keys) == 1


async def test_a_key_is_for_the_models_that_were_chosen() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        page = await ada.get(f"projects/{project}/keys")
        assert "Small model" in text_of(page)
        assert "Secret model" not in text_of(page)
        await made_by(ada, project, **{"model:small": "on"})
    assert [key.models for key in site.world.books.gateway_keys.values()] == [("small",)]


async def test_what_cannot_be_used_is_told_at_its_field_and_makes_no_key() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        for wrong in ({"name": ""}, {"days": "9999"}, {"days": "x"}, {"tokens_max": "many"}, {"model:gpt-5": "on"}):
            fields = {"name": "laptop", "days": "30", **wrong}
            answered = await ada.submit(f"projects/{project}/keys", fields)
            assert answered.status_code == 400
            assert "needs your attention" in text_of(answered)
    assert not site.world.books.gateway_keys


async def test_a_key_is_revoked_after_a_question() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        await made_by(ada, project)
        [key] = site.world.books.gateway_keys.values()
        asked = await ada.get(f"projects/{project}/keys/{key.id}/revoke")
        assert "Revoke the key laptop?" in text_of(asked)
        assert site.world.books.gateway_keys[key.id].revoked_at is None
        done = await ada.submit(f"projects/{project}/keys/{key.id}/revoke", {})
        assert done.headers["location"].endswith("/keys?said=key_revoked")
    assert site.world.books.gateway_keys[key.id].revoked_at == NOW


async def test_strangers_and_members_see_no_key_of_others() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        await made_by(ada, project)
        await ada.submit(f"projects/{project}/members", {"hub_name": "rui", "role": ProjectRole.MEMBER.value})
    [key] = site.world.books.gateway_keys.values()
    async with site.browser("rui") as rui:
        assert "laptop" not in text_of(await rui.get(f"projects/{project}/keys"))
        assert (await rui.submit(f"projects/{project}/keys/{key.id}/revoke", {})).status_code == 404
    async with site.browser("eve") as eve:
        for path in ("keys", f"keys/{key.id}/revoke", "usage", "usage.csv"):
            assert (await eve.get(f"projects/{project}/{path}")).status_code == 404


def used(site: Site, project: ProjectId) -> None:
    people = site.world.people
    today = NOW.date()
    rows = [
        UseOfDay(today - timedelta(days=3), people["ada"].id, "Ada", "small", 2, 100, 40, 50, 0, 150, 0),
        UseOfDay(today, people["rui"].id, "=Rui", "small", 1, 10, 0, 5, 0, 15, 1),
    ]
    site.world.books.uses[project] = rows


async def test_use_is_shown_by_day_member_and_model_with_its_table() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        used(site, project)
        page = await ada.get(f"projects/{project}/usage?days=7")
        text = text_of(page)
        assert "165 tokens charged in 3 requests" in text
        assert "1 of them estimated" in text
        assert "Ada 2 100 40 50 150" in text
        assert page.text.count('<rect class="charged"') == 7
        listed = list(csv.reader(io.StringIO((await ada.get(f"projects/{project}/usage.csv")).text.lstrip("\ufeff"))))
    assert listed[1][:3] == ["2026-03-07", "Ada", "small"]
    assert listed[2][1] == "'=Rui"
    assert date.fromisoformat(listed[2][0]) == NOW.date()


async def test_a_plain_member_sees_their_own_use() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        await ada.submit(f"projects/{project}/members", {"hub_name": "rui", "role": "member"})
    used(site, project)
    async with site.browser("rui") as rui:
        text = text_of(await rui.get(f"projects/{project}/usage"))
    assert "15 tokens charged in 1 request" in text
    assert "You see your own use" in text
    assert "Ada" not in text


async def test_tiers_are_for_those_who_award() -> None:
    site, _ = site_with_project()
    site.world.books.tiers = [TierUse("a100", "hall", "us", "small", "lab", 9, 700, 300, 1000, 5000)]
    async with site.browser("ada") as ada:
        assert (await ada.get("tiers")).status_code == 403
    async with site.browser("chair", "decide") as chair:
        text = text_of(await chair.get("tiers?days=7"))
    assert "small a100 hall us lab 9 1,000" in text

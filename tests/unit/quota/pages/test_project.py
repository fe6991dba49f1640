"""A project's page: members, statement, CSV; stopping a session."""

from __future__ import annotations

import csv
import io

import pytest

from quota.domain.ids import HoldId, ProjectId
from quota.domain.project import ProjectRole
from quota.domain.session import SessionState
from quota.domain.units import Unit
from tests.unit.quota.pages.browser import Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW


def site_with_project() -> tuple[Site, ProjectId]:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0))
    site.world.person("rui", "Rui Chen")
    return site, project


async def test_strangers_find_no_project() -> None:
    site, project = site_with_project()
    async with site.browser("eve") as eve:
        for path in (f"projects/{project}", f"projects/{project}/statement.csv", "projects/none"):
            page = await eve.get(path)
            assert page.status_code == 404
            assert "Folding" not in page.text


async def test_a_lead_adds_changes_and_removes_a_member() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        added = await ada.submit(f"projects/{project}/members", {"hub_name": "rui", "role": "member"})
        assert added.headers["location"] == f"/services/quota/projects/{project}?said=member_added"
        changed = await ada.submit(f"projects/{project}/members", {"hub_name": "rui", "role": "manager"})
        assert changed.headers["location"].endswith("said=role_changed")
        assert "Rui Chen rui manager" in text_of(await ada.get(f"projects/{project}"))
        asked = await ada.get(f"projects/{project}/members/rui/remove")
        assert "Remove Rui Chen from Folding?" in text_of(asked)
        assert len(site.world.members[project]) == 2
        removed = await ada.submit(f"projects/{project}/members/rui/remove", {})
        assert removed.headers["location"].endswith("said=member_removed")
    assert len(site.world.members[project]) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hub_name": "nobody-here", "role": "member"}, "Nobody here has that user name."),
        ({"hub_name": "", "role": "member"}, "Fill this in."),
        ({"hub_name": "rui", "role": "king"}, "is not known here"),
        ({}, "Fill this in."),
    ],
)
async def test_a_member_that_cannot_be_added_comes_back_with_the_reason(fields: dict[str, str], says: str) -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        page = await ada.submit(f"projects/{project}/members", fields)
    assert page.status_code == 400
    assert says in page.text
    assert len(site.world.members[project]) == 1


async def test_htmx_gets_the_members_part_only() -> None:
    site, project = site_with_project()
    async with site.browser("ada") as ada:
        fields = {"hub_name": "rui", "role": "member"}
        part = await ada.submit(f"projects/{project}/members", fields, **{"hx-request": "true"})
    assert part.status_code == 200
    assert part.text.lstrip().startswith("<section")
    assert "The member was added" in part.text


async def test_members_neither_add_nor_remove_others_and_may_leave() -> None:
    site, project = site_with_project()
    site.world.join(project, "rui")
    site.world.person("eve")
    async with site.browser("rui") as rui:
        assert "Add a member" not in text_of(await rui.get(f"projects/{project}"))
        added = await rui.submit(f"projects/{project}/members", {"hub_name": "eve", "role": "member"})
        assert added.status_code == 403
        assert (await rui.get(f"projects/{project}/members/ada/remove")).status_code == 403
        assert (await rui.submit(f"projects/{project}/members/ada/remove", {})).status_code == 403
        left = await rui.submit(f"projects/{project}/members/rui/remove", {})
        assert left.headers["location"] == "/services/quota/?said=left"
    assert len(site.world.members[project]) == 1


async def test_a_manager_offers_the_role_of_member_only() -> None:
    site, project = site_with_project()
    site.world.join(project, "mia", ProjectRole.MANAGER)
    async with site.browser("mia") as mia:
        page = await mia.get(f"projects/{project}")
    assert '<option value="member"' in page.text
    assert '<option value="co_pi"' not in page.text


async def test_the_statement_lists_who_what_when_how_much_and_why() -> None:
    site, project = site_with_project()
    site.world.line(
        project, "grace", "adjustment", code="adjustment", params={}, delta_awarded=-HOUR, reason="Moved <b>"
    )
    measured = {"from_at": NOW, "to_at": NOW, "quantity": 10_000}
    site.world.line(project, "ada", "charge", delta_held=-10_000, delta_charged=10_000, **measured)
    async with site.browser("ada") as ada:
        text = text_of(await ada.get(f"projects/{project}"))
    assert "adjusted · Adjustment Reason: Moved <b> Grace" in text
    assert "−1 GPU-h" in text
    assert "10 s × 1 GPU-h/h −0.0028 GPU-h +0.0028 GPU-h" in text


async def test_the_statement_has_pages() -> None:
    site, project = site_with_project()
    for _ in range(120):
        site.world.line(project, "ada", "hold", delta_held=HOUR)
    async with site.browser("ada") as ada:
        first = await ada.get(f"projects/{project}")
        assert "before=71#statement" in first.text
        last = await ada.get(f"projects/{project}?before=21")
        assert "Older" not in text_of(last)
        assert "Newest" in text_of(last)
        for nonsense in ("x", "-1", "9" * 30, "1e3"):
            assert (await ada.get(f"projects/{project}?before={nonsense}")).status_code == 200


async def test_a_member_reads_their_own_lines_and_awards_only() -> None:
    site, project = site_with_project()
    site.world.join(project, "rui")
    site.world.line(project, "grace", "deposit", code="award", params={"title": "Folding"}, delta_awarded=10 * HOUR)
    site.world.line(project, "ada", "hold", delta_held=HOUR, hold_id=HoldId("hold-of-ada"))
    site.world.line(project, "rui", "hold", delta_held=HOUR, hold_id=HoldId("hold-of-rui"))
    async with site.browser("rui") as rui, site.browser("ada") as ada:
        own = (await rui.get(f"projects/{project}/statement.csv")).text
        all_lines = (await ada.get(f"projects/{project}/statement.csv")).text
    assert "hold-of-rui" in own
    assert "Award: Folding" in own
    assert "hold-of-ada" not in own
    assert "hold-of-ada" in all_lines


async def test_the_csv_is_whole_exact_and_harmless() -> None:
    site, project = site_with_project()
    for _ in range(700):
        site.world.line(project, "ada", "hold", delta_held=7_320_000)
    site.world.person("eve", "=HYPERLINK(1)")
    site.world.line(project, "eve", "adjustment", code="adjustment", params={}, delta_awarded=-HOUR, reason="@SUM(A1)")
    site.world.line(project, "ada", "charge", unit=Unit.TOKENS, code="request", params={"model": "-m"}, delta_charged=5)
    async with site.browser("ada") as ada:
        answer = await ada.get(f"projects/{project}/statement.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="statement-p1.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert len(rows) == 702
    assert rows[1]["who"] == "'=HYPERLINK(1)"
    assert rows[1]["reason"] == "'@SUM(A1)"
    assert rows[1]["delta_awarded"] == "-3600000"
    assert rows[1]["delta_awarded_h"] == "-1"
    assert rows[0]["delta_charged_h"] == ""
    assert rows[2]["delta_held_h"] == "2.0333333333"


async def test_the_csv_has_every_slice() -> None:
    site, project = site_with_project()
    for _ in range(30):
        site.world.line(project, "ada", "charge", hold_id=HoldId("hold-1"), delta_held=-20, delta_charged=20)
    async with site.browser("ada") as ada:
        assert "30 slices" in text_of(await ada.get(f"projects/{project}"))
        answer = await ada.get(f"projects/{project}/statement.csv")
    assert [row["delta_charged"] for row in csv.DictReader(io.StringIO(answer.text))] == ["20"] * 30


@pytest.mark.parametrize(
    ("language", "profile", "server", "says"),
    [
        ("en", "gpu1", "", "Session: 1 simulated GPU Ada"),
        ("en", "gpu1", "second", "Session: 1 simulated GPU (second) Ada"),
        ("zh", "gpu1", "", "会话：1 块模拟 GPU Ada"),
        ("zh", "gpu9", "", "会话：9 GPUs Ada"),
        ("en", "withdrawn", "", "Session: withdrawn Ada"),
    ],
)
async def test_a_session_is_named_by_its_profile_in_the_readers_language(
    language: str, profile: str, server: str, says: str
) -> None:
    site, project = site_with_project()
    site.world.line(
        project, "ada", "hold", delta_held=HOUR, params={"profile": profile, "server_name": server, "gpus": 1}
    )
    async with site.browser("ada", language=language) as ada:
        assert says in text_of(await ada.get(f"projects/{project}"))
        assert says.removesuffix(" Ada") in (await ada.get(f"projects/{project}/statement.csv")).text


async def test_a_session_is_stopped_after_a_question() -> None:
    site, project = site_with_project()
    session = site.world.session(project, "ada", SessionState.RUNNING)
    async with site.browser("ada") as ada, site.browser("eve") as eve:
        path = f"sessions/{session.hold_id}/stop"
        assert "Stop “1 simulated GPU”?" in text_of(await ada.get(path))
        assert (await eve.get(path)).status_code == 404
        assert (await eve.submit(path, {})).status_code == 404
        assert site.world.stopped == []
        answer = await ada.submit(path, {})
        assert answer.headers["location"] == "/services/quota/?said=stopping"
        assert site.world.stopped == [("ada", "")]
        assert "stopping" in text_of(await ada.get())
    assert (await site.browser("ada").get("sessions/nothing-here/stop")).status_code == 404

"""Applying and deciding."""

from __future__ import annotations

import pytest

from quota.domain.application import ApplicationState
from quota.domain.ids import ApplicationId
from tests.unit.quota.pages.browser import Browser, Site, hidden, text_of
from tests.unit.quota.pages.fakes import HOUR

ASK = {
    "title": "Protein folding at night",
    "purpose": "We fold proteins to understand diseases.",
    "gpu_hours": "500",
    "tokens": "1,000,000",
    "starts_on": "2026-03-10",
    "ends_on": "2026-09-01",
}


async def apply(browser: Browser, **changes: str) -> str:
    form_id = hidden(await browser.get("apply"), "application_id")
    answer = await browser.submit("apply", {**ASK, "application_id": form_id, **changes})
    assert answer.status_code == 303, text_of(answer)
    return form_id


async def test_an_application_is_submitted_and_its_state_is_shown() -> None:
    site = Site()
    async with site.browser("ada") as browser:
        form_id = await apply(browser)
        page = await browser.get(f"applications/{form_id}?said=submitted")
        home = await browser.get()
    text = text_of(page)
    assert "Your application is submitted." in text
    assert "500 GPU-h , 1,000,000 tokens" in text
    assert "Protein folding at night submitted" in text_of(home)


async def test_sending_the_same_form_twice_makes_one_application() -> None:
    site = Site()
    async with site.browser("ada") as browser:
        form_id = hidden(await browser.get("apply"), "application_id")
        first = await browser.submit("apply", {**ASK, "application_id": form_id})
        again = await browser.submit("apply", {**ASK, "application_id": form_id})
    assert first.headers["location"] == again.headers["location"]
    assert len(site.world.applications) == 1


async def test_a_changed_form_under_a_used_id_says_so_and_offers_a_second_application() -> None:
    site = Site()
    async with site.browser("ada") as browser:
        form_id = await apply(browser)
        changed = await browser.submit("apply", {**ASK, "title": "Another title", "application_id": form_id})
        assert changed.status_code == 409
        assert 'value="Another title"' in changed.text
        assert f'href="/services/quota/applications/{form_id}"' in changed.text
        assert hidden(changed, "application_id") != form_id
    assert len(site.world.applications) == 1


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"title": "x"}, "title", "Write 3 to 200 characters."),
        ({"title": "y" * 201}, "title", "Write 3 to 200 characters."),
        ({"title": "nul\x00byte"}, "title", "contains characters that cannot be stored"),
        ({"purpose": ""}, "purpose", "Write 10 to 5,000 characters."),
        ({"gpu_hours": "many"}, "gpu_hours", "Write a number such as 500 or 0.5."),
        ({"gpu_hours": "-1"}, "gpu_hours", "out of range"),
        ({"gpu_hours": "1e300"}, "gpu_hours", "Write a number such as 500 or 0.5."),
        ({"gpu_hours": "", "tokens": ""}, "gpu_hours", "Ask for GPU-hours, tokens or both."),
        ({"tokens": "1.5"}, "tokens", "Write a number"),
        ({"tokens": "-3"}, "tokens", "out of range"),
        ({"starts_on": "soon"}, "starts_on", "Choose a day, such as 2026-01-31."),
        ({"starts_on": "2026-03-01"}, "starts_on", "Choose a day that is not over."),
        ({"ends_on": "2026-03-01"}, "ends_on", "The end must be later than the start."),
        ({"ends_on": "2099-01-01"}, "ends_on", "This is too long."),
        ({"ends_on": "2026-02-30"}, "ends_on", "Choose a day"),
    ],
)
async def test_a_bad_field_comes_back_with_its_value_and_a_message_beside_it(
    changes: dict[str, str], field: str, says: str
) -> None:
    site = Site()
    async with site.browser("ada") as browser:
        form_id = hidden(await browser.get("apply"), "application_id")
        page = await browser.submit("apply", {**ASK, "application_id": form_id, **changes})
    assert page.status_code == 400
    assert says in page.text
    assert f'aria-describedby="{field}' in page.text
    assert f'id="{field}-error"' in page.text
    assert ASK["purpose"] in page.text or "purpose" in changes
    assert hidden(page, "application_id") == form_id
    assert site.world.applications == {}


async def test_nobody_reads_the_application_of_another() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("eve") as eve:
        form_id = await apply(ada)
        assert (await eve.get(f"applications/{form_id}")).status_code == 404


async def test_the_queue_is_for_those_who_decide() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("grace", "decide") as grace:
        await apply(ada)
        assert (await ada.get("review")).status_code == 403
        assert "Review" not in text_of(await ada.get())
        page = await grace.get("review")
        assert "Protein folding at night Ada" in text_of(page)


async def test_a_lower_award_with_a_message_reaches_the_applicant() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("grace", "decide") as grace:
        form_id = await apply(ada)
        detail = await grace.get(f"review/{form_id}")
        assert 'name="gpu_hours" value="500"' in detail.text
        fields = {"decision": "approve", "gpu_hours": "10", "tokens": "5000", "message": "Half for a start."}
        answer = await grace.submit(f"review/{form_id}", fields)
        assert answer.headers["location"] == "/services/quota/review?said=approved"
        home = text_of(await ada.get())
    assert "10 of 10 GPU-h left" in home
    assert "5,000 of 5,000 tokens left" in home
    assert "asked 500 GPU-h, 1,000,000 tokens awarded 10 GPU-h, 5,000 tokens" in home
    assert "Half for a start." in home


async def test_a_rejection_needs_a_message() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("grace", "decide") as grace:
        form_id = await apply(ada)
        page = await grace.submit(f"review/{form_id}", {"decision": "reject", "message": " "})
        assert page.status_code == 400
        assert "Fill this in." in page.text
        assert site.world.applications[ApplicationId(form_id)][0].state is ApplicationState.SUBMITTED
        done = await grace.submit(f"review/{form_id}", {"decision": "reject", "message": "Not clear yet."})
        assert done.status_code == 303
        assert "Not clear yet." in text_of(await ada.get())


async def test_nobody_decides_on_their_own_application() -> None:
    site = Site()
    async with site.browser("grace", "decide") as grace:
        form_id = await apply(grace)
        page = await grace.get(f"review/{form_id}")
        assert "This is your own application" in text_of(page)
        assert "Approve and award" not in text_of(page)
        fields = {"decision": "approve", "gpu_hours": "1", "tokens": "0", "message": ""}
        refused = await grace.submit(f"review/{form_id}", fields)
        assert refused.status_code == 403
        assert "Nobody decides on their own application." in text_of(refused)
    assert site.world.projects == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": "approve", "gpu_hours": "x", "tokens": "1"},
        {"decision": "approve", "gpu_hours": "0", "tokens": "0"},
        {"decision": "approve", "gpu_hours": "-1", "tokens": "1"},
        {"decision": "approve", "gpu_hours": "1", "tokens": str(2**70)},
        {"decision": "approve", "gpu_hours": "1", "tokens": "1", "message": "m" * 2001},
        {"decision": "perhaps"},
        {},
    ],
)
async def test_a_nonsensical_decision_changes_nothing(fields: dict[str, str]) -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("grace", "decide") as grace:
        form_id = await apply(ada)
        assert (await grace.submit(f"review/{form_id}", fields)).status_code == 400
    assert site.world.projects == {}


async def test_a_decided_application_cannot_be_decided_again() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("grace", "decide") as grace:
        form_id = await apply(ada)
        fields = {"decision": "approve", "gpu_hours": "10", "tokens": "0", "message": ""}
        await grace.submit(f"review/{form_id}", fields)
        assert (await grace.submit(f"review/{form_id}", fields)).status_code == 409
        assert "This application is decided" in text_of(await grace.get(f"review/{form_id}"))
    assert sum(one.balance.awarded for one in site.world.allocations.values()) == 10 * HOUR

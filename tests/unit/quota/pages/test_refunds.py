"""An administrator gives a charge back on a page; the project's own people and everybody else cannot."""

from __future__ import annotations

import re
from datetime import timedelta

from quota.domain.hold import Hold, HoldKind, HoldState
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.units import Unit
from tests.unit.quota.pages.browser import Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW

HOLD = HoldId("hold-00000001")
PATH = f"holds/{HOLD}/refund"


def charged_site() -> tuple[Site, ProjectId]:
    """A session of ann's that was charged two hours."""
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(100 * HOUR, 2 * HOUR, 0))
    site.world.join(project, "ann")
    for name in ("root", "ada"):
        site.world.person(name)
    allocation = AllocationId(f"{project}-gpu-ms")
    site.world.books.allocations[allocation] = site.world.allocations[allocation]
    hold = Hold(
        HOLD, HoldKind.SESSION, HoldState.SETTLED, "ann/", site.world.person("ann").id, project, allocation, Unit.GPU_MS,
        3 * HOUR, 2 * HOUR, NOW, NOW + timedelta(hours=3), {"profile": "gpu1"},
    )  # fmt: skip
    site.world.books.holds[HOLD] = (hold, "")
    site.world.line(project, "ann", "charge", hold_id=HOLD, delta_held=-2 * HOUR, delta_charged=2 * HOUR)
    return site, project


async def test_an_administrator_is_led_from_the_statement_and_gives_a_part_back_once() -> None:
    site, project = charged_site()
    async with site.browser("root", "admin") as root:
        assert f"/{PATH}" in (await root.get(f"projects/{project}")).text
        page = await root.get(PATH)
        assert "2 GPU-h were charged" in text_of(page)
        assert 'name="amount" value="2"' in page.text
        found = re.search(r'name="refund_id" value="([0-9a-f]+)"', page.text)
        assert found is not None
        sent = {"amount": "0.5", "reason": "The node lost its GPU.", "refund_id": found.group(1)}
        for _ in range(2):
            done = await root.submit(PATH, sent)
            assert done.headers["location"] == f"/services/quota/projects/{project}?said=refunded"
    assert site.world.books.allocations[AllocationId(f"{project}-gpu-ms")].balance.charged == HOUR * 3 // 2


async def test_more_than_was_charged_is_refused_in_words_and_another_amount_is_another_refund() -> None:
    site, _ = charged_site()
    async with site.browser("root", "admin") as root:
        sent = {"amount": "2.5", "reason": "The node lost its GPU.", "refund_id": "refund-00001"}
        page = await root.submit(PATH, sent)
        assert page.status_code == 409
        assert "can be refunded" in text_of(page)
        assert "refund-00001" not in page.text
        assert (await root.submit(PATH, {**sent, "amount": "much"})).status_code == 400
        assert (await root.submit(PATH, {**sent, "reason": ""})).status_code == 400
        assert (await root.submit(PATH, {**sent, "refund_id": "x"})).status_code == 400
    assert site.world.books.refunds == {}


async def test_nobody_else_sees_or_sends_the_form_and_nobody_refunds_their_own_project() -> None:
    site, project = charged_site()
    sent = {"amount": "1", "reason": "Because.", "refund_id": "refund-00001"}
    for name, powers in (("ann", ()), ("ada", ()), ("ada", ("admin",)), ("root", ("decide",))):
        async with site.browser(name, *powers) as browser:
            assert (await browser.get(PATH)).status_code == 403
            assert (await browser.submit(PATH, sent)).status_code == 403
            if name != "root":
                assert PATH not in (await browser.get(f"projects/{project}")).text
    assert site.world.books.refunds == {}


async def test_a_hold_that_never_was_is_not_found() -> None:
    site, _ = charged_site()
    async with site.browser("root", "admin") as root:
        assert (await root.get("holds/hold-99999999/refund")).status_code == 404

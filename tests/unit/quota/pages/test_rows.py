"""The statement's rows: slices and steps folded, nothing lost, nothing doubled, also over the edge of a page."""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import timedelta

import pytest

from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.units import Unit
from quota.pages import rows
from quota.pages.rows import Fold
from quota.service.ports import StatementLine
from tests.unit.quota.pages.browser import Browser, Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW, World

SLICE_S = 20


class Writer:
    """Writes the lines that the ledger writes for sessions and requests."""

    def __init__(self, world: World, project: ProjectId) -> None:
        self.world = world
        self.project = project

    def hold(self, name: str, hold: str, amount: int) -> None:
        self.world.line(self.project, name, "hold", hold_id=HoldId(hold), delta_held=amount)

    def slice(self, name: str, hold: str, number: int) -> None:
        amount = SLICE_S * 1000
        from_at = NOW + timedelta(seconds=SLICE_S * number)
        measured = {"from_at": from_at, "to_at": from_at + timedelta(seconds=SLICE_S), "quantity": amount}
        moved = {"delta_held": -amount, "delta_charged": amount}
        self.world.line(self.project, name, "charge", hold_id=HoldId(hold), **moved, **measured)

    def settle(self, name: str, hold: str, rest: int) -> None:
        self.world.line(self.project, name, "settle", hold_id=HoldId(hold), delta_held=-rest)

    def request(self, name: str, hold: str, *, held: int, used: int) -> None:
        about = {"hold_id": HoldId(hold), "code": "request", "params": {"model": "smollm2"}, "unit": Unit.TOKENS}
        about["allocation_id"] = AllocationId(f"{self.project}-tokens")
        self.world.line(self.project, name, "hold", delta_held=held, **about)
        if used:
            measured = {"from_at": NOW, "to_at": NOW + timedelta(seconds=2), "quantity": used}
            self.world.line(self.project, name, "charge", delta_held=-used, delta_charged=used, **measured, **about)
        self.world.line(self.project, name, "settle", delta_held=used - held, **about)


def site_with_writer() -> tuple[Site, Writer]:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(10 * HOUR, 0, 0), tokens=(10_000, 0, 0))
    return site, Writer(site.world, project)


def fold_of(lines: list[StatementLine], rows_max: int = 50) -> Fold:
    fold = Fold(rows_max)
    for line in reversed(lines):
        if not fold.take(line):
            break
    return fold


async def pages_of(browser: Browser, project: ProjectId) -> list[str]:
    """The text of every page of the statement, by its own links."""
    found: list[str] = []
    query = ""
    while len(found) < 20:
        page = await browser.get(f"projects/{project}{query}")
        found.append(text_of(page).partition("What changed the balances")[2])
        older = re.search(r"(\?before=\d+)#statement", page.text)
        if older is None:
            return found
        query = older[1]
    raise AssertionError("the pages do not end")


async def test_two_hours_in_slices_are_one_row_with_all_that_matters() -> None:
    site, writer = site_with_writer()
    writer.hold("ada", "hold-1", 7_320_000)
    for number in range(360):
        writer.slice("ada", "hold-1", number)
    writer.settle("ada", "hold-1", 120_000)
    async with site.browser("ada") as ada:
        text = text_of(await ada.get(f"projects/{writer.project}"))
    assert "Older" not in text
    assert "settled · Session: 1 simulated GPU · 360 slices Ada 12:04 UTC – 14:04 UTC 2 h × 1 GPU-h/h" in text
    assert "2 h × 1 GPU-h/h −2.03 GPU-h +2 GPU-h" in text
    assert "held · Session: 1 simulated GPU Ada 1 GPU-h/h +2.03 GPU-h" in text


def test_two_sessions_at_once_are_a_row_each() -> None:
    _, writer = site_with_writer()
    for number in range(30):
        writer.slice("ada", "hold-a", number)
        writer.slice("rui", "hold-b", number)
    assert [(row.newest.actor_name, row.slices) for row in fold_of(writer.world.lines).rows] == [
        ("Rui", 30),
        ("Ada", 30),
    ]


def test_an_extension_stands_between_the_slices_before_and_after_it() -> None:
    _, writer = site_with_writer()
    writer.hold("ada", "hold-1", 1_000_000)
    writer.slice("ada", "hold-1", 0)
    writer.slice("ada", "hold-1", 1)
    writer.world.line(writer.project, "ada", "top_up", hold_id=HoldId("hold-1"), delta_held=500_000)
    writer.slice("ada", "hold-1", 2)
    kinds = [(row.kind, row.slices) for row in fold_of(writer.world.lines).rows]
    assert kinds == [("charge", 1), ("top_up", 0), ("charge", 2), ("hold", 0)]


async def test_a_model_request_is_one_row_whose_hold_nets_out() -> None:
    site, writer = site_with_writer()
    writer.request("ada", "hold-r", held=561, used=57)
    async with site.browser("ada") as ada:
        text = text_of(await ada.get(f"projects/{writer.project}"))
    assert "charged · Model request: smollm2 Ada 12:04:00 UTC – 12:04:02 UTC 57 tokens +57 tokens" in text
    assert "561" not in text


async def test_a_request_that_used_nothing_shows_a_true_zero() -> None:
    site, writer = site_with_writer()
    writer.request("ada", "hold-r", held=561, used=0)
    async with site.browser("ada") as ada:
        assert "settled · Model request: smollm2 Ada 0 tokens" in text_of(await ada.get(f"projects/{writer.project}"))


def test_a_request_on_its_way_shows_what_it_holds() -> None:
    _, writer = site_with_writer()
    writer.request("ada", "hold-r", held=561, used=57)
    (row,) = fold_of(writer.world.lines[:1]).rows
    assert (row.kind, row.delta_held, row.delta_charged, row.free) == ("hold", 561, 0, False)


def test_an_estimated_slice_marks_its_row() -> None:
    _, writer = site_with_writer()
    writer.slice("ada", "hold-1", 0)
    writer.world.line(writer.project, "ada", "charge", hold_id=HoldId("hold-1"), estimated=True, quantity=1)
    assert [row.estimated for row in fold_of(writer.world.lines).rows] == [True]


@pytest.mark.parametrize("seed", range(20))
def test_the_rows_of_all_pages_have_every_line_once_and_add_up_to_the_account(seed: int) -> None:
    chance = random.Random(seed)
    _, writer = site_with_writer()
    for number in range(chance.randint(1, 400)):
        name = f"hold-{chance.randint(1, 6)}"
        match chance.randint(0, 9):
            case 0:
                writer.hold("ada", name, chance.randint(1, 9) * 1000)
            case 1:
                writer.request("ada", f"request-{number}", held=chance.randint(50, 99), used=chance.randint(0, 50))
            case 2:
                writer.settle("ada", name, chance.randint(0, 1000))
            case _:
                writer.slice("ada", name, number)
    left, pages = list(writer.world.lines), []
    while left:
        fold = fold_of(left, rows_max=chance.randint(1, 12))
        assert fold.lines == sum(len(row.lines) for row in fold.rows)
        left = left[: len(left) - fold.lines]  # what the next page is given: all that is older than the cursor
        pages.append(fold)
    shown = [row for page in pages for row in page.rows]
    assert Counter(line.seq for row in shown for line in row.lines) == Counter(line.seq for line in writer.world.lines)
    for unit in Unit:
        of_unit = [row for row in shown if row.newest.unit is unit]
        lines = [line for line in writer.world.lines if line.unit is unit]
        assert all({line.unit for line in row.lines} == {unit} for row in of_unit)
        assert sum(row.delta_charged for row in of_unit) == sum(line.delta_charged for line in lines)
        assert sum(row.delta_held for row in of_unit) == sum(line.delta_held for line in lines)


async def test_pages_follow_each_other_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE_LINES_MAX", 500)
    site, writer = site_with_writer()
    for number in range(60):
        writer.request("ada", f"request-{number}", held=100, used=10)
    for number in range(1300):
        writer.slice("ada", "hold-1", number)
    async with site.browser("ada") as ada:
        pages = await pages_of(ada, writer.project)
    slices = [int(found) for page in pages for found in re.findall(r"(\d+) slices", page)]
    assert sum(slices) == 1300
    assert len(slices) == 3
    assert sum(page.count("Model request: smollm2") for page in pages) == 60

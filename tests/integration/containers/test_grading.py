"""Autograding in containers of a real engine, through nbgrader itself: hostile answers, a wire that nobody holds, what the course pays."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from commons_exchange.container_run import Helper, HelperRefused

from spawners import container_spec as spec
from spawners import grading_spec
from spawners.grading_settings import GradingTable
from spawners.settings import load
from tests.engine.container_portal import ContainerPortal
from tests.engine.site import ContainerSite
from tests.integration.exchange_process import ExchangeProcess
from tests.integration.hostile_submissions import HOSTILE, QUICK, score_only_what_is_right
from tests.integration.paid_course import PaidCourse, container_grading
from tests.waiting import PATIENCE_S, until

FULL = os.environ.get("COMMONS_FULL") == "1"
NAMES = tuple(HOSTILE) if FULL else QUICK
TOLD_LATER_MS = ContainerPortal.told_later_ms


def table_of(site: ContainerSite) -> tuple[GradingTable, str]:
    settings = load(site.portal_file)
    return settings.grading, settings.grading_image


@pytest.fixture(scope="module")
def room(site: ContainerSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaidCourse]:
    """A portal with a released assignment, whose runs are containers of this site. Each test has students of its own, and looks at its own runs."""
    tmp_path = tmp_path_factory.mktemp("runs")
    table, image = table_of(site)
    exchange = ExchangeProcess(tmp_path / "portal", 24, runtime_s=table.runtime, helper=str(site.helper))
    exchange.folder.mkdir()
    exchange.start()
    grading = container_grading(site.helper, image, table)
    try:
        yield PaidCourse(exchange, tmp_path / "course", grading).prepare()
    finally:
        exchange.kill()


def lived_ms(site: ContainerSite) -> dict[str, int]:
    """From the engine's start to its end of every run's container, by its events: they outlive the containers."""
    client = site.engine.client()
    found: dict[str, dict[str, int]] = {}
    try:
        filters = {"event": ["start", "die"], "label": f"{spec.PROFILE}={grading_spec.PROFILE}"}
        for event in client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True):
            hold_id = event["Actor"]["Attributes"][spec.HOLD]
            found.setdefault(hold_id, {})[event["Action"]] = int(event["timeNano"]) // 10**6
    finally:
        client.close()
    return {hold_id: at["die"] - at["start"] for hold_id, at in found.items() if len(at) == 2}


def settled(room: PaidCourse, before: set[str], within_s: float = PATIENCE_S) -> dict[str, int]:
    """Wait until no run's hold stands; what each that is new since `before` was charged."""
    room.until_closed(within_s)
    return {one.id: one.charged for one in room.holds() if one.state == "settled" and one.id not in before}


def runs_there(site: ContainerSite) -> list[Any]:
    client = site.engine.client()
    try:
        label = f"{spec.PROFILE}={grading_spec.PROFILE}"
        return list(client.containers.list(all=True, ignore_removed=True, filters={"label": label}))
    finally:
        client.close()


@pytest.mark.timeout(300 + 120 * len(NAMES))
def test_hostile_answers_in_containers_score_nothing_and_cost_no_more_than_their_limit(
    room: PaidCourse, site: ContainerSite
) -> None:
    before = {one.id for one in room.holds()}
    score_only_what_is_right(room, NAMES, listens_on="0.0.0.0")
    charged, lived = settled(room, before), lived_ms(site)
    assert set(charged) <= set(lived)
    assert len(charged) == len(NAMES) + 1
    # the engine tells a start and an end some milliseconds after they were, on a busy machine seconds
    assert all(abs(charged[one] - lived[one]) <= TOLD_LATER_MS for one in charged), (charged, lived)
    limit_ms = (table_of(site)[0].runtime + 90) * 1000
    assert all(0 < one.charged <= one.amount == limit_ms for one in room.holds() if one.id in charged)
    assert room.verified() == []
    until(lambda: not runs_there(site), what="every run's container is removed")


@pytest.mark.full
def test_a_grader_that_is_killed_leaves_no_container_running_and_is_paid_for_what_it_took(
    room: PaidCourse, site: ContainerSite
) -> None:
    before = {one.id for one in room.holds()}
    name = room.submit(20, "import time\ntime.sleep(60)")
    room.collect()
    grading = room.autograding(name)
    try:
        end = time.monotonic() + PATIENCE_S
        while not any(one.status == "running" for one in runs_there(site)):
            assert time.monotonic() < end, "no run's container started"
            assert grading.poll() is None
            time.sleep(0.05)
    finally:
        grading.kill()
        grading.wait()
    charged, lived = settled(room, before), lived_ms(site)
    assert len(charged) == 1
    assert all(abs(charged[one] - lived[one]) <= TOLD_LATER_MS for one in charged)
    assert all(took_ms < 1000 * table_of(site)[0].runtime for took_ms in charged.values())


def test_a_container_that_somebody_removes_takes_nobodys_points(room: PaidCourse, site: ContainerSite) -> None:
    name = room.submit(21, "import subprocess\nsubprocess.run(['sleep', '60'])")
    room.collect()
    remover = threading.Thread(target=_remove_the_next, args=(site,))
    remover.start()
    before, room.cell_s = room.cell_s, 60  # the submission sleeps until its container is removed
    try:
        done = room.autograde(name)
    finally:
        room.cell_s = before
    remover.join()
    assert not done["success"]
    assert "The container was removed before the notebook had run to its end" in done["log"]
    room.until_closed()


def _remove_the_next(site: ContainerSite) -> None:
    """As an administrator does it, while the submission's `sleep` runs."""
    until(lambda: [one for one in runs_there(site) if _sleeps(one)], what="a run's container sleeps")[0].remove(
        force=True
    )


def _sleeps(container: Any) -> bool:
    return container.status == "running" and "sleep 60" in str(container.top(ps_args="-eo pid,args"))


def test_a_wire_is_opened_once_by_who_made_the_run_and_into_no_session(site: ContainerSite) -> None:
    table, image = table_of(site)
    helper = Helper(str(site.helper))
    with pytest.raises(HelperRefused, match="no wire"):
        helper.wire("nowhere-0001")
    body = grading_spec.container_body("grading-wire-1", image, table)
    helper.call("POST", "/containers/create?name=cc-grading-wire-1", body)
    helper.call("POST", "/containers/cc-grading-wire-1/start")
    with pytest.raises(HelperRefused, match="no wire"):
        helper.wire("grading-wire-1")
    told = site.sessions()["grading-wire-1"]
    assert (told["starting"], told["holds_devices"], json.loads(told["labels"][spec.DEVICES])) == (True, True, [])
    site.engine.remove_containers()

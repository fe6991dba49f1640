"""What a person reads of a start in a container that did not come up."""

from __future__ import annotations

from typing import Any

import pytest

from spawners import container_spec as spec
from spawners.container_refusals import failed_start
from spawners.session_ends import SessionEnd


def shown(refusal: Any) -> tuple[str, int, str, str]:
    return refusal.reason, refusal.status_code, refusal.jupyterhub_message, refusal.jupyterhub_html_message


def test_one_that_ended_early_is_shown_with_its_status_and_last_lines_without_the_probes() -> None:
    end = SessionEnd(3, (spec.PROBE_CONFIRMED, "no <licence>", "bye"))
    reason, status, text, html = shown(failed_start("en", end))
    assert (reason, status) == ("ended_early", 500)
    assert "(status 3), so nothing is charged" in text
    assert ">no &lt;licence&gt;\nbye</pre>" in html
    assert spec.PROBE_CONFIRMED not in html
    assert "状态 3" in shown(failed_start("zh", end))[2]


def test_one_that_took_too_long_is_shown_with_what_it_said() -> None:
    reason, _, text, html = shown(
        failed_start("en", SessionEnd(143, (spec.PROBE_CONFIRMED, "loading")), stopped_after_s=60)
    )
    assert reason == "too_slow"
    assert "within 60 s" in text
    assert ">loading</pre>" in html


def test_a_missing_device_is_the_probes_word_alone() -> None:
    end = SessionEnd(spec.DEVICE_MISSING_STATUS, (f"{spec.PROBE_MISSING}: /dev/x", "more"))
    reason, status, text, html = shown(failed_start("en", end))
    assert (reason, status) == ("device_missing", 503)
    assert "not usable inside" in text
    assert ">commons-session: device missing: /dev/x</pre>" in html


@pytest.mark.parametrize(
    "end",
    [SessionEnd(spec.DEVICE_MISSING_STATUS, ()), SessionEnd(spec.DEVICE_MISSING_STATUS, ("x", spec.PROBE_MISSING))],
)
def test_a_persons_own_exit_with_that_status_is_no_missing_device(end: SessionEnd) -> None:
    assert failed_start("en", end).reason == "ended_early"


def test_one_of_which_nobody_knows_an_end_has_no_status_made_up() -> None:
    reason, _, text, _ = shown(failed_start("en", None))
    assert reason == "removed"
    assert "removed by somebody" in text
    assert "status" not in text

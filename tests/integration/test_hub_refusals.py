"""A start that must not happen: refused in words on every door, nothing left behind. Real hub and proxy, quota faked at the wire."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.fake_quota import Fault
from tests.integration.hub_process import Browser, HubProcess, text_of
from tests.waiting import PATIENCE_S, until

HOUR_MS = 3_600_000
OPTIONS: dict[str, Any] = {"project": "p1", "profile": "gpu1", "runtime_s": 7200}
FORM = {"project": "p1", "profile": "gpu1", "application": "lab", "runtime_s": "7200"}
REASON = "This start needs 2.03 GPU-h; the project has 1.00."
INSTEAD = "Start for 58 min instead"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    one = HubProcess(tmp_path_factory.mktemp("hub") / "data")
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture(scope="module")
def pi(hub: HubProcess) -> Browser:
    return Browser(hub, "pi").sign_in()


@pytest.fixture(autouse=True)
def book(hub: HubProcess) -> Iterator[None]:
    """Each test begins with one hour on p1; after each, nothing runs and no hold is open."""
    hub.quota.book.available = {"p1": HOUR_MS, "p2": 0}
    hub.quota.book.payers = {"pi": ["p1", "p2"]}
    hub.quota.book.fault = hub.quota.book.holds_fault = Fault.NONE
    yield
    hub.quota.book.fault = hub.quota.book.holds_fault = Fault.NONE
    assert hub.live_sessions() == []
    assert list((hub.data / "sessions").iterdir()) == []


def no_open_hold(hub: HubProcess) -> None:
    until(lambda: not hub.quota.book.open_holds(), within_s=PATIENCE_S, what="every hold was given back")


def test_a_refusal_shows_its_reason_on_the_api(pi: Browser) -> None:
    answer = pi.start(OPTIONS)
    assert answer.status_code == 402
    assert answer.json()["message"] == f"{REASON} Ask the PI for more & <soon>. {INSTEAD}"


def test_a_refusal_shows_its_reason_on_the_page_with_the_choice_kept(pi: Browser) -> None:
    answer = pi.choose(FORM)
    page = text_of(answer.text)
    assert answer.status_code == 402
    assert "Not started." in page
    assert REASON in page
    assert INSTEAD in page
    assert "&amp; &lt;soon&gt;" in answer.text
    assert "<soon>" not in answer.text
    assert '<option value="7200" selected>' in answer.text


def test_a_refusal_still_shows_its_reason_at_the_next_visit(pi: Browser) -> None:
    """JupyterHub 6.1.1 forgets it there; see tests/unit/hub/test_hub_bugs.py."""
    pi.start(OPTIONS)
    page = pi.http.get("/user/pi/")
    assert REASON in text_of(page.text)
    assert "/hub/spawn/pi?project=p1&amp;profile=gpu1&amp;application=lab&amp;runtime_s=3480" in page.text


def test_a_refusal_that_takes_its_time_shows_its_reason_after_the_pending_page(hub: HubProcess, pi: Browser) -> None:
    asking = hub.data / "asking"
    asking.touch()
    try:
        pending = pi.choose(FORM)
        assert "spawn-pending" in str(pending.url)
        assert "Checking the balance" in pending.text
    finally:
        asking.unlink()

    def refused() -> bool:
        return REASON in text_of(pi.http.get("/hub/spawn-pending/pi").text)

    until(refused, within_s=PATIENCE_S, what="the pending page says why")


def test_a_project_of_others_pays_nothing(hub: HubProcess, pi: Browser) -> None:
    hub.quota.book.payers = {"pi": ["p2"]}
    answer = pi.start(OPTIONS)
    assert answer.status_code == 403
    assert answer.json()["message"] == "You are no member of this project. Ask its PI."


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.GARBAGE, Fault.HALF, Fault.CUT, Fault.SLOW])
def test_while_the_quota_service_fails_nothing_starts_and_no_hold_stays(
    hub: HubProcess, pi: Browser, fault: Fault
) -> None:
    before = set(hub.quota.book.holds)
    hub.quota.book.holds_fault, hub.quota.book.slow_s = fault, 6.0
    answer = pi.start({**OPTIONS, "runtime_s": 60})
    if answer.status_code == 202:  # the hub answers before the deadline of a silent service
        until(lambda: pi.server() is None, within_s=PATIENCE_S, what="the start was refused")
        page = pi.http.get("/user/pi/").text
    else:
        assert answer.status_code == 503
        page = answer.json()["message"]
    assert "The quota service cannot be reached, so nothing was started and nothing is charged." in page
    hub.quota.book.holds_fault = Fault.NONE
    if fault is Fault.SLOW:  # a hold that comes after its hint is the reconciliation's to find
        until(lambda: set(hub.quota.book.holds) - before, within_s=PATIENCE_S, what="the late hold")
        hub.quota.book.ended += [(late, "reconciled") for late in set(hub.quota.book.holds) - before]
    no_open_hold(hub)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"project": "p1"}, {**OPTIONS, "cmd": ["sh", "-c", "id"]}, {**OPTIONS, "profile": "a100"},
        {**OPTIONS, "runtime_s": "7200"}, {**OPTIONS, "runtime_s": True}, {**OPTIONS, "runtime_s": 1e3}, {**OPTIONS, "runtime_s": -1},
        {**OPTIONS, "runtime_s": 10**30}, {**OPTIONS, "project": "../../x"}, {**OPTIONS, "project": ["p1"]},
        {**OPTIONS, "project": "p1\ud800"}, {**OPTIONS, "application": "desktop"}, {**OPTIONS, "image": "evil:latest"},
        {**OPTIONS, "profile": {"a": {"b": []}}}, {"%s %d": "%"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_posted_nonsense_is_a_400_with_its_reason_and_creates_nothing(
    hub: HubProcess, pi: Browser, options: dict[str, Any], method: str
) -> None:
    before = len(hub.quota.book.calls)
    answer = pi.api(method, "/users/pi/servers/nonsense", {"user_options": options})
    assert answer.status_code == 400, answer.text
    assert "user_options." in answer.json()["message"]
    servers = pi.api("GET", "/users/pi?include_stopped_servers=1").json()["servers"]
    assert "nonsense" not in servers
    assert not [path for _, path, _, _ in hub.quota.book.calls[before:] if "/holds/" in path]


@pytest.mark.parametrize(
    "body", ["[]", '"text"', "7", '{"user_options": 5}', '{"user_options": []}', "{", '{"display_name": 5}']
)
def test_a_body_that_is_no_order_is_a_400(pi: Browser, body: str) -> None:
    headers = {"X-XSRFToken": pi.xsrf, "Content-Type": "application/json"}
    answer = pi.http.post("/hub/api/users/pi/servers/nonsense", content=body, headers=headers)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("body", ["[]", '""', "0", "false"])
def test_an_empty_thing_that_is_no_order_does_not_repeat_the_last_start(
    hub: HubProcess, pi: Browser, body: str
) -> None:
    assert pi.start(OPTIONS).status_code == 402  # the hub keeps these options
    before = len(hub.quota.book.calls)
    headers = {"X-XSRFToken": pi.xsrf, "Content-Type": "application/json"}
    answer = pi.http.post("/hub/api/users/pi/server", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert not [path for _, path, _, _ in hub.quota.book.calls[before:] if "/holds/" in path]


def test_stored_nonsense_cannot_be_changed_into_a_start(pi: Browser) -> None:
    assert pi.api("PUT", "/users/pi/servers/empty").status_code == 201
    assert pi.api("PATCH", "/users/pi/servers/empty", {"user_options": {"cmd": "sh"}}).status_code == 400
    bodies: list[object] = [{"evil": 1}, {"name": 5}, {"display_name": []}, {"user_options": []}, [1], 5, "text"]
    for body in bodies:
        assert pi.api("PATCH", "/users/pi/servers/empty", body).status_code == 400, body
    assert pi.start(None, "empty").status_code == 400
    assert pi.api("DELETE", "/users/pi/servers/empty", {"remove": True}).status_code == 204


@pytest.mark.parametrize(
    "change",
    [{"project": ""}, {"project": "<b>"}, {"profile": "a100"}, {"runtime_s": "soon"}, {"runtime_s": "-1"}, {"application": "x"}, {"project": "\ud800"}],
)  # fmt: skip
def test_a_nonsense_form_comes_back_with_its_reason(pi: Browser, change: dict[str, str]) -> None:
    form = {
        name: value.encode("utf-8", "surrogatepass").decode("latin-1") for name, value in {**FORM, **change}.items()
    }
    answer = pi.choose(form)
    assert answer.status_code == 400
    assert "This start cannot be done" in answer.text
    assert next(iter(change)) in text_of(answer.text)
    assert "<b>" not in answer.text


def test_the_reason_is_in_the_readers_language(hub: HubProcess) -> None:
    reader = Browser(hub, "pi", "zh-CN").sign_in()
    hub.quota.book.holds_fault = Fault.DOWN
    assert "无法连接配额服务" in reader.start({**OPTIONS, "runtime_s": 60}).json()["message"]


def test_starts_that_were_refused_take_no_place_and_whoever_uses_all_is_told_so(hub: HubProcess, pi: Browser) -> None:
    """JupyterHub counts entries until somebody deletes them."""
    for number in range(5):  # portal.toml allows 4 beside the default one
        answer = pi.start(OPTIONS, f"refused-{number}")
        assert (answer.status_code, REASON in answer.json()["message"]) == (402, True)
    hub.quota.book.available = {"p1": 100 * HOUR_MS}
    pause = hub.data / "pause"
    pause.touch()  # these are on their way until they are stopped
    names = [f"busy-{number}" for number in range(4)]
    try:
        with ThreadPoolExecutor(len(names)) as threads:
            pages = threads.map(lambda name: pi.choose(FORM, name), names)
            assert {"spawn-pending" in str(one.url) for one in pages} == {True}
        words = "You have 5 sessions, as many as this portal allows. Stop one first."
        answer = pi.start(OPTIONS, "one-more")
        assert (answer.status_code, answer.json()["message"]) == (409, words)
        page = pi.http.get("/hub/spawn/pi/one-more")
        assert (page.status_code, words in text_of(page.text)) == (409, True)
        with ThreadPoolExecutor(len(names)) as threads:
            stops = threads.map(lambda name: pi.api("DELETE", f"/users/pi/servers/{name}").status_code, names)
            assert set(stops) <= {202, 204}
        no_open_hold(hub)
    finally:
        pause.unlink()


def test_nothing_here_was_an_accident(hub: HubProcess) -> None:
    lines = [
        line for line in hub.log.splitlines() if "Unhandled" in line or "AttributeError" in line or " 500 " in line
    ]
    assert lines == []

"""The hub's own pages and routes, for real: hub and proxy as configured, the quota service faked at the wire."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.fake_quota import Fault
from tests.integration.hub_process import Browser, HubProcess, text_of

HOUR_MS = 3_600_000
FORM = {"project": "p1", "profile": "gpu1", "application": "lab", "runtime_s": "3600"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    one = HubProcess(tmp_path_factory.mktemp("hub") / "data")
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture(autouse=True)
def book(hub: HubProcess) -> None:
    """Each test begins with the same projects and no faults."""
    hub.quota.book.available = {"p1": 10 * HOUR_MS, "p2": HOUR_MS}
    hub.quota.book.payers = {"pi": ["p1", "p2"]}
    hub.quota.book.fault = hub.quota.book.holds_fault = Fault.NONE
    hub.quota.book.adjustments.clear()


@pytest.fixture(scope="module")
def pi(hub: HubProcess) -> Browser:
    return Browser(hub, "pi").sign_in()


@pytest.fixture(scope="module")
def admin(hub: HubProcess) -> Browser:
    return Browser(hub, "admin").sign_in()


def test_signing_in_tells_the_quota_service_who_it_was(hub: HubProcess, pi: Browser) -> None:
    assert hub.quota.book.people["pi"] == {"issuer": "urn:commons:demo", "subject": "pi", "display_name": "pi"}


def test_signing_in_works_while_the_quota_service_is_down(hub: HubProcess) -> None:
    hub.quota.book.fault = Fault.DOWN
    researcher = Browser(hub, "researcher")
    assert researcher.try_sign_in(hub.password("researcher")).status_code == 302
    hub.quota.book.fault = Fault.NONE
    assert researcher.http.get("/hub/spawn").status_code == 200
    assert "researcher" in hub.quota.book.people  # told when it was needed


def test_a_wrong_password_keeps_the_name_and_says_so(hub: HubProcess) -> None:
    for language, words in (("en", "User name or password is wrong"), ("zh", "用户名或密码不正确")):
        answer = Browser(hub, "pi", language).try_sign_in("wrong")
        assert answer.status_code == 403
        assert words in answer.text
        assert 'value="pi"' in answer.text


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Sign in to Compute Commons"), ("zh-CN", "登录 Compute Commons")]
)
def test_the_sign_in_page_speaks_the_readers_language(hub: HubProcess, language: str, words: str) -> None:
    page = httpx.get(hub.url + "hub/login", headers={"Accept-Language": language}, timeout=60)
    assert words in page.text


def test_the_chooser_shows_projects_hardware_and_a_price_without_a_script(pi: Browser) -> None:
    page = text_of(pi.http.get("/hub/spawn", params={"project": "p2", "profile": "gpu1", "runtime_s": "1800"}).text)
    for words in (
        "Project p1 · 10.00 GPU-h",
        "Available",
        "simulated",
        "1 GPU-h per hour",
        "1 GPU × 1800 s",
        "leaves 0.47",
    ):
        assert words in page


def test_the_chooser_says_what_would_fit_and_offers_it(pi: Browser) -> None:
    page = pi.http.get("/hub/spawn", params={"project": "p2", "profile": "gpu1", "runtime_s": "7200"}).text
    assert "the project has 1.00" in page
    assert 'name="runtime_s" value="3480"' in page
    assert "Start for 58 min instead" in page


def test_an_address_never_starts_anything(hub: HubProcess, pi: Browser) -> None:
    before = len(hub.quota.book.calls)
    for query in (FORM, {f"opt-{name}": value for name, value in FORM.items()}):
        page = pi.http.get("/hub/spawn/pi", params=query)
        assert page.status_code == 200
        assert "Start a notebook" in page.text
    assert pi.server() is None
    assert not any("/holds/" in path for _, path, _, _ in hub.quota.book.calls[before:])


def test_nonsense_in_an_address_is_replaced_by_defaults(pi: Browser) -> None:
    query = {"project": "<script>alert(1)</script>", "profile": "'--", "application": "\x00", "runtime_s": "9" * 400}
    page = pi.http.get("/hub/spawn", params=query)
    assert page.status_code == 200
    assert "<script>alert" not in page.text


def test_without_a_project_the_chooser_says_what_to_do(hub: HubProcess, pi: Browser) -> None:
    hub.quota.book.payers = {}
    page = pi.http.get("/hub/spawn").text
    assert "No project yet" in page
    assert 'href="/services/quota/apply"' in page


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.GARBAGE, Fault.HALF])
def test_the_chooser_says_that_the_quota_service_is_away(hub: HubProcess, pi: Browser, fault: Fault) -> None:
    hub.quota.book.fault = fault
    page = pi.http.get("/hub/spawn")
    assert page.status_code == 200
    assert "quota service cannot be reached" in page.text


def test_start_leads_to_the_chooser_and_keeps_the_choice(pi: Browser) -> None:
    answer = pi.http.get("/hub/commons/start", params={"project": "p2", "evil": "x"}, follow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/hub/spawn/pi?project=p2"


def test_the_quote_relay_answers_what_a_start_would_cost(pi: Browser) -> None:
    query = "?project=p1&profile=gpu2&application=lab&runtime_s=3600"
    answer = pi.relay("GET", f"/quote/pi{query}")
    assert answer.status_code == 200
    assert answer.json()["can_start"] is True
    assert answer.json()["amount"] == "2.07"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/quote/pi?profile=gpu1&runtime_s=60", 400),
        ("/quote/pi?project=p1&profile=a100&runtime_s=60", 400),
        ("/quote/pi?project=p1&profile=gpu1&runtime_s=soon", 400),
        ("/quote/pi?project=p1&profile=gpu1&runtime_s=999999999", 400),
        ("/quote/pi?project=%00&profile=gpu1&runtime_s=60", 400),
        ("/quote/pi?project=%FF%FE&profile=gpu1&runtime_s=60", 400),
        ("/quote/admin?project=p1&profile=gpu1&runtime_s=60", 404),
        ("/quote/nobody?project=p1&profile=gpu1&runtime_s=60", 404),
        ("/admin/projects", 403),
        ("/admin/projects/p1", 403),
    ],
)
def test_a_relayed_read_that_makes_no_sense_or_is_not_allowed_is_refused(pi: Browser, path: str, status: int) -> None:
    answer = pi.relay("GET", path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_every_relay_needs_sign_in_and_the_token_even_for_reads(hub: HubProcess, pi: Browser, admin: Browser) -> None:
    paths = ["/quote/pi?project=p1&profile=gpu1&runtime_s=60", "/admin/projects", "/admin/projects/p1"]
    for path in paths:
        assert httpx.get(f"{hub.url}hub/commons{path}", timeout=60).status_code in (401, 403)
        for who in (pi, admin):
            assert who.http.get(f"/hub/commons{path}").status_code == 403
            assert who.http.get(f"/hub/commons{path}", headers={"X-XSRFToken": "x"}).status_code == 403
    body = {"allocation_id": "alloc-gpu_ms", "delta": 5, "reason": "because"}
    assert admin.http.put("/hub/commons/admin/adjustments/adjustment-0", json=body).status_code == 403
    unsigned = httpx.put(f"{hub.url}hub/commons/admin/adjustments/adjustment-0", json=body, timeout=60)
    assert unsigned.status_code in (401, 403)
    assert hub.quota.book.adjustments == {}


def test_a_bearer_token_opens_no_relay(hub: HubProcess, admin: Browser) -> None:
    minted = admin.api("POST", "/users/admin/tokens", {"note": "test"})
    assert minted.status_code == 201
    headers = {"Authorization": f"token {minted.json()['token']}"}
    assert httpx.get(f"{hub.url}hub/api/user", headers=headers, timeout=60).status_code == 200
    assert httpx.get(f"{hub.url}hub/commons/admin/projects", headers=headers, timeout=60).status_code == 401


def test_the_admin_relay_lists_and_shows_projects(admin: Browser) -> None:
    found = admin.relay("GET", "/admin/projects?search=p2&limit=10&evil=1").json()["projects"]
    assert [one["project_id"] for one in found] == ["p2"]
    assert {one["unit"] for one in admin.relay("GET", "/admin/projects/p1").json()["allocations"]} == {
        "gpu_ms",
        "tokens",
    }
    assert admin.relay("GET", "/admin/projects/none").status_code == 404


def test_a_double_click_is_one_adjustment_by_the_signed_in_admin(hub: HubProcess, admin: Browser) -> None:
    body = {"allocation_id": "alloc-gpu_ms", "delta": HOUR_MS, "reason": "Outage", "actor": "somebody", "evil": 1}
    answers = [admin.relay("PUT", "/admin/adjustments/adjustment-1", body) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 200]
    assert answers[0].json()["after"]["available"] == 11 * HOUR_MS
    assert hub.quota.book.available["p1"] == 11 * HOUR_MS
    sent = [body for method, path, _, body in hub.quota.book.calls if path == "/admin/adjustments/adjustment-1"]
    assert sent[0] == {"actor": "admin", "allocation_id": "alloc-gpu_ms", "delta": HOUR_MS, "reason": "Outage"}


def test_somebody_without_the_scope_adjusts_nothing(hub: HubProcess, pi: Browser) -> None:
    body = {"allocation_id": "alloc-gpu_ms", "delta": 5, "reason": "because"}
    assert pi.relay("PUT", "/admin/adjustments/adjustment-2", body).status_code == 403
    assert hub.quota.book.adjustments == {}


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_an_adjustment_is_an_object(admin: Browser, body: object) -> None:
    assert admin.relay("PUT", "/admin/adjustments/adjustment-3", body).status_code == 400


@pytest.mark.parametrize("adjustment_id", ["%2e%2e", "a b", "x" * 65, "..%2Fholds%2Fh1"])
def test_an_id_is_a_plain_name(hub: HubProcess, admin: Browser, adjustment_id: str) -> None:
    body = {"allocation_id": "alloc-gpu_ms", "delta": 5, "reason": "because"}
    assert admin.relay("PUT", f"/admin/adjustments/{adjustment_id}", body).status_code in (400, 404)
    assert hub.quota.book.adjustments == {}


def test_the_relay_says_that_the_quota_service_is_away(hub: HubProcess, admin: Browser) -> None:
    hub.quota.book.fault = Fault.DOWN
    answer = admin.relay("GET", "/admin/projects")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


def test_the_quotas_tab_is_for_holders_of_the_scope_and_carries_no_token(admin: Browser, pi: Browser) -> None:
    page = admin.http.get("/hub/admin")
    assert page.status_code == 200
    assert 'id="react-admin-hook"' in page.text
    assert 'id="quotas-tab"' in page.text
    assert "token " not in page.text.lower().replace("xsrf_token", "")
    assert pi.http.get("/hub/admin").status_code == 403


def test_our_files_are_served_and_nothing_above_them(hub: HubProcess) -> None:
    assert httpx.get(f"{hub.url}hub/commons/static/commons.css", timeout=60).status_code == 200
    for path in ("../settings.py", "%2e%2e/settings.py", "..%2fsettings.py", "/etc/passwd"):
        assert httpx.get(f"{hub.url}hub/commons/static/{path}", timeout=60).status_code in (403, 404)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_batchspawners_route_does_not_exist_even_where_it_was_imported(pi: Browser, method: str) -> None:
    answer = pi.api(method, "/batchspawner", {"exec_prefix": "sh", "port": 1})
    assert answer.status_code == 404


def test_somebody_who_may_not_be_here_any_more_is_signed_out_without_an_accident(hub: HubProcess) -> None:
    researcher = Browser(hub, "researcher").sign_in()
    gone = hub.data / "gone"
    gone.touch()
    try:
        page = researcher.http.get("/hub/home", follow_redirects=False)
        while page.status_code == 200:  # what was refreshed less than a second ago is not asked again
            page = researcher.http.get("/hub/home", follow_redirects=False)
        assert page.headers["Location"].startswith("/hub/login")
    finally:
        gone.unlink()
    assert "AttributeError" not in hub.log


def test_no_page_of_ours_was_an_accident(hub: HubProcess) -> None:
    assert "Traceback" not in hub.log

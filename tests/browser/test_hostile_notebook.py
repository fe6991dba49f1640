"""A notebook page is hostile by assumption: an admin who opens somebody's notebook must lose nothing by it.

The page is what a person can serve from their own session. Here it runs on the portal's own origin, as without subdomains, and
sends what it can send blindly. What it could read out of pages of the same origin is why a site uses a domain for each person.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route

from tests.browser.conftest import Windows
from tests.portal import Portal

ATTACK = """
async ([base, project]) => {
  const tried = {};
  const attempt = async (name, path, options) => {
    try {
      const answer = await fetch(base + path, {credentials: 'include', ...options});
      tried[name] = [answer.status, (await answer.text()).slice(0, 300)];
    } catch (error) { tried[name] = [0, String(error)]; }
  };
  const json = (body, type = 'application/json') => ({method: 'POST', headers: {'Content-Type': type}, body: JSON.stringify(body)});
  const form = {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: 'form_token=&decision=approve'};
  await attempt('mint a hub token', 'hub/api/users/admin/tokens', json({note: 'mine', expires_in: 99999}));
  await attempt('mint one as text', 'hub/api/users/admin/tokens', json({note: 'mine'}, 'text/plain'));
  await attempt('read users', 'hub/api/users', {});
  const adjustment = {allocation_id: project + '-gpu', delta: 3600000, reason: 'mine'};
  const ask = {title: 'Mine', purpose: 'Stealing.', gpu_hours: '1', tokens: 0, starts_on: '2026-01-01', ends_on: '2027-01-01'};
  const put = (body) => ({...json(body), method: 'PUT'});
  await attempt('adjust by the relay', 'hub/commons/admin/adjustments/hostile-0001', put(adjustment));
  await attempt('read the relay', 'hub/commons/admin/projects', {});
  await attempt('adjust by the API', 'services/quota/api/internal/admin/adjustments/hostile-0002', put({...adjustment, actor: 'admin'}));
  await attempt('apply by the API', 'services/quota/api/applications/hostile-0003', put(ask));
  await attempt('apply by the form', 'services/quota/apply', form);
  await attempt('sign out everywhere', 'hub/commons/sign-out-everywhere', form);
  await attempt('make a link code', 'services/quota/profile/link-code', form);
  await attempt('make a model key', 'services/quota/projects/' + project + '/keys', form);
  await attempt('start a server', 'hub/api/users/admin/server', json({}));
  return tried;
}
"""
HARMLESS = {"title": "hostile"}


@pytest.fixture
def notebook(windows: Windows, portal: Portal) -> Page:
    """The admin, signed in everywhere, on a page that another person's session serves."""
    page = windows("admin")
    page.goto(portal.url + "services/quota/")
    page.goto(portal.url + "hub/admin")
    address = portal.url + "user/pi/files/hostile.html"

    def serve(route: Route) -> None:
        route.fulfill(status=200, content_type="text/html", body="<title>hostile</title>")

    page.route(address, serve)  # what stands there is the attacker's to choose
    page.goto(address)
    assert page.title() == HARMLESS["title"]
    return page


def test_a_hostile_notebook_page_mints_nothing_and_changes_nothing(notebook: Page, portal: Portal) -> None:
    def tokens() -> Any:
        listed = notebook.request.get(
            portal.url + "hub/api/users/admin/tokens", headers={"Referer": portal.url + "hub/token"}
        )
        return [one["note"] for one in listed.json()["api_tokens"]] if listed.ok else listed.status

    before = tokens()
    tried: dict[str, tuple[int, str]] = notebook.evaluate(ATTACK, [portal.url, "project-0001"])
    let_through = {name: answer for name, answer in tried.items() if answer[0] < 400 and answer[0] != 0}
    assert let_through == {}, json.dumps(tried, indent=1)
    assert "mine" not in str(tokens())
    assert tokens() == before


def test_a_hostile_page_reads_no_token_out_of_the_portals_pages(notebook: Page, portal: Portal) -> None:
    """Same origin means that it can fetch pages; what it must not find in them is a key to anything."""
    found = notebook.evaluate(
        "async (base) => Promise.all(['hub/home', 'hub/admin', 'hub/token', 'services/quota/'].map(async (path) => "
        "{ try { const a = await fetch(base + path); return [path, a.status, await a.text()]; } catch (e) { return [path, 0, '']; } }))",
        portal.url,
    )
    for path, _, text in found:
        assert "Bearer" not in text, path
        assert portal.secret("hub_credential") not in text, path

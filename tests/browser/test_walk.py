"""From an application to a charged notebook and a charged model request, as three people do it in their browsers.

On every backend: processes of this machine, containers of a real engine (in a network namespace of its own, browser included), jobs
of a real Slurm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows, a_chromium, shows
from tests.engine.container_portal import ContainerPortal
from tests.engine.engine import Engine
from tests.integration.slurm.slurm_portal import SlurmPortal
from tests.portal import Portal

TITLE = "Protein folding at night"
CELL_DEADLINE_MS = PATIENCE_MS
HELD = re.compile(r"held (2\.0[0-3]|1\.9)")  # 2 h and the margin, less what the meter charged meanwhile
MODEL_CELL = (
    "import openai; "
    "client = openai.OpenAI(); "
    "ask = dict(model='smollm2-135m-instruct', max_tokens=24, messages=[{'role': 'user', 'content': 'Say hello.'}]); "
    "plain = client.chat.completions.create(**ask).usage.total_tokens; "
    "chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={'include_usage': True})); "
    "print('used', plain, chunks[-1].usage.total_tokens, 'end')"
)


Lived = Callable[[], int]
Place = ContainerPortal | SlurmPortal


@pytest.fixture(
    scope="module", params=["processes", "containers", "rest", pytest.param("sbatch", marks=pytest.mark.full)]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place | None]:
    """Where sessions run; None: as processes of this machine."""
    if request.param == "processes":
        yield None
        return
    if request.param in ("rest", "sbatch"):
        jobs = SlurmPortal(request.param)
        try:
            yield jobs
        finally:
            jobs.stop()
        return
    engine: Engine = request.getfixturevalue("engine")
    with engine.namespace.inside():
        one = ContainerPortal(engine, request.getfixturevalue("images").base())
        try:
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="module")
def chromium(place: Place | None) -> Iterator[Browser]:
    """In the place's network namespace."""
    yield from a_chromium()


@pytest.fixture(scope="module")
def portal(place: Place | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    data = tmp_path_factory.mktemp("browser") / "data"
    running = Portal(data).up() if place is None else place.up(data)
    yield running
    assert running.down() == 0


@pytest.fixture
def lived_ms(place: Place | None, portal: Portal) -> Lived:
    """Milliseconds from the only session's true start to its end, by the runner's record or the engine's word."""

    def local() -> int:
        (folder,) = (portal.data / "sessions").iterdir()
        record = json.loads((folder / "record.json").read_text())
        return int(record["ended_at_ms"] - record["started_at_ms"])

    return local if place is None else place.lived_ms


def home(page: Page, portal: Portal) -> None:
    page.goto(portal.url + "services/quota/")


def open_project(page: Page, portal: Portal) -> None:
    home(page, portal)
    page.get_by_role("article", name=TITLE).get_by_role("link", name=TITLE, exact=True).click()
    expect(page.get_by_role("heading", name=TITLE, level=1)).to_be_visible()


def test_1_a_newcomer_reads_what_to_do_and_applies(windows: Windows, portal: Portal) -> None:
    page = windows("pi")
    home(page, portal)
    expect(page.get_by_role("heading", name=re.compile("Welcome"))).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Apply").click()
    page.get_by_label("Title").fill(TITLE)
    page.get_by_label("Purpose").fill("We fold proteins to understand misfolding diseases.")
    page.get_by_label("GPU-hours", exact=True).fill("20")
    page.get_by_label("Tokens", exact=True).fill("200000")
    page.get_by_role("button", name="Submit application").click()
    expect(page.get_by_text("submitted").first).to_be_visible()


def test_2_the_admin_awards_less_than_was_asked(windows: Windows, portal: Portal) -> None:
    page = windows("admin")
    page.goto(portal.url + "services/quota/review")
    page.get_by_role("link", name=TITLE).click()
    page.get_by_label("GPU-hours", exact=True).fill("10")
    page.get_by_label("Message to the applicant").fill("Ten hours to begin with.")
    page.get_by_role("button", name="Approve and award").click()
    expect(page.get_by_text("Approved.").first).to_be_visible()
    home(windows("pi"), portal)
    card = windows("pi").get_by_role("article", name=TITLE)
    expect(card).to_contain_text("10 of 10 GPU-h left")
    expect(card).to_contain_text("200,000 of 200,000 tokens left")
    for word in ("charged 0", "held 0", "available 10"):
        expect(card).to_contain_text(word)
    expect(windows("pi").get_by_text("Ten hours to begin with.")).to_be_visible()


def test_3_the_pi_adds_the_researcher(windows: Windows, portal: Portal) -> None:
    home(windows("researcher"), portal)
    page = windows("pi")
    open_project(page, portal)
    page.get_by_label("User name").fill("researcher")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("table", name="Members of the project")).to_contain_text("researcher")


def test_4_the_chooser_shows_the_price_and_says_what_would_fit(windows: Windows, portal: Portal) -> None:
    page = windows("researcher")
    home(page, portal)
    page.get_by_role("link", name=re.compile("^Start")).click()
    expect(page.get_by_label("Who pays")).to_contain_text(TITLE)
    page.get_by_role("radio", name=re.compile("^1 simulated GPU")).check()
    page.get_by_label("Runtime").select_option("7200")
    quote = "1 GPU × 2 h + 2 min margin = 2.03 GPU-h held; unused returns; leaves 7.97 GPU-h"
    expect(page.get_by_text(quote)).to_be_visible()
    page.get_by_role("radio", name=re.compile("^2 simulated GPUs")).check()
    page.get_by_label("Runtime").select_option("28800")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    expect(page.get_by_role("button", name=re.compile(r"Start for .* instead"))).to_be_visible()


def test_5_a_notebook_opens_and_a_cell_and_a_model_answer(windows: Windows, portal: Portal) -> None:
    page = windows("researcher")
    page.get_by_role("radio", name=re.compile("^1 simulated GPU")).check()
    page.get_by_label("Runtime").select_option("7200")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/user/researcher/lab**", timeout=CELL_DEADLINE_MS)
    page.get_by_title("Python 3 (ipykernel)").first.click(timeout=CELL_DEADLINE_MS)
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible(timeout=CELL_DEADLINE_MS)
    cell = page.get_by_role("feed", name="Cells").get_by_role("textbox").first
    cell.fill(MODEL_CELL)
    expect(cell).to_contain_text("openai")
    cell.press("Shift+Enter")
    output = page.locator(".jp-OutputArea-output").filter(has_text=re.compile(r"used \d+ \d+ end")).first
    expect(output).to_be_visible(timeout=CELL_DEADLINE_MS)
    used = [int(number) for number in re.findall(r"\d+", output.inner_text())]
    home(windows("pi"), portal)
    card = windows("pi").get_by_role("article", name=TITLE)
    shows(card, f"charged {sum(used):,}")  # the last answer ends before it is settled
    expect(card).to_contain_text(HELD)


def test_6_a_stop_settles_to_the_true_start_and_end(
    windows: Windows, portal: Portal, place: Place | None, lived_ms: Lived
) -> None:
    page = windows("researcher")
    home(page, portal)
    page.get_by_role("link", name=re.compile("^Stop")).click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Last session:")).to_be_visible()
    pi = windows("pi")

    def settled() -> bool:
        home(pi, portal)
        return HELD.search(pi.get_by_role("article", name=TITLE).inner_text()) is None

    for _ in range(300):
        if settled():
            break
        pi.wait_for_timeout(500)
    project_id = re.findall(r"projects/([a-z0-9-]+)", pi.content())[0]
    answer = pi.context.request.get(f"{portal.api}/projects/{project_id}/statement")
    assert answer.ok, answer.text()
    charges = [line for line in answer.json()["lines"] if line["unit"] == "gpu_ms"]
    apart = abs(sum(line["delta_charged"] for line in charges) - lived_ms())
    assert apart <= (0 if place is None else place.told_later_ms)
    open_project(pi, portal)
    expect(pi.get_by_role("table", name=re.compile("What changed the balances"))).to_contain_text("researcher")


def test_7_the_admin_adjusts_in_the_hubs_panel_and_the_pi_reads_why(windows: Windows, portal: Portal) -> None:
    page = windows("admin")
    page.goto(portal.url + "hub/admin")
    expect(page.get_by_text("researcher").first).to_be_visible()
    page.get_by_role("tab", name="Quotas").click()
    page.get_by_label("Search projects").fill("folding")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("button", name=TITLE).click()
    page.get_by_role("button", name=re.compile("Adjust GPU-h")).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("GPU-hours")).fill("1")
    dialog.get_by_role("button", name="Preview").click()
    expect(dialog.get_by_text("Write 3 to 500 characters.")).to_be_visible()
    dialog.get_by_label("Reason").fill("A node failed on Tuesday.")
    dialog.get_by_role("button", name="Preview").click()
    dialog.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text(re.compile("Saved"))).to_be_visible()
    pi = windows("pi")
    open_project(pi, portal)
    statement = pi.get_by_role("table", name=re.compile("What changed the balances"))
    expect(statement).to_contain_text("A node failed on Tuesday.")
    expect(statement).to_contain_text("+1 GPU-h")
    assert "token" not in page.evaluate("Object.keys(localStorage).join()")


def test_8_the_quotas_tab_and_its_relay_are_closed_to_others(windows: Windows, portal: Portal) -> None:
    page = windows("researcher")
    assert page.goto(portal.url + "hub/admin").status == 403  # type: ignore[union-attr]
    answer = page.context.request.get(portal.url + "hub/commons/admin/projects")
    assert answer.status == 403


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("path", ["services/quota/", "services/quota/apply", "hub/spawn", "hub/home"])
def test_no_page_scrolls_sideways(windows: Windows, portal: Portal, path: str, width: int) -> None:
    page = windows("pi")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(portal.url + path)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.set_viewport_size({"width": 1280, "height": 900})

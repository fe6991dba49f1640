"""Starts that race for the host's GPUs while hubs die, and posts that try for more than a profile: a real hub on a real engine."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from spawners import container_spec as spec
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite
from tests.integration.hub_process import Browser, HubProcess, text_of
from tests.waiting import PATIENCE_S, until

ROUNDS: Final = 50 if os.environ.get("COMMONS_FULL") == "1" else 5
STARTERS: Final = (("pi", ""), ("pi", "two"), ("pi", "three"), ("researcher", ""), ("researcher", "two"))
OPTIONS: Final[dict[str, Any]] = {"project": "p1", "profile": "gpu1", "runtime_s": 3600}
HOUR_MS: Final = 3_600_000

FORBIDDEN_KEYS: Final = (
    "image", "images", "volumes", "mounts", "binds", "read_only_volumes", "cap_add", "cap_drop", "privileged", "devices",
    "device_requests", "network", "network_name", "network_mode", "environment", "env", "cmd", "command", "entrypoint",
    "extra_host_config", "extra_create_kwargs", "user", "name_template", "prefix", "runtime", "gpus", "mem_limit",
)  # fmt: skip
_PAYLOADS: Final = (
    "debian:12", "{username}", "{0.__class__}", "{{7*7}}", "{% include 'x' %}", "%(x)s", "%s%n", "${HOME}", "${jndi:ldap://x}", "$(id)",
    "`id`", "; rm -rf /", "| cat /etc/passwd", "&& reboot", "../../etc", "..\\..\\x", "/", "//host/share", "file:///etc/shadow", "host",
    "a\nb", "a\r\nSet-Cookie: x=1", "a\x00b", "a\x1b[2J", "'; DROP TABLE x;--", "' OR '1'='1", '"}]}', "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "&lt;b&gt;", "١٢", "ａ１００", "\u202egpu", "\u200b", "\ufeff", "🙂", "\ud7ff", "é\u0301",
    "x" * 70, "-", "--privileged", "_", "gpu1,gpu2", "gpu*", "null", "sha256:" + "0" * 64,
)  # fmt: skip
# Each by itself, and around what is a choice: a check of the beginning, of the end or without anchors lets one of them through.
HOSTILE: Final = (
    "", " gpu1", "gpu1 ", "GPU1", "gpu1\u200b",
    *(shape.format(one) if "{}" in shape else one for one in _PAYLOADS for shape in ("", "gpu1{}", "{}gpu1", "lab {} lab", "p1/{}")),
)  # fmt: skip
ODD: Final[tuple[object, ...]] = (None, True, 0, -1, 1.5, [], {}, ["gpu1"], {"profile": "gpu1"}, 10**30, [[[]]])


@pytest.fixture(scope="module")
def site(inside: Engine, images: Images) -> Iterator[ContainerSite]:
    one = ContainerSite(inside, images.stub())
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def hub(site: ContainerSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    one = HubProcess(tmp_path_factory.mktemp("races") / "data")
    one.environment["COMMONS_PORTAL_FILE"] = str(site.portal_file)
    one.quota.book.available = {"p1": 10_000 * HOUR_MS}
    one.quota.book.payers = {"pi": ["p1"], "researcher": ["p1"]}
    try:
        site.load_rules(one.hub_port, one.quota_port)
        site.start()
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture(scope="module")
def people(hub: HubProcess) -> dict[str, Browser]:
    return {name: Browser(hub, name).sign_in() for name in ("pi", "researcher")}


def live(sessions: Sessions) -> list[Any]:
    """Containers that hold devices or are about to."""
    listed = sessions.client.containers.list(all=True, ignore_removed=True, filters={"label": spec.HOLD})
    return [one for one in listed if one.status in ("created", "running", "paused")]


def start(people: dict[str, Browser], who: tuple[str, str]) -> httpx.Response | None:
    try:
        return people[who[0]].start(OPTIONS, who[1])
    except httpx.TransportError:
        return None  # the hub was killed meanwhile


def pending(people: dict[str, Browser], who: tuple[str, str]) -> bool:
    server = people[who[0]].server(who[1])
    return server is not None and not server["ready"]


def race(
    hub: HubProcess, people: dict[str, Browser], sessions: Sessions, *, kill_at: int
) -> list[httpx.Response | None]:
    """Five starts at once; the hub is killed when `kill_at` containers are there (0: not at all) and started again."""
    with ThreadPoolExecutor(len(STARTERS)) as pool:
        starts: list[Future[httpx.Response | None]] = [pool.submit(start, people, who) for who in STARTERS]
        try:
            if kill_at:
                until(
                    lambda: len(live(sessions)) >= kill_at or None,
                    within_s=PATIENCE_S,
                    what="some containers are there",
                )
                hub.kill_hub()
            answers = [one.result() for one in starts]
        finally:
            if kill_at:
                hub.kill_hub()
                hub.start_hub()
    until(lambda: not any(pending(people, who) for who in STARTERS), within_s=PATIENCE_S, what="no start is pending")
    return answers


@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_five_racing_starts_never_share_one_of_four_gpus_whatever_the_hub_survives(
    hub: HubProcess, people: dict[str, Browser], site: ContainerSite
) -> None:
    sessions = Sessions(site)
    for number in range(ROUNDS):
        kill_at = 1 + number % 4 if number % 2 else 0
        race(hub, people, sessions, kill_at=kill_at)
        running = [one for one in live(sessions) if one.status == "running"]
        held = list(itertools.chain(*(json.loads(one.labels[spec.DEVICES]) for one in running)))
        assert len(held) == len(set(held)), held
        ready = [who for who in STARTERS if (people[who[0]].server(who[1]) or {}).get("ready")]
        if not kill_at:
            assert len(running) == len(ready) == len(STARTERS) - 1
        stop_all(people, ready)
        site.engine.remove_containers()


def stop_all(people: dict[str, Browser], running: Sequence[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(len(STARTERS)) as pool:
        list(pool.map(lambda who: people[who[0]].stop(who[1]), running))


def test_the_fifth_is_told_what_is_busy_and_until_when(
    hub: HubProcess, people: dict[str, Browser], site: ContainerSite
) -> None:
    for who in STARTERS[:-1]:
        assert people[who[0]].start(OPTIONS, who[1]).status_code in (201, 202)
    for who in STARTERS[:-1]:
        people[who[0]].ready(who[1])
    name, server = STARTERS[-1]
    page = people[name].choose({"project": "p1", "profile": "gpu1", "runtime_s": "3600"}, server)
    until(lambda: not pending(people, STARTERS[-1]) or None, within_s=PATIENCE_S, what="the fifth is refused")
    said = text_of(
        page.text if "GPUs" in page.text else people[name].http.get(f"/hub/spawn-pending/{name}/{server}").text
    )
    assert "0 of 4 GPUs of this kind are free" in said
    assert "expected to be free at" in said
    assert "nothing is charged" in said
    stop_all(people, STARTERS[:-1])
    site.engine.remove_containers()


def test_posted_keys_and_values_that_are_no_choice_are_400_and_make_nothing(
    hub: HubProcess, people: dict[str, Browser], site: ContainerSite
) -> None:
    sessions, pi = Sessions(site), people["pi"]
    assert len(set(HOSTILE)) >= 200
    holds = len(hub.quota.book.holds)
    posts: list[dict[str, Any]] = [
        {**OPTIONS, key: value} for key in FORBIDDEN_KEYS for value in ("x", {"a": "b"}, ["SYS_ADMIN"])
    ]
    fields = itertools.cycle(("profile", "application", "project", "runtime_s"))
    posts += [{**OPTIONS, field: value} for field, value in zip(fields, HOSTILE, strict=False)]
    posts += [
        {**OPTIONS, field: value} for field in ("profile", "application", "project", "runtime_s") for value in ODD
    ]
    posts += [{**OPTIONS, "runtime_s": 10**9}, *({**OPTIONS, value: "x"} for value in HOSTILE[::5])]
    for options in posts:
        answer = pi.start(options, "hostile")
        # a project that has a name and is not the person's is refused as such
        refused = (400, 403) if set(options) == set(OPTIONS) and options["project"] != "p1" else (400,)
        assert answer.status_code in refused, (options, answer.text)
    assert sessions.client.containers.list(all=True) == []
    assert sessions.client.networks.list(filters={"label": spec.HOLD}) == []
    assert len(hub.quota.book.holds) == holds


@pytest.mark.parametrize("name", ["../x", "a b", "A", "x" * 40, "{username}", "$(id)", "%2e%2e", "-x"])
def test_server_names_that_are_no_names_make_nothing(
    hub: HubProcess, people: dict[str, Browser], site: ContainerSite, name: str
) -> None:
    answer = people["pi"].start(OPTIONS, name)
    assert answer.status_code in (400, 404, 405, 403), answer.text
    assert Sessions(site).client.containers.list(all=True) == []

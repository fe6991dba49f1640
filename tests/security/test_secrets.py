"""Secrets stay where they are: in files of 0600, and in no log, database, environment, argument, page, audit or core dump; each can be changed.

A real portal with a session in it; every secret of its data folder is looked for, and canaries that a person puts into what they send.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from deploy.onehost.data_folder import SECRETS, DataFolder
from tests.people import Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S

# The one environment that carries one, by the proxy's own interface.
IN_ENVIRONMENT = {"proxy_token": "configurable-http-proxy"}
CANARIES = ("canary-in-a-password", "canary-in-a-query", "canary-in-a-header", "canary-in-a-cookie", "canary-in-a-body")


def _secrets(portal: Portal) -> dict[str, str]:
    found = {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()}
    users = json.loads(found.pop("demo_users.json"))
    return found | {f"password of {one['user']}": one["password"] for one in users}


def _processes(portal: Portal) -> list[Path]:
    """Every process that has this portal's data folder in its environment."""
    mark, found = f"COMMONS_DATA={portal.data}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder)
        except OSError:
            continue
    return found


async def _used(portal: Portal) -> list[str]:
    """Sign-ins, a project, a session, canaries everywhere; the pages that were read, errors among them."""
    pages = []
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
        asked = {"title": "Secrets", "purpose": "To look for them.", "gpu_hours": "10", "tokens": 10}
        pages.append(str(await pi.api("GET", "/me")))
        status, body = await pi.api("PUT", "/applications/secret-0001", asked | _dates())
        assert status == 201, body
        approve = {"decision": "approve", "gpu_hours": "10", "tokens": 10, "message": "Welcome here"}
        status, body = await admin.api("POST", "/applications/secret-0001/decision", approve)
        assert status == 200, body
        await pi.start(str(body["project_id"]), profile="cpu", runtime_s=600)
        pages += [str(await pi.hub("GET", path)) for path in ("/user", "/users/pi", "/services", "/groups", "/nothing")]
        pages += [str(await admin.hub("GET", path)) for path in ("/users", "/services", "/proxy", "/info", "/groups")]
    async with httpx.AsyncClient(
        base_url=portal.url, follow_redirects=True, trust_env=False, timeout=PATIENCE_S
    ) as stranger:
        sent = {"X-Secret": CANARIES[2], "Authorization": f"Bearer {CANARIES[2]}", "Cookie": f"a={CANARIES[3]}"}
        for path in (
            "hub/login",
            "hub/nothing",
            "services/quota/nothing",
            "services/quota/api/nothing",
            "services/gateway/v1/models",
            "hub/api/nothing",
        ):
            answer = await stranger.get(path, headers=sent, params={"token": CANARIES[1], "key": CANARIES[1]})
            pages.append(answer.text)
            pages.append((await stranger.post(path, headers=sent, content=CANARIES[4])).text)
        await stranger.get("hub/login", headers={"Sec-Fetch-Mode": "navigate"})
        form = {"username": "pi", "password": CANARIES[0], "_xsrf": str(stranger.cookies.get("_xsrf", path="/hub/"))}
        pages.append((await stranger.post("hub/login", data=form)).text)
    return pages


def _dates() -> dict[str, str]:
    today = datetime.now(UTC).date()
    return {"starts_on": today.isoformat(), "ends_on": (today + timedelta(days=300)).isoformat()}


async def test_no_secret_leaves_its_file(portal: Portal) -> None:
    pages = await _used(portal)
    secrets = _secrets(portal)
    assert set(SECRETS) - {"demo_users.json"} <= set(secrets)
    for name, secret in secrets.items():
        assert not [page[:200] for page in pages if secret in page], f"{name} is in a page"
    places = [path for path in portal.data.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    assert {"jupyterhub.sqlite", "quota.sqlite", "hub.log", "quota.log", "proxy.log"} <= {path.name for path in places}
    for path in [*places, portal.data.parent / "launcher.log"]:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # a draft that was renamed since it was listed
        for name, secret in secrets.items():
            told = path.name == "launcher.log" and name.startswith(
                "password of"
            )  # printed for the person who started it
            assert told or secret.encode() not in content, f"{name} is in {path}"
        for canary in CANARIES:
            # The proxy and the hub log addresses; JupyterHub hides what is called token.
            assert canary.encode() not in content or (canary == CANARIES[1] and path.name == "proxy.log"), (
                f"{canary} is in {path}"
            )


def test_no_process_has_a_secret_in_its_environment_or_arguments_and_none_dumps_core(portal: Portal) -> None:
    assert len(_processes(portal)) >= 3
    for folder in _processes(portal):
        try:
            environment, words = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            limits = (folder / "limits").read_text()
        except OSError:
            continue  # it ended meanwhile
        for name, secret in _secrets(portal).items():
            assert secret.encode() not in words, (name, words)
            own = IN_ENVIRONMENT.get(name, "-").encode() in words
            assert own or secret.encode() not in environment, (name, words)
        found = re.search(r"Max core file size\s+(\d+|unlimited)", limits)
        assert found is not None
        assert found[1] == "0", words


def test_every_secret_was_made_for_its_owner_alone_and_none_is_a_default(portal: Portal, tmp_path: Path) -> None:
    other = DataFolder(tmp_path / "other")
    other.make()
    for name in SECRETS:
        path = portal.data / "secrets" / name
        assert path.stat().st_mode & 0o777 == 0o600, name
        assert path.read_text() != other.secret(name), name
        assert len(path.read_text()) >= 43, name
    assert (portal.data / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.full
async def test_every_secret_can_be_changed_and_what_hung_on_the_old_one_is_dead(tmp_path: Path) -> None:
    """docs/howto/secrets.md: stop, remove the files, start. The books stand; people sign in again."""
    portal = Portal(tmp_path / "data", model=False).up()
    async with Person(portal, "pi") as pi:
        cookies = [(one.key, one.value, one["path"]) for one in pi.http.cookie_jar]
        old_hub_credential = portal.secret("hub_credential")
        assert portal.down() == 0
        before = _secrets(portal)
        for name in SECRETS:
            (portal.data / "secrets" / name).unlink()
        portal.up()
        after = _secrets(portal)
        assert not {name for name in before if before[name] == after.get(name)}
        async with httpx.AsyncClient(base_url=portal.url, trust_env=False, timeout=PATIENCE_S) as old:
            for key, value, path in cookies:
                old.cookies.set(key, value, domain="127.0.0.1", path=path or "/")
            home = await old.get("hub/home", headers={"Sec-Fetch-Mode": "navigate"})
            assert "/hub/login" in home.headers["location"]
            answer = await old.get(
                "services/quota/api/internal/hub-epoch", headers={"Authorization": f"Bearer {old_hub_credential}"}
            )
            assert answer.status_code == 401
        async with Person(portal, "pi") as again:
            assert (await again.api("GET", "/me"))[0] == 200
    assert portal.down() == 0

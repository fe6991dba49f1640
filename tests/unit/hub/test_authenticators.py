"""Sign-in: who gets in, who is thrown out, and how often somebody may guess."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from tornado import web

from hub.authenticators import PortalAuthenticator
from hub.demo_sign_in import DEMO_ISSUER, NAMES, WAIT_S, DemoSignIn, NotLoopback, Throttle, require_loopback
from hub.people import People
from hub.settings import DemoUser
from quota.client import Person

USERS = [DemoUser("Admin", "admin-word", ("admin",)), DemoUser("pi", "pi-word", ())]


class Group:
    def __init__(self, name: str) -> None:
        self.name = name


class User:
    def __init__(self, name: str, groups: tuple[str, ...] = ()) -> None:
        self.name = name
        self.groups = [Group(one) for one in groups]

    async def get_auth_state(self) -> dict[str, Any]:
        return {"provider": "demo", "issuer": DEMO_ISSUER, "subject": self.name}


class Handler:
    """What the authenticator asks of a hub handler."""

    def __init__(self, *users: User) -> None:
        self.users = {user.name: user for user in users}
        self.request = self
        self.headers: dict[str, str] = {}
        self.connection = self.context = self  # as Tornado nests them
        self.address = ("127.0.0.1", 40_000)

    def said(self, forwarded_for: str, peer: str = "127.0.0.1") -> Handler:
        """What the proxy, or whoever else is the peer, says of the sender."""
        self.headers["X-Forwarded-For"] = forwarded_for
        self.address = (peer, 40_000)
        return self

    def find_user(self, name: str) -> User | None:
        return self.users.get(name)

    def get_cookie(self, name: str) -> None:
        return None


class Told(People):
    """Keeps what it is told."""

    def __init__(self, told: list[tuple[str, Person]]) -> None:
        self._told_here = told

    async def tell(self, hub_name: str, person: Person, *, again: bool = False) -> bool:
        self._told_here.append((hub_name, person))
        return True


def authenticator(
    told: list[tuple[str, Person]] | None = None,
    users: list[DemoUser] = USERS,
    public_url: str = "http://127.0.0.1:8000/",
    guesses: int = 5,
) -> Any:
    made = PortalAuthenticator(people=Told([] if told is None else told), pages=lambda: [("/ours", object)])
    made.demo = DemoSignIn(users, public_url, guesses, made.normalize_username)
    return made


async def sign_in(one: Any, name: str, password: str, handler: Any = None) -> dict[str, Any] | None:
    model: dict[str, Any] | None = await one.get_authenticated_user(
        handler or Handler(), {"username": name, "password": password}
    )
    return model


async def test_the_right_password_gives_identity_and_groups() -> None:
    told: list[tuple[str, Person]] = []
    model = await sign_in(authenticator(told), "Admin", "admin-word")
    assert model is not None
    assert (model["name"], model["admin"]) == ("admin", True)
    assert set(model["groups"]) == {"quota-admins", "quota-deciders", "quota-auditors"}
    assert (model["auth_state"]["issuer"], model["auth_state"]["subject"]) == (DEMO_ISSUER, "admin")
    assert told == [("admin", Person(DEMO_ISSUER, "admin", "Admin"))]
    assert "admin-word" not in str(model)


async def test_somebody_without_a_role_is_no_admin() -> None:
    model = await sign_in(authenticator(), "pi", "pi-word")
    assert model is not None
    assert (model["admin"], model["groups"]) == (False, [])


@pytest.mark.parametrize("spelling", ["PI", " pi ", "ｐｉ", "Pi"])
async def test_one_name_has_one_spelling(spelling: str) -> None:
    model = await sign_in(authenticator(), spelling, "pi-word")
    assert model is not None
    assert model["name"] == "pi"


@pytest.mark.parametrize(
    ("name", "password"),
    [("pi", "admin-word"), ("pi", ""), ("pi", "pi-word "), ("nobody", "no such person"), ("", ""), ("pi\x00", "pi-word"), ("pi", "\ud800")],
)  # fmt: skip
async def test_everybody_else_stays_out(name: str, password: str) -> None:
    told: list[tuple[str, Person]] = []
    assert await sign_in(authenticator(told), name, password) is None
    assert told == []


async def test_a_missing_field_is_a_wrong_password() -> None:
    assert await authenticator().get_authenticated_user(Handler(), {}) is None


async def test_guessing_is_slowed_down_even_for_the_right_password() -> None:
    one = authenticator(guesses=2)
    for _ in range(2):
        assert await sign_in(one, "pi", "wrong") is None
    with pytest.raises(web.HTTPError) as refusal:
        await sign_in(one, "PI", "pi-word")
    assert refusal.value.status_code == 429
    assert await sign_in(one, "admin", "admin-word") is not None  # another name is not locked out by it


async def test_guesses_at_a_name_keep_nobody_out_elsewhere() -> None:
    one = authenticator(guesses=2)
    for _ in range(10):
        with contextlib.suppress(web.HTTPError):
            await sign_in(one, "pi", "wrong", Handler().said("203.0.113.9"))
    assert await sign_in(one, "pi", "pi-word", Handler().said("198.51.100.1")) is not None


@pytest.mark.parametrize(
    "forged", ["198.51.100.{n}, 203.0.113.9", "{n}.{n}.{n}.{n},203.0.113.9", ",,{n} , 203.0.113.9"]
)
async def test_a_guesser_does_not_choose_where_they_come_from(forged: str) -> None:
    """Everything but the last entry, which the proxy wrote, is the sender's; X-Real-Ip as well."""
    one = authenticator(guesses=2)
    for number in range(2):
        handler = Handler().said(forged.format(n=number))
        handler.headers["X-Real-Ip"] = f"198.51.100.{number}"
        assert await sign_in(one, "pi", "wrong", handler) is None
    with pytest.raises(web.HTTPError) as refusal:
        await sign_in(one, "pi", "pi-word", Handler().said("203.0.113.9"))
    assert refusal.value.status_code == 429


async def test_who_is_not_the_proxy_says_nothing_of_where_they_come_from() -> None:
    one = authenticator(guesses=2)
    for number in range(2):
        assert await sign_in(one, "pi", "wrong", Handler().said(f"198.51.100.{number}", peer="172.20.0.7")) is None
    with pytest.raises(web.HTTPError):
        await sign_in(one, "pi", "pi-word", Handler().said("198.51.100.9", peer="172.20.0.7"))


def test_an_address_that_guesses_at_many_names_waits_and_the_table_stays_small() -> None:
    now = [0.0]
    throttle = Throttle(2, monotonic=lambda: now[0])
    guessed = 0
    while not throttle.wait_s(f"name-{guessed}", "203.0.113.9"):
        throttle.failed(f"name-{guessed}", "203.0.113.9")
        guessed += 1
    assert guessed == 2 * NAMES
    assert throttle.wait_s("name-1", "198.51.100.1") == 0
    now[0] = WAIT_S + 1
    throttle.failed("other", "198.51.100.1")
    assert len(throttle._failed) == 2


def test_a_name_may_guess_again_after_a_while() -> None:
    now = [0.0]
    throttle = Throttle(2, monotonic=lambda: now[0])
    throttle.failed("pi", "here")
    assert throttle.wait_s("pi", "here") == 0
    throttle.failed("pi", "here")
    assert throttle.wait_s("pi", "here") == WAIT_S + 1
    now[0] = WAIT_S
    assert throttle.wait_s("pi", "here") == 0
    throttle.failed("pi", "here")
    assert throttle.wait_s("pi", "here") == 0


def test_a_success_forgets_the_wrong_guesses() -> None:
    throttle = Throttle(2, monotonic=lambda: 0.0)
    throttle.failed("pi", "here")
    throttle.succeeded("pi", "here")
    throttle.failed("pi", "here")
    assert throttle.wait_s("pi", "here") == 0


async def test_a_refresh_asks_again_who_may_be_here() -> None:
    told: list[tuple[str, Person]] = []
    one = authenticator(told)
    model = await one.refresh_user(User("admin"), Handler())
    assert set(model["groups"]) == {"quota-admins", "quota-deciders", "quota-auditors"}
    one.demo = authenticator(users=USERS[1:]).demo
    assert await one.refresh_user(User("admin"), Handler()) is False
    one.blocked_users = {"pi"}
    assert await one.refresh_user(User("pi"), Handler()) is False
    assert [name for name, _ in told] == ["admin"]


async def test_a_role_that_was_taken_away_is_gone_at_the_refresh() -> None:
    one = authenticator(users=[DemoUser("admin", "x", ())])
    model = await one.refresh_user(User("admin", ("quota-admins", "quota-deciders")), Handler())
    assert (model["admin"], model["groups"]) == (False, [])


async def test_groups_that_somebody_else_fills_stay() -> None:
    member = User("pi", ("nbgrader-physics", "quota-admins"))
    model = await sign_in(authenticator(), "pi", "pi-word", Handler(member))
    assert model is not None
    assert model["groups"] == ["nbgrader-physics"]


def test_our_pages_come_before_the_hubs() -> None:
    assert authenticator().get_handlers(None)[0] == ("/ours", object)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/", "http://localhost:8000/", "http://[::1]:8000/", "http://127.8.9.1/"]
)
def test_the_demo_runs_on_loopback(url: str) -> None:
    require_loopback(url)


@pytest.mark.parametrize(
    "url",
    ["http://0.0.0.0:8000/", "http://192.168.1.5/", "http://portal.example/", "http://127.0.0.1.example/", "http:///", "", "http://localhost.example/", "http://[::]/"],
)  # fmt: skip
def test_the_demo_refuses_every_other_address(url: str) -> None:
    with pytest.raises(NotLoopback):
        require_loopback(url)
    with pytest.raises(NotLoopback):
        authenticator(public_url=url)

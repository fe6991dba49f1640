"""The hub's only door to the quota service: its internal routes (docs/reference/api.md), typed, with a deadline on every call.

Invariants: a refusal is a value (`Refused`) and silence or nonsense is `QuotaUnavailable`, never "allowed", "zero" or "nothing
there"; the credential shows in no repr and no error. Holds and adjustments carry ids made by the caller, so a call whose
outcome is unknown is repeated with the same id and can have no second effect. Standard library and httpx only.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote as escape

import httpx

DEADLINE_S: Final = 5.0
ROOT: Final = "/services/quota/api/internal"
_LARGEST_ANSWER_BYTES: Final = 4 * 2**20
T = TypeVar("T")


class QuotaUnavailable(Exception):
    """The quota service did not answer in time, said it cannot, or answered what makes no sense."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The quota service says no: `message` is what and why, `next` what to do, both in the reader's language."""

    status: int
    code: str
    message: str
    next: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fits_runtime_s(self) -> int:
        """The longest runtime that would be accepted; 0 where none would, or that is not the reason."""
        seconds = self.params.get("fits_runtime_s")
        return seconds if type(seconds) is int and seconds > 0 else 0


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """What a session's hold is asked for."""

    actor: str
    project_id: str
    profile: str
    application: str
    runtime_s: int
    server_name: str


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that stands; `gateway_key` lives as long as the hold. `login` and `uid` are what the session runs under."""

    hold_id: str
    allocation_id: str
    amount: int
    runtime_s: int
    margin_s: int
    gateway_key: str = field(repr=False)
    gateway_path: str
    text: str
    login: str
    uid: int
    course: str = ""  # the course that pays, where its owner is in it
    teaches: bool = False  # whether its owner is instructor or grader of any course


@dataclass(frozen=True, slots=True)
class Person:
    """Who a hub user is, by the sign-in that vouches for them."""

    issuer: str
    subject: str
    display_name: str
    email: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """What a person may use of a project in one unit, and what of it is left; negative where more was used."""

    cap: int
    available: int


@dataclass(frozen=True, slots=True)
class Payer:
    """A project that could pay for a start; `gpu_ms` and `tokens` map awarded, charged, held and available."""

    project_id: str
    slug: str
    title: str
    role: str
    gpu_ms: Mapping[str, int]
    tokens: Mapping[str, int]
    ends_at: str
    can_start: bool
    refusal: Refused | None
    course: str = ""  # the course's title, where the project is one
    shares: Mapping[str, Share] = field(default_factory=dict)  # the person's own, by unit, where they have any


@dataclass(frozen=True, slots=True)
class Quote:
    """A start's price and what decides about it; amounts are GPU-milliseconds."""

    text: str
    amount: int
    available: int
    leaves: int
    runtime_s: int
    gpus: int
    rate: str
    fits_runtime_s: int | None


@dataclass(frozen=True, slots=True)
class Quoted:
    """The answer to a quote: a price (absent where there is nothing to price) and, where a hold would be refused, why."""

    quote: Quote | None
    refusal: Refused | None


@dataclass(frozen=True, slots=True)
class CourseRoster:
    """A course as the hub needs it: whether it is over, and hub user names by role."""

    slug: str
    title: str
    over: bool
    instructors: tuple[str, ...]
    graders: tuple[str, ...]
    students: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is passed on as it stands, errors included."""

    status: int
    body: Mapping[str, Any]


class QuotaClient:
    """Calls the internal routes in the hub's name. `transport` is httpx's seam for tests."""

    def __init__(
        self,
        url: str,
        credential: str,
        *,
        deadline_s: float = DEADLINE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`url` is the service's own address, without a path."""
        self._url = f"{url.rstrip('/')}{ROOT}"
        self._credential = credential
        self._deadline_s = deadline_s
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self.epoch: int | None = None  # this hub's fencing epoch, shown with every call once it is set

    async def take_epoch(self, holder: str) -> int:
        """The next epoch of the hub: from now on the quota service listens to this one."""
        answer = await self._call("POST", "/hub-epoch", {"holder": holder})
        if _refusal(answer) is not None:
            raise QuotaUnavailable("the quota service gives no epoch")
        return _read(lambda: _integer(answer.body["epoch"]))

    async def check_epoch(self) -> Refused | None:
        """A refusal `stale_epoch` where a newer hub took over."""
        return _refusal(await self._call("GET", "/hub-epoch"))

    async def register(self, hub_name: str, person: Person, *, deadline_s: float | None = None) -> Refused | None:
        """Tell who `hub_name` is; idempotent."""
        body = {name: value for name, value in asdict(person).items() if value}
        answer = await self._call("PUT", f"/people/{escape(hub_name, safe='')}", body, deadline_s=deadline_s)
        return _refusal(answer)

    async def recognise(
        self, person: Person, preferred: str, language: str = "", *, deadline_s: float | None = None
    ) -> str | Refused:
        """The hub user name of (issuer, subject), given at first sight and kept; idempotent."""
        body = {name: value for name, value in asdict(person).items() if value}
        answer = await self._call(
            "POST", "/people", {**body, "preferred": preferred[:320]}, language=language, deadline_s=deadline_s
        )
        refused = _refusal(answer)
        return refused or _read(lambda: str(answer.body["hub_name"]))

    async def gone(self, hub_name: str, *, deadline_s: float | None = None) -> Refused | None:
        """Say that the sign-in provider does not vouch for a user any more; undone by their next sign-in."""
        return _refusal(
            await self._call("POST", f"/people/{escape(hub_name, safe='')}/gone", {}, deadline_s=deadline_s)
        )

    async def payers(self, hub_name: str, language: str = "") -> tuple[Payer, ...] | Refused:
        """The projects that could pay for this person's start."""
        answer = await self._call("GET", f"/people/{escape(hub_name, safe='')}/payers", language=language)
        refused = _refusal(answer)
        return refused or _read(lambda: tuple(_payer(entry) for entry in answer.body["payers"]))

    async def quote(
        self, actor: str, project_id: str, profile: str, runtime_s: int, language: str = ""
    ) -> Quoted | Refused:
        """The price of a start, by the function that decides a hold."""
        body = {"actor": actor, "project_id": project_id, "profile": profile, "runtime_s": runtime_s}
        answer = await self._call("POST", "/quotes", body, language=language)
        refused = _refusal(answer)
        return refused or _read(lambda: _quoted(answer.body))

    async def hold(self, hold_id: str, order: HoldOrder, language: str = "") -> Held | Refused:
        """Place the hold `hold_id`. One lost answer is asked for again, by the same id, inside the same deadline."""
        path, body = f"/holds/{escape(hold_id, safe='')}", {"kind": "session", **asdict(order)}
        give_up = time.monotonic() + self._deadline_s
        try:
            answer = await self._call("PUT", path, body, language=language, deadline_s=self._deadline_s / 2)
        except QuotaUnavailable:
            left_s = give_up - time.monotonic()
            answer = await self._call("PUT", path, body, language=language, deadline_s=max(left_s, 0.1))
        refused = _refusal(answer)
        return refused or _read(lambda: _held(hold_id, answer.body))

    async def rescued(self, hold_id: str, order: HoldOrder, started_at: datetime) -> Refused | None:
        """Tell of a rescue session that was started while nobody could be asked; idempotent by the hold's id."""
        body = {"kind": "session", **asdict(order), "started_at": started_at.isoformat()}
        return _refusal(await self._call("PUT", f"/rescues/{escape(hold_id, safe='')}", body))

    async def ended(self, hold_id: str, reason: str) -> Refused | None:
        """Hint that the session of a hold stopped or never started; idempotent, evidence decides."""
        answer = await self._call("POST", f"/holds/{escape(hold_id, safe='')}/ended", {"reason": reason})
        return _refusal(answer)

    async def last_ended(self, hub_name: str, server_name: str, language: str, *, deadline_s: float) -> str:
        """Why the last session of a server ended, in words; "" where none did. Raises QuotaUnavailable."""
        path = f"/people/{escape(hub_name, safe='')}/last-session"
        answer = await self._call(
            "GET", path, query={"server_name": server_name}, language=language, deadline_s=deadline_s
        )
        if _refusal(answer) is not None:
            return ""
        return _read(lambda: "" if answer.body["ended"] is None else str(answer.body["ended"]["message"]))

    async def activity(self, hub_name: str, server_name: str, *, busy: bool, active_at: datetime | None) -> bool:
        """Tell what a look at a notebook showed; whether it is idle for good and has to be stopped. Raises QuotaUnavailable."""
        last = None if active_at is None else active_at.isoformat()
        body = {"hub_name": hub_name, "server_name": server_name, "busy": busy, "active_at": last}
        answer = await self._call("POST", "/activity", body)
        if (refused := _refusal(answer)) is not None:
            raise QuotaUnavailable(f"the look at {hub_name}/{server_name} was not taken: {refused.code}")
        return _read(lambda: answer.body["stop"] is True)

    async def courses(self) -> tuple[CourseRoster, ...]:
        """Every course with its people. Raises QuotaUnavailable."""
        answer = await self._call("GET", "/courses")
        if (refused := _refusal(answer)) is not None:
            raise QuotaUnavailable(f"the courses were not told: {refused.code}")
        return _read(lambda: tuple(_roster(entry) for entry in answer.body["courses"]))

    async def admin(
        self, method: str, path: str, *, actor: str, body: Mapping[str, Any] | None = None, language: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Call a route under `/admin`; `actor` is the admin in whose name. The answer is the caller's to pass on."""
        return await self._call(
            method, f"/admin{path}", body, language=language, headers={"X-Commons-Actor": actor}, query=query
        )

    async def close(self) -> None:
        """Close idle connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        language: str = "",
        deadline_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {self._credential}", "Accept": "application/json", **(headers or {})}
        if language:
            sent["Accept-Language"] = language
        if self.epoch is not None:
            sent["X-Commons-Epoch"] = str(self.epoch)
        request = self._client().build_request(method, self._url + path, json=body, headers=sent, params=query)
        try:
            async with asyncio.timeout(deadline_s or self._deadline_s):
                response = await self._client().send(request)
        except TimeoutError:
            raise QuotaUnavailable("the quota service did not answer in time") from None
        except httpx.HTTPError as error:
            raise QuotaUnavailable(f"the quota service cannot be reached ({type(error).__name__})") from None
        return _answer(response)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:  # made on first use, so that it belongs to the running loop
            self._http = httpx.AsyncClient(transport=self._transport, timeout=self._deadline_s, trust_env=False)
        return self._http


def _answer(response: httpx.Response) -> Answer:
    """Raises QuotaUnavailable for 5xx, for 401 (the two sides' credentials differ), 429 and for what is no JSON object."""
    if response.status_code >= 500 or response.status_code in (401, 429):
        raise QuotaUnavailable(f"the quota service answered {response.status_code}")
    try:
        body = json.loads(response.content) if len(response.content) <= _LARGEST_ANSWER_BYTES else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise QuotaUnavailable("the quota service answered something else than a JSON object")
    return Answer(response.status_code, body)


def _refusal(answer: Answer) -> Refused | None:
    if answer.status < 300:
        return None
    return _read(lambda: _refused(answer.status, answer.body["error"]))


def _refused(status: int, error: Mapping[str, Any]) -> Refused:
    return Refused(
        status, str(error["code"]), str(error["message"]), str(error.get("next") or ""), error.get("params") or {}
    )


def _payer(entry: Mapping[str, Any]) -> Payer:
    texts = {name: str(entry.get(name) or "") for name in ("slug", "title", "role", "ends_at")}
    refusal = entry.get("refusal")
    return Payer(
        project_id=str(entry["project_id"]),
        gpu_ms=_amounts(entry["gpu_ms"]),
        tokens=_amounts(entry["tokens"]),
        can_start=entry["can_start"] is True,
        refusal=None if refusal is None else _refused(402, refusal.get("error", refusal)),
        course=str(entry.get("course") or ""),
        shares={
            unit: Share(_integer(one["cap"]), _integer(one["available"]))
            for unit, one in (entry.get("shares") or {}).items()
        },
        **texts,
    )


def _roster(entry: Mapping[str, Any]) -> CourseRoster:
    people = {role: tuple(str(one) for one in entry["people"][role]) for role in ("instructor", "grader", "student")}
    return CourseRoster(
        slug=str(entry["slug"]),
        title=str(entry["title"]),
        over=entry["phase"] == "over",
        instructors=people["instructor"],
        graders=people["grader"],
        students=people["student"],
    )


def _amounts(entry: Mapping[str, Any]) -> dict[str, int]:
    return {name: _integer(entry[name]) for name in ("awarded", "charged", "held", "available")}


def _quoted(body: Mapping[str, Any]) -> Quoted:
    quote, refusal = body.get("quote"), body.get("refusal")
    return Quoted(
        quote=None
        if quote is None
        else Quote(
            text=str(quote["text"]),
            rate=str(quote["rate"]),
            fits_runtime_s=None if quote.get("fits_runtime_s") is None else _integer(quote["fits_runtime_s"]),
            **{name: _integer(quote[name]) for name in ("amount", "available", "leaves", "runtime_s", "gpus")},
        ),
        refusal=None if refusal is None else _refused(402, refusal),
    )


def _held(hold_id: str, body: Mapping[str, Any]) -> Held:
    if body["hold_id"] != hold_id or body["state"] != "held":
        raise ValueError("another hold")
    texts = {name: str(body[name]) for name in ("allocation_id", "gateway_key", "gateway_path", "text", "login")}
    amounts = {name: _integer(body[name]) for name in ("amount", "runtime_s", "margin_s", "uid")}
    course, teaches = str(body.get("course") or ""), body.get("teaches") is True
    return Held(hold_id=hold_id, course=course, teaches=teaches, **texts, **amounts)  # type: ignore[arg-type]


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError("no integer")
    return value


def _read(read: Callable[[], T]) -> T:
    """Read an answer; what does not read as agreed is an outage, not a refusal."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise QuotaUnavailable("the quota service answered something else than agreed") from None

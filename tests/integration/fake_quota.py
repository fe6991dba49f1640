"""The quota service's internal routes at the wire, for the faults that the real one cannot be asked to show: silence, 503, garbage.

Amounts are real enough: one project per person, a hold takes rate × GPUs × (runtime + margin), the same id gets the same answer.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from aiohttp import web

from tests.waiting import PATIENCE_S

MARGIN_S: Final = 120
GPUS: Final = {"cpu": 0, "rescue": 0, "gpu1": 1, "gpu2": 2}
ROOT: Final = "/services/quota/api/internal"


class Fault(StrEnum):
    """How the service fails while it is told to."""

    NONE = "none"
    DOWN = "503"
    SLOW = "slow"
    GARBAGE = "garbage"
    HALF = "half"  # JSON, with the agreed keys missing
    CUT = "cut"  # the hold is placed and the answer lost


@dataclass
class Book:
    """What the fake knows; tests read and change it."""

    credential: str
    available: dict[str, int] = field(default_factory=dict)  # GPU-ms by project
    payers: dict[str, list[str]] = field(default_factory=dict)  # projects by person
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    holds: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    epoch: int = 0
    adjustments: dict[str, dict[str, Any]] = field(default_factory=dict)
    login: str = "cc-20001"  # as whom everybody's sessions run
    uid: int = 20001
    fault: Fault = Fault.NONE
    holds_fault: Fault = Fault.NONE
    slow_s: float = 30.0

    def open_holds(self) -> list[str]:
        """Holds that nothing has ended."""
        over = {hold_id for hold_id, _ in self.ended}
        return [hold_id for hold_id in self.holds if hold_id not in over]


class FakeQuota:
    """Runs in a thread of its own on a port of 127.0.0.1."""

    def __init__(self, credential: str, port: int) -> None:
        self.book = Book(credential)
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()

    def start(self) -> FakeQuota:
        self._thread.start()
        assert self._up.wait(PATIENCE_S)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._app())
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._up.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._front])
        app.router.add_post(ROOT + "/hub-epoch", self._take_epoch)
        app.router.add_get(ROOT + "/hub-epoch", self._check_epoch)
        app.router.add_put(ROOT + "/people/{name}", self._put_person)
        app.router.add_get(ROOT + "/people/{name}/payers", self._payers)
        app.router.add_post(ROOT + "/quotes", self._quote)
        app.router.add_get(ROOT + "/courses", self._courses)
        app.router.add_put(ROOT + "/holds/{id}", self._hold)
        app.router.add_post(ROOT + "/holds/{id}/ended", self._ended)
        app.router.add_get(ROOT + "/admin/projects", self._projects)
        app.router.add_get(ROOT + "/admin/projects/{id}", self._project)
        app.router.add_put(ROOT + "/admin/adjustments/{id}", self._adjust)
        app.router.add_get("/services/quota/{tail:.*}", self._page)
        return app

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith(ROOT):
            answered: web.StreamResponse = await handler(request)
            return answered
        body = json.loads(await request.text() or "null")
        self.book.calls.append((request.method, request.path.removeprefix(ROOT), dict(request.headers), body))
        if request.headers.get("Authorization") != f"Bearer {self.book.credential}":
            return error(401, "not_signed_in", "No credential.")
        fault = self.book.holds_fault if "/holds/" in request.path else self.book.fault
        if fault is Fault.DOWN:
            return error(503, "unavailable", "Later.")
        if fault is Fault.SLOW:
            await asyncio.sleep(self.book.slow_s)
        if fault is Fault.GARBAGE:
            return web.Response(text="<html>Bad gateway</html>")
        if fault is Fault.HALF:
            return web.json_response({"hold_id": request.match_info.get("id", ""), "state": "held"})
        answer: web.StreamResponse = await handler(request)
        if fault is Fault.CUT and request.transport is not None:
            request.transport.close()
        return answer

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text="quota pages")

    async def _take_epoch(self, request: web.Request) -> web.Response:
        self.book.epoch += 1
        return web.json_response({"epoch": self.book.epoch})

    async def _check_epoch(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Commons-Epoch") != str(self.book.epoch):
            return error(409, "stale_epoch", "A newer hub took over.")
        return web.json_response({"epoch": self.book.epoch})

    async def _put_person(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.book.people[name] = await request.json()
        return web.json_response({"person_id": f"person-{name}", "hub_name": name, "login": f"cc-{name}"})

    async def _courses(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"courses": []})

    async def _payers(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.book.people:
            return error(404, "unknown_person", "Nobody here has that name.")
        return web.json_response({"payers": [self._payer(one) for one in self.book.payers.get(name, [])]})

    def _payer(self, project: str) -> dict[str, Any]:
        available = self.book.available[project]
        amounts = {"unit": "gpu_ms", "awarded": available, "charged": 0, "held": 0, "available": available}
        return {
            "project_id": project, "slug": project, "title": f"Project {project}", "role": "pi", "gpu_ms": amounts,
            "tokens": {**amounts, "unit": "tokens"}, "ends_at": "2027-03-31T00:00:00Z", "can_start": True, "refusal": None,
        }  # fmt: skip

    def _price(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        gpus, runtime_s = GPUS[body["profile"]], body["runtime_s"]
        available = self.book.available[body["project_id"]]
        amount = gpus * (runtime_s + MARGIN_S) * 1000
        fits = None if not gpus else max(available // (gpus * 1000) - MARGIN_S, 0)
        text = f"{gpus} GPU × {runtime_s} s + 2 min margin = {amount / 3.6e6:.2f} GPU-h held; unused returns; leaves {(available - amount) / 3.6e6:.2f} GPU-h"
        quote = {
            "project_id": body["project_id"], "allocation_id": "alloc-0001", "unit": "gpu_ms", "profile": body["profile"],
            "gpus": gpus, "rate": "1", "runtime_s": runtime_s, "margin_s": MARGIN_S, "amount": amount,
            "available": available, "leaves": available - amount, "text": text, "fits_runtime_s": fits,
        }  # fmt: skip
        if amount <= available:
            return quote, None
        message = f"This start needs {amount / 3.6e6:.2f} GPU-h; the project has {available / 3.6e6:.2f}."
        params = {"requested": amount, "available": available, "fits_runtime_s": fits}
        next_step = "Ask the PI for more & <soon>."
        return quote, {"code": "insufficient_balance", "message": message, "next": next_step, "params": params}

    async def _quote(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["project_id"] not in self.book.available:
            return error(404, "unknown_project", "There is no such project.")
        quote, refusal = self._price(body)
        return web.json_response({"quote": quote, "refusal": refusal})

    async def _hold(self, request: web.Request) -> web.Response:
        hold_id, body = request.match_info["id"], await request.json()
        if body["actor"] not in self.book.people:
            return error(404, "unknown_person", "Nobody here has that name.")
        if body["project_id"] not in self.book.payers.get(body["actor"], []):
            return error(403, "not_a_member", "You are no member of this project.", "Ask its PI.")
        if hold_id in self.book.refused:
            return web.json_response({"error": self.book.refused[hold_id]}, status=402)
        known = self.book.holds.get(hold_id)
        if known is None:
            quote, refusal = self._price(body)
            if refusal is not None:
                self.book.refused[hold_id] = refusal
                return web.json_response({"error": refusal}, status=402)
            self.book.available[body["project_id"]] -= quote["amount"]
            self.book.holds[hold_id] = {**body, "amount": quote["amount"]}
        elif {**body, "amount": known["amount"]} != known:
            return error(409, "id_conflict", "Another hold has this id.")
        return web.json_response(
            {
                "hold_id": hold_id, "state": "held", "allocation_id": "alloc-0001", "amount": self.book.holds[hold_id]["amount"],
                "runtime_s": body["runtime_s"], "margin_s": MARGIN_S, "ends_within_ms": body["runtime_s"] * 1000,
                "gateway_key": f"key-of-{hold_id}", "gateway_path": "services/gateway/v1", "text": "held",
                "login": self.book.login, "uid": self.book.uid,
            },
            status=201 if known is None else 200,
        )  # fmt: skip

    async def _ended(self, request: web.Request) -> web.Response:
        hold_id = request.match_info["id"]
        if hold_id not in self.book.holds and hold_id not in self.book.refused:
            return error(404, "unknown_hold", "There is no such hold.")
        self.book.ended.append((hold_id, (await request.json())["reason"]))
        return web.json_response({"state": "ended"}, status=202)

    async def _projects(self, request: web.Request) -> web.Response:
        search = request.query.get("search", "").lower()
        return web.json_response(
            {"projects": [self._row(one) for one in self.book.available if search in one.lower()], "next": None}
        )

    def _row(self, project: str) -> dict[str, Any]:
        payer = self._payer(project)
        return {
            "project_id": project, "slug": project, "title": payer["title"], "state": "active", "role": None,
            "balances": [payer["gpu_ms"], payer["tokens"]], "starts_at": "2026-04-01T00:00:00Z", "ends_at": payer["ends_at"],
            "pi": {"hub_name": "pi", "display_name": "pi", "role": "pi", "since": None},
        }  # fmt: skip

    async def _project(self, request: web.Request) -> web.Response:
        project = request.match_info["id"]
        if project not in self.book.available:
            return error(404, "unknown_project", "There is no such project.")
        row = self._row(project)
        allocations = [
            {
                "allocation_id": f"alloc-{balance['unit']}", "unit": balance["unit"], "state": "active", "frozen": False,
                "starts_at": row["starts_at"], "ends_at": row["ends_at"], "balance": balance,
            }
            for balance in row["balances"]
        ]  # fmt: skip
        return web.json_response(
            {"project": row, "allocations": allocations, "history": list(self.book.adjustments.values())}
        )

    async def _adjust(self, request: web.Request) -> web.Response:
        adjustment_id, body = request.match_info["id"], await request.json()
        project = next(iter(self.book.available))
        before = self._payer(project)["gpu_ms"]
        replayed = adjustment_id in self.book.adjustments
        if not replayed:
            self.book.available[project] += body["delta"]
            self.book.adjustments[adjustment_id] = {
                "seq": len(self.book.adjustments), "at": "2026-11-23T12:00:00.000Z", "kind": "adjustment", "unit": "gpu_ms",
                "delta_awarded": body["delta"], "delta_held": 0, "delta_charged": 0, "who": body["actor"],
                "text": "Balance adjusted", "reason": body["reason"],
            }  # fmt: skip
        after = self._payer(project)["gpu_ms"]
        answer = {"adjustment_id": adjustment_id, "before": before, "after": after}
        return web.json_response(answer, status=200 if replayed else 201)


def error(status: int, code: str, message: str, next_step: str = "") -> web.Response:
    """An error in the API's one shape."""
    return web.json_response(
        {"error": {"code": code, "message": message, "next": next_step, "params": {}}}, status=status
    )

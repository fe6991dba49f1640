"""People who use a portal through its HTTP interfaces, as their browser and notebook do."""

from __future__ import annotations

import asyncio
import json
import uuid
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually


class Person:
    """Somebody signed in to the hub, with an API token of their own."""

    def __init__(self, portal: Portal, name: str) -> None:
        self.portal = portal
        self.name = name
        self.http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
        )
        self.token = ""

    async def __aenter__(self) -> Person:
        await self.sign_in()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()

    def xsrf(self) -> str:
        """The hub's XSRF token; its cookie is scoped to /hub/."""
        cookies = self.http.cookie_jar.filter_cookies(URL(self.portal.url + "hub/"))
        return cookies["_xsrf"].value

    async def sign_in(self) -> None:
        """Through the form, then an API token through the hub's own route."""
        login = self.portal.url + "hub/login"
        await (await self.http.get(login)).read()
        form = {"username": self.name, "password": self.portal.password(self.name), "_xsrf": self.xsrf()}
        answer = await self.http.post(login, data=form, allow_redirects=False)
        assert answer.status == 302, await answer.text()
        await (await self.http.get(self.portal.url + "hub/home")).read()
        minted = await self.http.post(
            f"{self.portal.url}hub/api/users/{self.name}/tokens",
            params={"_xsrf": self.xsrf()},
            json={"note": "test", "expires_in": 7200},
            headers={"Referer": self.portal.url + "hub/token"},
        )
        assert minted.status == 201, await minted.text()
        self.token = (await minted.json())["token"]

    async def call(self, method: str, url: str, body: object = None) -> tuple[int, Any]:
        """One request by token; answers (status, JSON or text)."""
        headers = {"Authorization": f"token {self.token}"}
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text) if text else None
            except json.JSONDecodeError:
                return answer.status, text

    async def api(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A call to the quota service's REST API."""
        return await self.call(method, self.portal.api + path, body)

    async def hub(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A call to the hub's REST API."""
        return await self.call(method, f"{self.portal.url}hub/api{path}", body)

    async def start(self, project_id: str, *, profile: str = "gpu1", runtime_s: int = 3600, server: str = "") -> None:
        """Start a session and wait until the hub calls it ready. Raises AssertionError with the hub's words."""
        options = {"project": project_id, "profile": profile, "runtime_s": runtime_s}
        status, answer = await self.hub("POST", f"/users/{self.name}/servers/{server}", {"user_options": options})
        assert status in (201, 202), (status, answer)

        async def ready() -> bool:
            return bool((await self.server(server) or {}).get("ready"))

        await eventually(ready, within_s=PATIENCE_S, what=f"{self.name}'s session is ready")

    async def server(self, server: str = "") -> dict[str, Any] | None:
        """The hub's model of a server, or None."""
        status, user = await self.hub("GET", f"/users/{self.name}")
        assert status == 200, (status, user)
        found: dict[str, Any] | None = user["servers"].get(server)
        return found

    async def checked(self, server: str = "") -> None:
        """Wait until a hub that was started anew has looked at a session: until then its stop waits, and is refused after 10 s."""

        async def looked() -> bool:
            return (await self.server(server) or {}).get("pending") != "check"

        await eventually(looked, within_s=PATIENCE_S, what=f"the hub has looked at {self.name}'s session")

    async def stop(self, server: str = "") -> None:
        """Ask the hub to stop a session and wait until it has."""
        await self.checked(server)
        status, answer = await self.hub("DELETE", f"/users/{self.name}/servers/{server}")
        assert status in (202, 204), (status, answer)

        async def gone() -> bool:
            return await self.server(server) is None

        await eventually(gone, within_s=PATIENCE_S, what=f"{self.name}'s session has stopped")


class Kernel:
    """A Python kernel in somebody's session, spoken to over the proxy's websocket."""

    def __init__(self, person: Person, server: str = "") -> None:
        self.person = person
        self.base = f"{person.portal.url}user/{person.name}/" + (f"{server}/" if server else "")
        self.id = ""

    async def open(self) -> Kernel:
        status, kernel = await self.person.call("POST", self.base + "api/kernels", {"name": "python3"})
        assert status == 201, (status, kernel)
        self.id = kernel["id"]
        return self

    async def run(self, code: str) -> str:
        """Execute `code` and return what it printed, its result or its error's last line."""
        parts = urlsplit(self.base)
        url = f"ws://{parts.netloc}{parts.path}api/kernels/{self.id}/channels"
        headers = {"Authorization": f"token {self.person.token}"}
        async with (
            asyncio.timeout(PATIENCE_S),
            self.person.http.ws_connect(url, headers=headers, max_msg_size=0) as channel,
        ):
            message_id = uuid.uuid4().hex
            header = {
                "msg_id": message_id, "msg_type": "execute_request", "username": self.person.name,
                "session": uuid.uuid4().hex, "version": "5.3", "date": "",
            }  # fmt: skip
            content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
            request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
            await channel.send_json(request)
            return await self._printed(channel, message_id)

    async def sockets(self) -> str:
        """Where it listens, as it knows it itself: what its sockets' paths begin with. Raises AssertionError where it listens on ports."""
        info = json.loads(await self.run("import ipykernel; print(ipykernel.get_connection_info())"))
        assert info["transport"] == "ipc", info
        return str(info["ip"])

    @staticmethod
    async def _printed(channel: aiohttp.ClientWebSocketResponse, message_id: str) -> str:
        printed = ""
        async for frame in channel:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "execute_result":
                printed += content["data"]["text/plain"]
            elif kind == "error":
                printed += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return printed
        raise AssertionError("the kernel's channel closed")

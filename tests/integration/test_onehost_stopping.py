"""The clean stop against a hub and a quota service that answer, refuse or are silent; runners are real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.onehost.bootstrap import Environment
from deploy.onehost.console import Progress
from deploy.onehost.data_folder import DataFolder
from deploy.onehost.programs import Site
from deploy.onehost.stopping import CleanStop, live_runners
from spawners import records
from spawners.records import EndReason, Order
from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S


class Wire:
    """Hub and quota service as the launcher sees them, on one port."""

    def __init__(self, data: DataFolder) -> None:
        self.data = data
        self.servers: dict[str, dict[str, object]] = {}
        self.open_holds = [2, 1, 0]
        self.calls: list[str] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer("launcher_api_token", 200, [{"name": "ada", "servers": dict(wire.servers)}])

            def do_DELETE(self) -> None:
                wire.servers.pop(self.path.rsplit("/", 1)[1].replace("server", ""), None)
                self.answer("launcher_api_token", 204, None)

            def do_POST(self) -> None:
                if self.path.endswith("/stopping"):
                    self.answer("hub_credential", 200, {"sessions": len(wire.servers)})
                    return
                left = wire.open_holds.pop(0)
                self.answer("hub_credential", 200, {"open_session_holds": left, "settled": 0})

            def answer(self, credential: str, status: int, content: object) -> None:
                wire.calls.append(f"{self.command} {self.path}")
                if self.headers["Authorization"] != f"Bearer {wire.data.secret(credential)}":
                    status, content = 403, {}
                body = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    return folder


@pytest.fixture
def wire(data: DataFolder) -> Iterator[Wire]:
    wire = Wire(data)
    thread = threading.Thread(target=wire.http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield wire
    wire.http.shutdown()
    thread.join()
    wire.http.server_close()


@pytest.fixture
def runner(data: DataFolder) -> Iterator[Path]:
    """The folder of a session that runs."""
    folder = data.sessions / "hold-1"
    folder.mkdir()
    order = Order("hold-1", "ada", "", "cpu", ("sleep", "300"), str(folder), free_port(), 5, 600_000)
    records.write_order(folder, order)
    (folder / records.ENVIRONMENT).write_text("{}")
    argv = [sys.executable, "-m", "spawners.runner", str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, start_new_session=True) as process:
        end_s = time.monotonic() + PATIENCE_S
        while not live_runners(data.sessions):
            assert time.monotonic() < end_s, "the runner wrote no record"
            time.sleep(0.05)
        yield folder
        process.terminate()


def a_site(data: DataFolder, hub: int, quota: int) -> Site:
    ports = {"hub": hub, "quota": quota, "proxy_api": free_port(), "model": free_port()}
    return Site(Environment(ROOT), data, ROOT / "portal.toml", free_port(), ports, model=False)


def stop(site: Site) -> None:
    CleanStop(site, Progress(), threading.Event()).run()


def test_every_server_is_stopped_and_holds_are_settled_before_the_stop_goes_on(data: DataFolder, wire: Wire) -> None:
    wire.servers = {"": {"ready": True, "pending": None}, "second": {"ready": True, "pending": None}}
    stop(a_site(data, wire.port, wire.port))
    assert wire.servers == {}
    assert {call for call in wire.calls if call.startswith("DELETE")} == {
        "DELETE /hub/api/users/ada/server",
        "DELETE /hub/api/users/ada/servers/second",
    }
    assert wire.calls[-3:] == ["POST /services/quota/api/internal/reconcile"] * 3


def test_with_the_hub_down_runners_are_stopped_directly_and_then_settled(
    data: DataFolder, wire: Wire, runner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(a_site(data, free_port(), wire.port))
    record = records.read(runner)
    assert record.end_reason is EndReason.STOPPED
    api = "/services/quota/api/internal"
    assert wire.calls == [
        f"POST {api}/stopping",
        *[f"POST {api}/reconcile"] * 3,
    ]
    assert "settling 1 session\n" in capsys.readouterr().out


def test_a_session_that_the_hub_forgot_is_stopped_too(data: DataFolder, wire: Wire, runner: Path) -> None:
    stop(a_site(data, wire.port, wire.port))
    assert records.read(runner).ended


def test_a_silent_quota_service_leaves_settling_to_the_next_start(
    data: DataFolder, wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(a_site(data, wire.port, free_port()))
    assert "settled at the next start" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_the_waiting(data: DataFolder, wire: Wire) -> None:
    wire.open_holds = [1] * 100
    hurry = threading.Event()
    hurry.set()
    CleanStop(a_site(data, wire.port, wire.port), Progress(), hurry).run()
    assert len(wire.open_holds) >= 98

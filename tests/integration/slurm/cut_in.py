"""A proxy before slurmrestd that lies: 500s, garbage, lost answers, for the client's tests and for a whole hub's."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from tests.integration.slurm.cluster import SlurmCluster

Answer = tuple[int, str, bytes]
Fault = Callable[[str, str], Answer | None]  # (method, path) → the lie, None for the truth
OUTAGES: list[Answer] = [
    (500, "application/json", b'{"errors":[{"error_number":-1,"error":"Unexpected failure"}],"jobs":[]}'),
    (500, "text/plain", b"Internal Server Error"),
    (200, "text/html", b"<html>captive portal</html>"),
    (200, "application/json", b'{"jobs": [{"job_id": 1,'),
    (200, "application/json", b"[]"),
    (200, "application/json", b'{"jobs": [{"job_id": "7"}], "errors": []}'),
    (200, "application/json", b'{"errors": []}'),
    (502, "text/html", b"Bad Gateway"),
    (401, "text/plain", b"Authentication failure"),
]


class Proxy:
    """Between the client and slurmrestd; `fault` decides what is answered, `after` lets the truth happen first."""

    def __init__(self, url: str) -> None:
        self.fault: Fault = lambda method, path: None
        self.after = False
        self.post_answers = (
            threading.Event()
        )  # cleared: what changes something is carried out, and its answer does not go out
        self.post_answers.set()
        self.calls: list[tuple[str, str]] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                proxy.calls.append((self.command, self.path))
                lie = proxy.fault(self.command, self.path)
                if lie is None or proxy.after:
                    headers = {
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() not in ("host", "connection")
                    }
                    try:
                        got = requests.request(self.command, url + self.path, data=body, headers=headers, timeout=40)
                    except requests.ConnectionError:  # a dead slurmrestd answers nobody
                        self.close_connection = True
                        return
                    truth = (got.status_code, got.headers.get("Content-Type", ""), got.content)
                if self.command == "POST":
                    proxy.post_answers.wait(60)
                status, kind, content = truth if lie is None else lie
                with contextlib.suppress(ConnectionError):  # who asked may be gone
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _serve

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def proxied(cluster: SlurmCluster) -> Iterator[Proxy]:
    proxy = Proxy(cluster.url)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


def only(method: str, part: str, lie: Answer) -> Fault:
    return lambda verb, path: lie if verb == method and part in path else None

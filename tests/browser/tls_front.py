"""nginx as deploy/tls/nginx.conf.example sets it up, in front of a portal on this machine, and a Chromium that trusts its certificate.

The certificate is of an authority that was made a moment ago and that this browser alone knows, for `NAME` and `*.NAME`: names that it
does not cover are refused by the browser, as anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import ARGUMENTS, PATIENCE_MS
from tests.integration.tls import Authority
from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

EXAMPLE = ROOT / "deploy" / "tls" / "nginx.conf.example"
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
{site}
}}
"""


@dataclass
class TlsFront:
    """Where browsers come in: `https://NAME:PORT/`; `authority` is whom they must trust."""

    folder: Path
    name: str
    inner_port: int
    port: int
    authority: Path

    @property
    def url(self) -> str:
        return f"https://{self.name}:{self.port}/"

    def conf(self, pem: Path, plain_port: int) -> str:
        """The example with this site's names, ports and certificate."""
        site = EXAMPLE.read_text().replace("portal.example.org", self.name)
        for pattern, here in (
            (r"listen 80;", f"listen 127.0.0.1:{plain_port};"),
            (r"listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            (r"127\.0\.0\.1:8000", f"127.0.0.1:{self.inner_port}"),
            (r"/etc/ssl/portal/\w+\.pem", str(pem)),
        ):
            site, count = re.subn(pattern, here, site)
            assert count, pattern
        return _NGINX.format(folder=self.folder, site=site)


@contextmanager
def tls_front(folder: Path, name: str, inner_port: int) -> Iterator[TlsFront]:
    """nginx, until the end of the block."""
    folder.mkdir()
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert program, "nginx is missing: apt-get install nginx-light"
    authority = Authority(folder / "authority")
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName(f"*.{name}")])
    pem = authority.certificate(names)
    front = TlsFront(folder, name, inner_port, free_port(), authority.pem)
    (folder / "nginx.conf").write_text(front.conf(pem, free_port()))
    process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "nginx.log")])
    try:
        _await(front.port, process)
        yield front
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def trusting_chromium(folder: Path, authority: Path, name: str) -> Iterator[Browser]:
    """A Chromium for which `authority` is one, and which finds `NAME` and the names below it here, without DNS."""
    path, certutil = shutil.which("chromium"), shutil.which("certutil")
    assert path, "chromium is missing: apt-get install chromium"
    assert certutil, "certutil is missing: apt-get install libnss3-tools"
    store = folder / ".pki" / "nssdb"
    store.mkdir(parents=True)
    add = [certutil, "-A", "-d", f"sql:{store}", "-n", "test", "-t", "C,,", "-i", str(authority)]
    for argv in ([certutil, "-N", "-d", f"sql:{store}", "--empty-password"], add):
        subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE_S)
    rules = f"--host-resolver-rules=MAP {name} 127.0.0.1, MAP *.{name} 127.0.0.1"
    with sync_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, "HOME": str(folder)}
        browser = playwright.chromium.launch(
            executable_path=path, args=[*ARGUMENTS, rules], env=environment, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "nginx ended"
            assert time.monotonic() < give_up, "nginx did not come up"
            time.sleep(0.02)
        else:
            return

"""A real hub over a test cluster, and what tests ask of its sessions: by its pages, by squeue and by sacct."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.hub_process import SITE, Browser, HubProcess
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import running_signer, signer_settings
from tests.integration.slurm.options import ANN, PARTITION, PORTAL_ACCOUNT
from tests.integration.slurm.portal_file import PROJECT, open_python, slurm_portal
from tests.waiting import PATIENCE_S, until

HOUR_MS = 3_600_000
# A start is answered as pending after a second: jobs wait here on purpose, and JupyterHub would keep who asks for ten.
AT_ONCE = """
c.JupyterHub.tornado_settings = {**dict(c.JupyterHub.get("tornado_settings", {})), "slow_spawn_timeout": 1}
"""
# A person's default server is a real notebook; named ones answer as one does and are up at once, for tests of what is around them.
PROGRAM = """#!/usr/bin/python3 -IS
import http.server, os, sys
if not os.environ["JUPYTERHUB_SERVER_NAME"]: os.execv({real!r}, [{real!r}, *sys.argv[1:]])
port = next(int(one.partition("=")[2]) for one in sys.argv if one.startswith("--port="))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{{"version": "1"}}')
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
OPTIONS: dict[str, Any] = {"project": PROJECT, "profile": "gpu1", "runtime_s": 3600}


@contextmanager
def running_hub(cluster: SlurmCluster, folder: Path, url: str) -> Iterator[HubProcess]:
    """The hub, its proxy and a signer of their own processes, which all reach slurmrestd at `url`; the quota service is faked."""
    open_python(cluster)
    settings = signer_settings(cluster, folder, url=url)
    program = cluster.base / "notebook"
    program.write_text(PROGRAM.format(real=str(Path(sys.executable).with_name("jupyterhub-singleuser"))))
    program.chmod(0o755)
    file = slurm_portal(cluster, folder, settings, url=f'"{url}"', program=f'"{program}"')
    with running_signer(settings, folder):
        one = HubProcess(folder / "data", site=SITE + AT_ONCE, portal_file=file)
        one.quota.book.available, one.quota.book.payers = {PROJECT: 100 * HOUR_MS}, {"pi": [PROJECT]}
        one.quota.book.login, one.quota.book.uid = ANN.login, ANN.uid
        try:
            one.start()
            yield one
        finally:
            one.end()
            cluster.run("scancel", "-A", PORTAL_ACCOUNT, check=False)


def start(pi: Browser, server: str = "") -> None:
    answer = pi.start(OPTIONS, server)
    assert answer.status_code in (201, 202), f"{answer.text}\n{pi.hub.log[-3000:]}"


def jobs(cluster: SlurmCluster, hold_id: str, *, ever: bool = True) -> list[str]:
    """Every job that Slurm ever had under this hold, as `id state user account`; slurmdbd learns of a start seconds later."""

    def look() -> list[str]:
        form = "jobid%20,state%20,user%20,account%20"
        listed = cluster.run("sacct", "-n", "-X", "-P", "-D", "-o", form, f"--name={hold_id}", "-S", "now-1hours")
        return [line.replace("|", " ") for line in listed.splitlines()]

    def begun() -> list[str] | None:
        return [one for one in look() if " PENDING " not in one] or None

    if ever:
        until(begun, within_s=PATIENCE_S, what="slurmdbd knows of the job")
    return look()


def new_hold(hub: HubProcess, before: set[str]) -> str:
    until(lambda: set(hub.quota.book.holds) - before, within_s=PATIENCE_S, what="the hold is placed")
    (hold_id,) = set(hub.quota.book.holds) - before
    return hold_id


def state(cluster: SlurmCluster, hold_id: str) -> str:
    return cluster.run("squeue", "-h", "-o", "%T", f"--name={hold_id}", check=False).strip()


def stopped(pi: Browser, cluster: SlurmCluster, hold_id: str, server: str = "") -> None:
    pi.stop(server)
    assert state(cluster, hold_id) in ("", "CANCELLED")
    until(lambda: hold_id in {one for one, _ in pi.hub.quota.book.ended}, within_s=PATIENCE_S, what="the hint")


def partition(cluster: SlurmCluster, state: str) -> None:
    cluster.run("scontrol", "update", f"partitionname={PARTITION}", f"state={state}")


def says(pi: Browser, server: str, words: str) -> None:
    """Listen to the pending page's events until one has these words; before Slurm has looked at a job, it has other reasons."""
    path, heard = f"/hub/api/users/pi/servers/{server}/progress?_xsrf={pi.xsrf}", list[str]()
    with pi.http.stream("GET", path, timeout=PATIENCE_S) as events:
        assert events.status_code == 200
        for line in events.iter_lines():
            if line.startswith("data:"):
                heard.append(str(json.loads(line[5:])["message"]))
                if words in heard[-1]:
                    return
    raise AssertionError(f"not heard: {words}; but {heard}")

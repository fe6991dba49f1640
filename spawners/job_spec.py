"""From a checked start to a Slurm job: its terms, its script, its environment. Pure.

Invariants: every word of the job is the profile's, the cluster's or the ledger's; what a person posts selects them and appears nowhere.
The script is the same text for every session of a cluster and carries no secret: what differs goes through the job's environment,
which Slurm keeps to SlurmUser's state folder and to the job's own user (`scontrol show job`, `scontrol write batch_script` and other
users' /proc do not show it; docs/decisions/0020-slurm-environment.md).

Sources: sbatch(1), slurm.conf(5) KillWait and OverTimeLimit, Slurm 22.05 and 24.11.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from spawners.job_runner import GRACE_S
from spawners.profiles import Profile, SlurmPlace
from spawners.session_view import INSTALLED, with_view
from spawners.slurm_settings import SlurmTable
from spawners.slurmrestd.model import JobRequest

ORDER_VARIABLE: Final = "COMMONS_JOB"
RUNNER: Final = Path(__file__).with_name("job_runner.py")
LARGEST_ENVIRONMENT_BYTES: Final = 128 * 1024  # one variable alone may not be longer for execve(2)
_END: Final = "COMMONS_SESSION_RUNNER"
_OPENS_AT: Final = {"lab": "/lab"}


class SpecError(ValueError):
    """The job cannot be written: something that only the site or the ledger sets has no form that Slurm can take."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who runs the job: a Unix login of the cluster, and the Slurm account that pays."""

    login: str
    account: str


@dataclass(frozen=True, slots=True)
class SessionStart:
    """One start as the spawner knows it. `environment` holds credentials."""

    hold_id: str
    owner: Owner
    profile: Profile
    runtime_s: int
    deadline_ms: int  # 0: the runtime from the job's true start
    callback_url: str  # ends in a slash
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    label: str = ""


def job_label(user: str, server_name: str, profile_id: str) -> str:
    """What a job's comment says of whose it is: the profile, and a mark that tells nobody a name."""
    mark = hashlib.sha256(f"{user}\0{server_name}".encode()).hexdigest()[:32]
    return f"commons:{profile_id}:{mark}"


def job_request(start: SessionStart, cluster: SlurmTable) -> JobRequest:
    """The job of a start. Raises SpecError."""
    place = _place(start.profile)
    try:
        home = cluster.home_of(start.owner.login)
    except ValueError as error:
        raise SpecError(str(error)) from None
    return JobRequest(
        name=start.hold_id,
        script=script(cluster),
        account=start.owner.account,
        partition=place.partition,
        qos=place.qos,
        time_limit_min=time_limit_min(start.runtime_s, cluster.limit_margin),
        working_directory=home,
        environment=job_environment(start, cluster, home),
        gpus=start.profile.gpus,
        gpu_type=place.gpu_type,
        cpus=start.profile.cpus,
        memory_mib=-(-start.profile.memory_bytes // 2**20),
        label=start.label,
    )


def time_limit_min(runtime_s: int, margin_s: int) -> int:
    """Slurm's time limit in whole minutes: never less than the runtime, never more than runtime and margin.

    The watchdog in the job ends the session at its runtime. Slurm's limit is for a watchdog that failed: slurmctld looks every
    30 s and stamps the end when it sends SIGTERM, so with a margin of at most 90 s the job is charged at most 120 s more.
    """
    if runtime_s < 1 or margin_s < 60:
        raise SpecError("a runtime is positive, and a margin below a minute would cut it")
    return (runtime_s + margin_s) // 60


def job_environment(start: SessionStart, cluster: SlurmTable, home: str) -> dict[str, str]:
    """The job's whole environment: the session's own, the person's, and the order for the runner. Raises SpecError."""
    login = start.owner.login
    folder = cluster.program.rpartition("/")[0] or "/"
    environment = {
        **with_view(start.environment, f"{folder.rpartition('/')[0]}/{INSTALLED}"),
        "HOME": home,
        "USER": login,
        "LOGNAME": login,
        "SHELL": "/bin/bash",
        "PATH": f"{folder}:{cluster.path}",
        ORDER_VARIABLE: json.dumps(_order(start, cluster)),
    }
    for name, value in environment.items():
        if not name.isidentifier() or not name.isascii() or "\0" in value:
            raise SpecError(f"the variable {ascii(name)[:60]} cannot be given to a job")
    if sum(len(name) + len(value.encode()) + 2 for name, value in environment.items()) > LARGEST_ENVIRONMENT_BYTES:
        raise SpecError("the session's environment is too large for a job")
    return environment


def _order(start: SessionStart, cluster: SlurmTable) -> dict[str, object]:
    """What the runner reads; no credential is in it."""
    first, last = cluster.ports
    return {
        "hold_id": start.hold_id,
        "argv": [cluster.program, *start.arguments],
        "gpus": start.profile.gpus,
        "runtime_s": start.runtime_s,
        "deadline_ms": start.deadline_ms,
        "grace_s": GRACE_S,
        "limit_margin_s": cluster.limit_margin,
        "ask_every_s": cluster.ask_every,
        "callback_url": start.callback_url,
        "listen": cluster.listen,
        "first_port": first,
        "last_port": last,
    }


def script(cluster: SlurmTable) -> str:
    """The batch script of every session of a cluster."""
    return "\n".join([
        "#!/bin/bash",
        "# A session of the portal. This text is the same for every session; what differs comes in its environment.",
        "umask 077",
        *([cluster.prologue.strip()] if cluster.prologue.strip() else []),
        f"exec {shlex.quote(cluster.python)} -I -S - <<'{_END}'",
        _runner_text().rstrip(),
        _END,
        "",
    ])  # fmt: skip


@cache
def _runner_text() -> str:
    text = RUNNER.read_text(encoding="utf-8")
    if _END in text.splitlines():
        raise SpecError("the runner's text ends its own here-document")
    return text


def opens_at(application: str) -> str:
    """The page that an application opens with; "" for the notebook server's own choice."""
    return _OPENS_AT.get(application, "")


def _place(profile: Profile) -> SlurmPlace:
    if profile.slurm is None:
        raise SpecError(f"the profile {profile.id} names no cluster")
    return profile.slurm


def shown(request: JobRequest) -> dict[str, object]:
    """The job without its environment and script, for logs."""
    hidden = ("environment", "script")
    return {name: value for name, value in asdict(request).items() if name not in hidden}

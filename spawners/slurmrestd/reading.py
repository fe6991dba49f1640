"""From JSON of any version to jobs and runs: the versions differ in how they wrap numbers and states, not in their names.

Pure. What cannot be read is SlurmUnreachable: a job that makes no sense is not a job that ended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from spawners.slurmrestd.errors import SlurmUnreachable
from spawners.slurmrestd.model import ExitStatus, Job, JobRun, JobState, Node
from spawners.slurmrestd.wire import Answer

_NEVER: Final = frozenset({0, 4294967294, 4294967295, 18446744073709551614, 18446744073709551615})
_GPUS: Final = re.compile(r"(?:^|,)gres/gpu=(\d+)(?:,|$)")
# Entries of a node's gres and gres_used: `gpu:h100:4(S:0-1)`, `gpu:2`, `gpu:h100:1(IDX:0)`.
_GRES: Final = re.compile(r"(?:^|,)gpu(?::([A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*))?:(\d+)(?:\([^)]*\))?")
_NO_JOBS: Final = frozenset({
    "BLOCKED", "DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING", "FUTURE", "INVALID", "INVALID_REG", "MAINTENANCE", "MAINT",
    "NOT_RESPONDING", "POWERING_DOWN", "REBOOT_ISSUED", "REBOOT_REQUESTED", "RESERVED", "UNKNOWN",
})  # fmt: skip
_TICKET: Final = re.compile(r"^cct:[0-9a-f]*")
_HOLD: Final = re.compile(r"^hold=([A-Za-z0-9_-]{1,64})$")


def jobs(answer: Answer) -> list[Job]:
    """The jobs of an answer of slurmctld."""
    return [job(row) for row in rows(answer)]


def runs(answer: Answer) -> list[JobRun]:
    """The runs of an answer of slurmdbd, oldest first."""
    return sorted((run(row) for row in rows(answer)), key=lambda one: one.key)


def rows(answer: Answer, name: str = "jobs") -> list[Mapping[str, Any]]:
    """The entries of a list."""
    found = (answer.body or {}).get(name)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise SlurmUnreachable(f"the answer holds no list of {name}")
    return found


def job(row: Mapping[str, Any]) -> Job:
    """One job of slurmctld."""
    reason = text(row, "state_reason")
    return Job(
        job_id=whole(row, "job_id"),
        name=text(row, "name"),
        user=text(row, "user_name"),
        account=text(row, "account"),
        partition=text(row, "partition"),
        states=states(row.get("job_state")),
        reason="" if reason == "None" else reason,
        submitted_at_s=instant(row.get("submit_time")),
        started_at_s=instant(row.get("start_time")),
        ends_at_s=instant(row.get("end_time")),
        time_limit_min=number(row.get("time_limit")),
        nodes=text(row, "nodes"),
        batch_host=text(row, "batch_host"),
        gpus=allocated_gpus(text(row, "tres_alloc_str")),
        exit=exit_status(row.get("exit_code")),
        label=label_of(text(row, "comment")),
        hold_id=hold_of(text(row, "admin_comment")),
        restarts=number(row.get("restart_cnt")) or 0,
        priority=number(row.get("priority")) or 0,
    )


def run(row: Mapping[str, Any]) -> JobRun:
    """One row of slurmdbd."""
    time, state = part(row, "time"), part(row, "state")
    comment = part(row, "comment") if row.get("comment") is not None else {}
    return JobRun(
        cluster=text(row, "cluster"),
        job_id=whole(row, "job_id"),
        submitted_at_s=whole(time, "submission"),
        name=text(row, "name"),
        user=text(row, "user") or text(part(row, "association"), "user"),
        account=text(row, "account"),
        partition=text(row, "partition"),
        states=states(state.get("current")),
        started_at_s=instant(time.get("start")),
        ended_at_s=instant(time.get("end")),
        elapsed_s=number(time.get("elapsed")) or 0,
        suspended_s=number(time.get("suspended")) or 0,
        gpus=billed_gpus(row),
        exit=exit_status(row.get("exit_code")),
        hold_id=hold_of(text(comment, "administrator")),
        label=label_of(text(comment, "job")),
        nodes=text(row, "nodes").replace("None assigned", ""),
    )


def nodes(answer: Answer) -> list[Node]:
    """The nodes of an answer of slurmctld."""
    return [
        node(text(row, "name"), row.get("partitions"), node_states(row), text(row, "gres"), text(row, "gres_used"))
        for row in rows(answer, "nodes")
    ]


def node(name: str, partitions: object, states: frozenset[str], gres: str, used: str) -> Node:
    """One node, by Slurm's own words for its states and GPUs."""
    if not name or not isinstance(partitions, list) or not states:
        raise SlurmUnreachable("a node without name, partitions or state")
    takes_jobs = not states & _NO_JOBS
    return Node(name, frozenset(map(str, partitions)), takes_jobs, gpus_by_type(gres), gpus_by_type(used))


def node_states(row: Mapping[str, Any]) -> frozenset[str]:
    """`"idle"` and flags beside it of v0.0.38, `["IDLE", "DRAIN"]` of later versions."""
    found = [row.get("state"), row.get("state_flags")]
    words = [word for one in found for word in (one if isinstance(one, list) else [one])]
    return frozenset(word.upper() for word in words if isinstance(word, str) and word)


def gpus_by_type(gres: str) -> dict[str, int]:
    """How many GPUs of each type a GRES text names; "" for those without a type."""
    counts: dict[str, int] = {}
    for kind, count in _GRES.findall(gres):
        counts[kind] = counts.get(kind, 0) + int(count)
    return counts


def job_of(newest: JobRun) -> Job:
    """A job that left slurmctld's memory, by its newest run."""
    return Job(
        job_id=newest.job_id,
        name=newest.name,
        user=newest.user,
        account=newest.account,
        partition=newest.partition,
        states=newest.states,
        reason="",
        submitted_at_s=newest.submitted_at_s,
        started_at_s=newest.started_at_s,
        ends_at_s=newest.ended_at_s,
        time_limit_min=None,
        nodes=newest.nodes,
        batch_host=newest.nodes,
        gpus=newest.gpus,
        exit=newest.exit,
        label=newest.label,
        hold_id=newest.hold_id,
        from_accounting=True,
    )


def states(value: object) -> frozenset[JobState]:
    """`"RUNNING"` of v0.0.38 and `["CANCELLED", "COMPLETING"]` of later versions."""
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) and word for word in words):
        raise SlurmUnreachable("a job without a state")
    return frozenset(JobState.read(word) for word in words)


def number(value: object) -> int | None:
    """A plain number, or `{"set": true, "infinite": false, "number": 5}`; None where there is none."""
    if isinstance(value, dict):
        if not value.get("set") or value.get("infinite"):
            return None
        value = value.get("number")
    if isinstance(value, float):
        value = int(value)
    return value if type(value) is int else None


def instant(value: object) -> int | None:
    """Seconds since the epoch; None for Slurm's several ways of saying never."""
    found = number(value)
    return None if found is None or found in _NEVER else found


def exit_status(value: object) -> ExitStatus:
    """A raw wait status, or `{"return_code", "signal"}` with plain or wrapped numbers."""
    if isinstance(value, dict):
        signal = value.get("signal")
        found = signal.get("id", signal.get("signal_id")) if isinstance(signal, dict) else None
        return ExitStatus(number(value.get("return_code")) or 0, number(found) or 0)
    raw = number(value) or 0
    return ExitStatus(raw >> 8 & 0xFF, raw & 0x7F)


def allocated_gpus(tres: str) -> int:
    """GPUs of a string such as `cpu=1,gres/gpu=2,gres/gpu:h100=2`: the typed entry repeats the other."""
    found = _GPUS.search(tres)
    return int(found[1]) if found else 0


def billed_gpus(row: Mapping[str, Any]) -> int:
    """GPUs of a run's allocated TRES."""
    entries = part(row, "tres").get("allocated")
    if not isinstance(entries, list):
        raise SlurmUnreachable("a run without allocated TRES")
    counts = [
        number(one.get("count")) or 0
        for one in entries
        if isinstance(one, dict) and one.get("type") == "gres" and one.get("name") == "gpu"
    ]
    return sum(counts)


def hold_of(admin_comment: str) -> str:
    """The hold that job_submit.lua wrote into the administrators' comment."""
    found = _HOLD.match(admin_comment)
    return found[1] if found else ""


def label_of(comment: str) -> str:
    """A comment without the ticket that a cluster without job_submit.lua leaves in it."""
    return _TICKET.sub("", comment).strip()


def text(row: Mapping[str, Any], name: str) -> str:
    """A text, empty where Slurm has null."""
    value = row.get(name)
    return value if isinstance(value, str) else ""


def whole(row: Mapping[str, Any], name: str) -> int:
    """A number that has to be there."""
    found = number(row.get(name))
    if found is None:
        raise SlurmUnreachable(f"a job without {name}")
    return found


def part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object that has to be there."""
    found = row.get(name)
    if not isinstance(found, dict):
        raise SlurmUnreachable(f"a job without {name}")
    return found

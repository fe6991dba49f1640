"""A cluster by its commands: `sbatch`, `squeue`, `sacct`, `scancel`, `scontrol`, for sites without slurmrestd. Needs neither Tornado nor traitlets.

Commands are argument lists and never a shell; no script and no environment is logged; a command that fails is an outage, not "job gone"
(batchspawner #315). The rules of submitting once and of believing an end are SlurmClient's own; here is only how Slurm is asked.
`squeue --json` and `sacct --json` print what slurmrestd answers. Source: sbatch(1), squeue(1), sacct(1), scontrol(1) of Slurm 22.05 and 24.11.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from spawners.slurmrestd import (
    ActionRefused,
    Answer,
    Job,
    JobRequest,
    JobRun,
    JobUnknown,
    Node,
    OutcomeUnknown,
    Permit,
    Signer,
    SlurmClient,
    SlurmUnreachable,
    SubmitOrder,
    SubmitRefused,
    reading,
)
from spawners.slurmrestd.wire import Credential, Http, Params, parsed

COMMAND_DEADLINE_S: Final = 45.0  # clients of a dead slurmctld retry for a long time
_REFUSED: Final = re.compile(r"Batch job submission failed: (.+)")
# What slurm_strerror says where slurmctld was not heard: whether it took the job is not known.
_SILENCE: Final = re.compile(
    r"contact|timed out|Zero Bytes|Connection|Transport|Communication|Protocol|socket|Unexpected message", re.IGNORECASE
)
_GONE: Final = re.compile(r"Invalid job id|already complet", re.IGNORECASE)
_WORD: Final = re.compile(r"(?:^|\s)(\w+)=(\S*)")
_DENIED: Final = re.compile(r"Access/permission denied|Requested time limit|Invalid time|Job violates", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    status: int
    output: bytes
    complaint: str  # the last lines of stderr; no environment is in it


Run = Callable[[Sequence[str], bytes, Mapping[str, str] | None], Done]


def run(argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Done:
    """Run a command with its deadline. Raises SlurmUnreachable where it does not run or does not end."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, env=environment, capture_output=True, timeout=COMMAND_DEADLINE_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SlurmUnreachable(f"{argv[0]}: {type(error).__name__}") from None
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()[-500:])


@dataclass(frozen=True, slots=True)
class Commands:
    """The words of each command; `{login}` and `{job_id}` are filled in."""

    submit: tuple[str, ...] = ("sbatch", "--parsable")
    cancel: tuple[str, ...] = ("scancel", "{job_id}")
    as_owner: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()  # before the portal's own commands, such as a container's `exec`
    run: Run = field(default=run, repr=False)

    def own(self, *words: str) -> Done:
        """Run a command as the portal itself."""
        return self.run([*self.wrapper, *words], b"", None)


class CommandSigner:
    """The verbs that change something, as commands; tickets come from the site's signer where it has one."""

    def __init__(self, commands: Commands, tickets: Signer | None) -> None:
        self._commands = commands
        self._tickets = tickets

    def submit_as(self, order: SubmitOrder) -> Permit:
        """A permit; without a signer an empty one, which job_submit.lua would refuse."""
        return self._tickets.submit_as(order) if self._tickets is not None else Permit(Credential(order.login, ""), "")

    def cancel(self, job_id: int) -> None:
        """Cancel a job. Raises JobUnknown, ActionRefused, SlurmUnreachable."""
        _judge(self._commands.own(*(word.replace("{job_id}", str(job_id)) for word in self._commands.cancel)))

    def extend(self, job_id: int, time_limit_min: int) -> None:
        """Set a job's time limit, as the operator that the portal's own account is."""
        _judge(self._commands.own("scontrol", "update", f"jobid={job_id}", f"timelimit={time_limit_min}"))


class CommandClient(SlurmClient):
    """SlurmClient's rules over commands."""

    def __init__(self, commands: Commands, tickets: Signer | None, parse_job_id: Callable[[str], str]) -> None:
        super().__init__(Http("http://0.0.0.0"), _NoReader(), CommandSigner(commands, tickets))
        self._commands = commands
        self._permits = CommandSigner(commands, tickets)
        self._parse_job_id = parse_job_id

    def submit(self, request: JobRequest, hold_id: str, login: str) -> int:
        """See SlurmClient.submit."""
        existing = self.find(request.name, request.account)
        if existing is not None:
            return existing.job_id
        permit = self._permits.submit_as(SubmitOrder.of(request, hold_id, login))
        words = [word.replace("{login}", login) for word in self._commands.as_owner]
        argv = [*words, *self._commands.submit, *sbatch_options(request, permit.comment(request.label))]
        try:
            done = self._commands.run(argv, request.script.encode(), dict(request.environment))
        except SlurmUnreachable as error:
            return self._found_after(request, error)
        if done.status == 0:
            return self._number(done, request)
        refusal = _REFUSED.search(done.complaint)
        if refusal is not None and not _SILENCE.search(refusal[1]):
            raise SubmitRefused(refusal[1])
        return self._found_after(request, SlurmUnreachable(f"sbatch: {done.complaint}"))

    def _number(self, done: Done, request: JobRequest) -> int:
        try:
            return int(self._parse_job_id(done.output.decode(errors="replace").strip()))
        except (ValueError, IndexError, AttributeError):  # batchspawner logs what it cannot read, through an object
            return self._found_after(request, SlurmUnreachable("sbatch printed no job id"))

    def job(self, job_id: int) -> Job:
        """See SlurmClient.job."""
        found = [job for job in self.jobs() if job.job_id == job_id]
        if found:
            return found[0]
        runs = self.runs([job_id])
        if not runs:
            raise JobUnknown(f"neither slurmctld nor slurmdbd has a job {job_id}")
        job = reading.job_of(runs[-1])
        if not job.ended:
            raise SlurmUnreachable(f"job {job_id}: slurmctld does not show it and slurmdbd has no end of it")
        return job

    def jobs(self) -> list[Job]:
        """See SlurmClient.jobs."""
        return reading.jobs(self._json("squeue", "--json", "--all", "--states=all"))

    def nodes(self) -> list[Node]:
        """See SlurmClient.nodes; `scontrol` of 22.05 prints no JSON."""
        done = self._commands.own("scontrol", "--oneliner", "--details", "show", "node")
        if done.status != 0:
            raise SlurmUnreachable(f"scontrol: {done.complaint}")
        rows = (dict(_WORD.findall(line)) for line in done.output.decode(errors="replace").splitlines() if line.strip())
        return [
            reading.node(
                row.get("NodeName", ""),
                row.get("Partitions", "").split(","),
                frozenset(row.get("State", "").replace("*", "+NOT_RESPONDING").upper().split("+")) - {""},
                row.get("Gres", ""),
                row.get("GresUsed", ""),
            )
            for row in rows
        ]

    def runs(self, job_ids: Sequence[int]) -> list[JobRun]:
        """See SlurmClient.runs."""
        wanted = frozenset(job_ids)
        answer = self._json("sacct", "--json", "--allusers", "--duplicates", f"--jobs={','.join(map(str, job_ids))}")
        return [one for one in reading.runs(answer) if one.job_id in wanted]

    def runs_of(self, *, accounts: Sequence[str] = (), name: str = "", since_s: int = 0) -> list[JobRun]:
        """See SlurmClient.runs_of."""
        words = [f"--starttime=@{since_s}" if since_s else "--starttime=1970-01-02"]
        words += [f"--name={name}"] if name else []
        words += [f"--accounts={','.join(accounts)}"] if accounts else []
        return reading.runs(self._json("sacct", "--json", "--allusers", *words))

    def node_address(self, name: str) -> str:
        """See SlurmClient.node_address."""
        done = self._commands.own("scontrol", "--oneliner", "show", "node", name)
        found = re.search(r"(?:^|\s)NodeAddr=(\S+)", done.output.decode(errors="replace"))
        if done.status != 0 or found is None:
            raise SlurmUnreachable(f"node {name}: {done.complaint}")
        return found[1]

    def _json(self, *words: str) -> Answer:
        """What a command prints. Raises SlurmUnreachable for a failure, whatever it says (batchspawner #315)."""
        done = self._commands.own(*words)
        body = parsed(done.output)
        if done.status != 0 or body is None:
            raise SlurmUnreachable(f"{words[0]}: {done.complaint or 'printed no JSON'}")
        answer = Answer(200, body)
        if answer.number():
            raise SlurmUnreachable(f"{words[0]}: {answer.reason()}")
        return answer


class _NoReader:
    def get(self, path: str, params: Params = ()) -> Answer:
        raise SlurmUnreachable("there is no slurmrestd here")


def sbatch_options(request: JobRequest, comment: str) -> list[str]:
    """The job's terms as sbatch's options; one word each, so that none can become another."""
    return [
        f"--job-name={request.name}",
        f"--account={request.account}",
        f"--partition={request.partition}",
        *([f"--qos={request.qos}"] if request.qos else []),
        f"--time={request.time_limit_min}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={request.cpus}",
        f"--mem={request.memory_mib}M",
        *([f"--gres={request.gres}"] if request.gres else []),
        f"--chdir={request.working_directory}",
        f"--output={request.standard_output}",
        "--export=ALL",
        "--no-requeue",
        *([f"--comment={comment}"] if comment else []),
    ]


def _judge(done: Done) -> None:
    """Read how scancel or scontrol ended. Raises JobUnknown, ActionRefused; OutcomeUnknown for everything that is not clear."""
    if done.status == 0:
        return
    if _GONE.search(done.complaint):
        raise JobUnknown(done.complaint)
    if _DENIED.search(done.complaint):
        raise ActionRefused(done.complaint)
    raise OutcomeUnknown(done.complaint)

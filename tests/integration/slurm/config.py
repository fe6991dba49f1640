"""The cluster's configuration files as text; what each line is for stands beside it in deploy/slurm. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.integration.slurm.options import (
    CLUSTER,
    GPU_TYPE,
    LOW_PARTITION,
    OPERATOR,
    PARTITION,
    REST_USER,
    Account,
    Options,
    Ports,
    Release,
)

HOST: Final = "slurmtest"
DATABASE: Final = "slurm_acct_db"
DATABASE_PASSWORD: Final = "slurm-ci"
_ONLY_22: Final = ("TaskPlugin=task/none", "SwitchType=switch/none")
NSSWITCH: Final = """passwd: files extrausers
group: files extrausers
shadow: files extrausers
hosts: files
"""
HOSTS: Final = f"127.0.0.1 localhost {HOST}\n"


def slurm_conf(options: Options, ports: Ports, base: Path) -> str:
    """slurm.conf; `base` is the cluster's folder as the daemons see it."""
    lines = [
        f"ClusterName={CLUSTER}",
        f"SlurmctldHost={HOST}(127.0.0.1)",
        f"SlurmctldPort={ports.slurmctld}",
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        f"AuthInfo=socket={base}/run/munge.socket",
        "AuthAltTypes=auth/jwt",
        f"AuthAltParameters=jwt_key={base}/state/jwt_hs256.key,disable_token_creation",
        "CredType=cred/munge",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",  # bind to 127.0.0.1 and not to 0.0.0.0
        f"StateSaveLocation={base}/state",
        f"SlurmdSpoolDir={base}/spool/%n",
        f"SlurmctldPidFile={base}/run/slurmctld.pidfile",
        f"SlurmdPidFile={base}/run/slurmd-%n.pidfile",
        f"SlurmctldLogFile={base}/log/slurmctld.log",
        f"SlurmdLogFile={base}/log/slurmd-%n.log",
        "SlurmctldDebug=verbose",
        "SlurmdDebug=verbose",
        "ProctrackType=proctrack/linuxproc",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=5",
        "MpiDefault=none",
        "PrologFlags=Alloc",
        "ReturnToService=2",
        "SlurmdParameters=config_overrides",  # nodes pretend to be bigger than the machine
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "DefMemPerCPU=256",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,defer",
        "GresTypes=gpu",
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.slurmdbd}",
        f"AccountingStoragePass={base}/run/munge.socket",  # connections to slurmdbd do not read AuthInfo
        f"AccountingStorageTRES=gres/gpu,gres/gpu:{GPU_TYPE}",
        "AccountingStorageEnforce=associations,limits,safe,qos",
        "AccountingStoreFlags=job_comment",
        "PriorityType=priority/multifactor",
        "PriorityDecayHalfLife=0",
        "PriorityUsageResetPeriod=NONE",
        "PriorityCalcPeriod=00:01:00",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        f"EnforcePartLimits={options.limits}",
        f"MinJobAge={options.min_job_age_s}",
        f"KillWait={options.kill_wait_s}",
        "InactiveLimit=0",
        "SlurmctldTimeout=30",
        f"SlurmdTimeout={options.slurmd_timeout_s}",
        "CompleteWait=0",
        *(_ONLY_22 if options.release is Release.V22_05 else ()),
        *(("JobSubmitPlugins=lua",) if options.submit_lua else ()),
        *(("PrivateData=jobs,usage",) if options.private else ()),
        *options.extra_conf,
    ]
    for name, port in zip(options.node_names, ports.slurmd, strict=True):
        lines.append(
            f"NodeName={name} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=32 RealMemory=16000"
            f" Gres=gpu:{GPU_TYPE}:{options.gpus} State=UNKNOWN"
        )
    limits = "Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP"
    lines.append(f"PartitionName={PARTITION} Default=YES PriorityTier=10 PreemptMode=OFF {limits}")
    lines.append(f"PartitionName={LOW_PARTITION} PriorityTier=1 PreemptMode=REQUEUE {limits}")
    return "\n".join(lines) + "\n"


def job_submit_lua(text: str, tickets: Path) -> str:
    """deploy/slurm/job_submit.lua with this cluster's folder and administrators, as a site would edit it."""
    for name, value in (
        ("TICKETS", f'"{tickets}/"'),
        ("ADMINS", f"{{ [0] = true, [64030] = true, [{OPERATOR.uid}] = true }}"),
    ):
        text, changed = re.subn(rf"^local {name} = .*?(?=\s*--|$)", f"local {name} = {value}", text, flags=re.MULTILINE)
        if changed != 1:
            raise ValueError(f"job_submit.lua has no line for {name}")
    return text


def gres_conf(options: Options, base: Path) -> str:
    """gres.conf; regular files as devices would leave CUDA_VISIBLE_DEVICES empty."""
    return f"AutoDetect=off\nName=gpu Type={GPU_TYPE} File={base}/dev/nvidia[0-{options.gpus - 1}]\n"


def cgroup_conf(options: Options) -> str:
    """cgroup.conf for a machine whose cgroups are not ours."""
    if options.release is Release.V22_05:
        return "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
    return "CgroupPlugin=disabled\n"


def slurmdbd_conf(options: Options, ports: Ports, base: Path) -> str:
    """slurmdbd.conf; Slurm insists on mode 0600 and SlurmUser as its owner."""
    lines = [
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={ports.slurmdbd}",
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        f"AuthInfo=socket={base}/run/munge.socket",
        "AuthAltTypes=auth/jwt",
        f"AuthAltParameters=jwt_key={base}/state/jwt_hs256.key",
        f"LogFile={base}/log/slurmdbd.log",
        f"PidFile={base}/run/slurmdbd.pidfile",
        "DebugLevel=verbose",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={ports.mariadb}",
        "StorageUser=slurm",
        f"StoragePass={DATABASE_PASSWORD}",
        f"StorageLoc={DATABASE}",
        "CommunicationParameters=NoInAddrAny",
        *(("PrivateData=jobs,usage",) if options.private else ()),
    ]
    return "\n".join(lines) + "\n"


def accounts(options: Options) -> tuple[Account, ...]:
    """Every Unix account that the cluster starts with."""
    return (REST_USER, OPERATOR, *options.people)


def passwd(options: Options, homes: Path) -> dict[str, str]:
    """The files of /var/lib/extrausers by name."""
    everyone = accounts(options)
    return {
        "passwd": "".join(f"{one.login}:x:{one.uid}:{one.uid}::{homes}/{one.login}:/bin/bash\n" for one in everyone),
        "group": "".join(f"{one.login}:x:{one.uid}:\n" for one in everyone),
        "shadow": "".join(f"{one.login}:*:20000::::::\n" for one in everyone),
    }

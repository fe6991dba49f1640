"""`./commons up --containers`: the site's portal.toml with profiles that run on this machine's container engine, its image built.

Standard library only until the engine is asked: `./commons` itself reads the command line with this. Invariant: portal.toml stays as it
is; what is added stands in a file of the data folder, made anew at each start. GPUs are offered where NVIDIA's CDI specifications
are on the machine; without them sessions in containers have none.
"""

import os
from pathlib import Path
from typing import Final

from deploy.onehost.console import CannotGoOn, Progress
from deploy.onehost.data_folder import DataFolder, write_whole

ENGINE_SOCKET: Final = "/var/run/docker.sock"
KIND: Final = "nvidia.com/gpu"
_IMAGES: Final = Path(__file__).resolve().parents[2] / "images"
_TAG: Final = "compute-commons/base"

_TABLES: Final = """
# Added by ./commons up --containers.
[profiles.container-cpu]
title = "CPU only, in a container"
title_zh = "仅 CPU，容器"
description = "A notebook in a container of this machine, shut off from everything but the portal. Costs no GPU-hours."
backend = "container"
hardware = "cpu"
cloud = "this-machine"
applications = [{{ id = "lab", title = "JupyterLab" }}]
gpus = 0
cpus = 1
memory = "2 GiB"
default_runtime = "1 h"
longest_runtime = "8 h"

[containers]
engine = "{engine}"

[containers.images.lab]
image = "{image}"
"""
_GPU_TABLES: Final = """
[[containers.gpus]]
hardware = "gpu"
source = "cdi"
kind = "nvidia.com/gpu"

[profiles.container-gpu]
title = "1 GPU, in a container"
title_zh = "1 块 GPU，容器"
description = "A notebook in a container with one GPU of this machine, which nobody else has meanwhile."
backend = "container"
hardware = "gpu"
cloud = "this-machine"
applications = [{ id = "lab", title = "JupyterLab" }]
gpus = 1
cpus = 2
memory = "8 GiB"
shared_memory = "2 GiB"
default_runtime = "2 h"
longest_runtime = "12 h"

[[rates]]
hardware = "gpu"
rate = "1"
valid_from = 2026-01-01
"""


def with_containers(data: DataFolder, portal_file: Path, engine: str, image: str, progress: Progress) -> Path:
    """Write the extended site file and give its path; builds the image unless one is named. Raises CannotGoOn."""
    if os.geteuid() != 0:
        raise CannotGoOn("--containers: run it as root: home folders get their owners, packet rules are loaded")
    text = portal_file.read_text(encoding="utf-8")
    if "\n[containers]" in f"\n{text}":
        raise CannotGoOn(f"--containers: {portal_file} has a table [containers] of its own; leave the option out")
    image = image or _built(engine, progress)
    added = _TABLES.format(engine=engine, image=image) + (_GPU_TABLES if _has_gpus() else "")
    extended = data.run / "portal-containers.toml"
    # where an engine is at hand, submissions are executed on it, too
    write_whole(extended, text.replace('[grading]\nbackend = "local"', '[grading]\nbackend = "container"') + added)
    return extended


def _built(engine: str, progress: Progress) -> str:
    """Build images/base on the engine; its own cache makes the next time quick. Gives the image's id."""
    import docker  # not there yet when the command line is read for the first time
    import docker.errors

    progress.say("building the notebook's image (some minutes for the first time)")
    try:
        client = docker.DockerClient(base_url=f"unix://{engine}", timeout=1800)
        built, _ = client.images.build(path=str(_IMAGES), dockerfile="base/Dockerfile", tag=_TAG, rm=True, forcerm=True)
        return str(built.id)
    except docker.errors.BuildError as error:
        lines = [str(one.get("stream", "")).rstrip() for one in error.build_log]
        raise CannotGoOn(f"--containers: the image could not be built: {error}", details=lines[-10:]) from error
    except docker.errors.DockerException as error:
        raise CannotGoOn(f"--containers: the engine at {engine} does not answer: {error}") from error


def _has_gpus() -> bool:
    folders = (Path("/etc/cdi"), Path("/var/run/cdi"))
    return any(KIND in path.read_text(errors="replace") for folder in folders for path in folder.glob("*.*"))

"""Builds the images of `images/` on the test engine, for real: Debian by debootstrap, packages from wheels fetched beforehand.

The engine's namespace has no way out, so nothing of a build loads from a network. Invariant: an image's tag is the hash of
all that it was made from; what is there under its tag is not built again.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import docker
import docker.errors

from tests.engine.debs import debian_mirror, locked

ROOT: Final = Path(__file__).resolve().parents[2]
SUITE: Final = "bookworm"
PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
DEADLINE_S: Final = 600


@dataclass(frozen=True)
class Images:
    """Makes images on one engine; `home` keeps what was downloaded."""

    client: docker.DockerClient
    home: Path

    def base(self) -> str:
        """Build images/base on a local Debian; returns the image's id (sha256:…)."""
        return self._build(Recipe("base", "requirements.txt", {"BASE": self._debian()}, ("nbgrader_exchange",)))

    def gpu_pytorch(self) -> str:
        """Build images/gpu-pytorch with PyTorch for CPUs on the base image."""
        arguments = {"BASE": self.base(), "REQUIREMENTS": "requirements-cpu.txt"}
        return self._build(Recipe("gpu-pytorch", "requirements-cpu.txt", arguments))

    def stub(self) -> str:
        """The base image with a small program in the notebook server's place, for what needs no notebook."""
        base = self.base()
        program = (ROOT / "tests/engine/stub/jupyterhub-singleuser").read_bytes()
        tag = f"cc-test/stub:{hashlib.sha256(base.encode() + program).hexdigest()[:16]}"
        known = self.tagged(tag)
        if known is not None:
            return known
        target = "/opt/commons/bin/jupyterhub-singleuser"
        dockerfile = f"FROM {base}\nCOPY jupyterhub-singleuser {target}\n"
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, content in (("Dockerfile", dockerfile.encode()), ("jupyterhub-singleuser", program)):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
        context.seek(0)
        image, _ = self.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)
        return str(image.id)

    def tagged(self, tag: str) -> str | None:
        """The id of the image with this tag."""
        try:
            return str(self.client.images.get(tag).id)
        except docker.errors.ImageNotFound:
            return None

    def _debian(self) -> str:
        digest = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:16]
        tag = f"cc-test/debian:{digest}"
        known = self.tagged(tag)
        if known is not None:
            return known
        with tempfile.TemporaryDirectory(prefix="cc-debian-") as folder:
            argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, folder]
            _run([*argv, debian_mirror()])
            for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
                shutil.rmtree(Path(folder) / waste, ignore_errors=True)
            with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
                _run(["tar", "--one-file-system", "-C", folder, "-cf", archive.name, "."])
                repository, _, name = tag.partition(":")
                self.client.api.import_image_from_file(archive.name, repository=repository, tag=name)
        found = self.tagged(tag)
        assert found is not None
        return found

    def _build(self, recipe: Recipe) -> str:
        tag = f"cc-test/{recipe.name}:{recipe.digest()}"
        known = self.tagged(tag)
        if known is not None:
            return known
        wheels = self._wheels(recipe)
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for folder in recipe.folders:
                archive.add(folder, arcname=str(folder.relative_to(recipe.context)), filter=_plain)
            archive.add(wheels, arcname=str((recipe.folder / "wheels").relative_to(recipe.context)), filter=_plain)
        context.seek(0)
        image, _ = self.client.images.build(
            fileobj=context,
            custom_context=True,
            dockerfile=str((recipe.folder / "Dockerfile").relative_to(recipe.context)),
            tag=tag,
            buildargs=dict(recipe.arguments),
            network_mode="none",
            rm=True,
            forcerm=True,
            timeout=DEADLINE_S,
        )
        for old in self.client.images.list(name=f"cc-test/{recipe.name}"):
            if old.id != image.id:
                with suppress(docker.errors.APIError):  # an older stub stands on it
                    self.client.images.remove(old.id, force=True)
        return str(image.id)

    def _wheels(self, recipe: Recipe) -> Path:
        """The wheels that the requirements name, checked by their hashes."""
        folder = self.home / "wheels" / recipe.name
        lock = recipe.folder / recipe.requirements
        with locked(self.home / "wheels.lock"):
            stamp = folder / "stamp"
            digest = hashlib.sha256(lock.read_bytes()).hexdigest()
            if not (stamp.exists() and stamp.read_text() == digest):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
                platform = ["--only-binary=:all:", "--python-version", "3.11", "--require-hashes"]
                _run([*pip, *platform, "-d", str(folder), "-r", str(lock)])
                stamp.write_text(digest)
        return folder


@dataclass(frozen=True)
class Recipe:
    """One folder of `images/` and what it is built with."""

    name: str
    requirements: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # other folders of `images/` that go in

    @property
    def folder(self) -> Path:
        return ROOT / "images" / self.name

    @property
    def context(self) -> Path:
        """What the builder is sent: the folder, or all of `images/` where others go in."""
        return self.folder.parent if self.beside else self.folder

    @property
    def folders(self) -> list[Path]:
        return [self.folder, *(self.folder.parent / name for name in self.beside)]

    def digest(self) -> str:
        """Names everything that goes in."""
        hashed = hashlib.sha256(repr(sorted(self.arguments.items())).encode())
        for path in sorted(path for folder in self.folders for path in folder.rglob("*")):
            if path.is_file() and path.suffix not in (".in", ".pyc") and path.name != "smoke.py":
                hashed.update(str(path.relative_to(self.context)).encode() + b"\0" + path.read_bytes())
        return hashed.hexdigest()[:16]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return None if member.name.endswith(("/stamp", "/__pycache__")) else member


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, f"{argv[0]}: {(done.stdout + done.stderr)[-2000:]}"

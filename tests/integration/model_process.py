"""The demo's model, started for a test in another way than `./commons up` does: `… PORT KEY exact | embeddings`.

`exact` has its prompt cache off, so that its own metrics count each prompt whole; `embeddings` makes vectors of the same weights.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp

from deploy.onehost.model import parameters, weights


def main(port: int, key: str, kind: str) -> None:
    found = parameters(weights(), port, key)
    if kind == "exact":
        found.cache_prompt = False
        found.cache_ram_mib = 0
    else:
        found.embedding = True
        found.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        found.n_parallel = 1
        found.n_ctx = found.n_batch = found.n_ubatch = 2048
    server = xllamacpp.Server(found)
    print(f"serving {kind} at {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

"""What the hub's start made is not walked again while people are served."""

from __future__ import annotations

import gc
import time
import weakref

from hub.memory import set_aside


def collection_s() -> float:
    began_s = time.thread_time()
    gc.collect()
    return time.thread_time() - began_s


class Ring:
    """Garbage that only the collector sees."""

    def __init__(self) -> None:
        self.itself = self


def test_a_full_collection_leaves_out_what_was_there_and_still_finds_what_came_later() -> None:
    kept = [{"number": [number]} for number in range(300_000)]
    before_s = collection_s()
    try:
        set_aside()
        ring = weakref.ref(Ring())
        after_s = collection_s()
        assert ring() is None
        assert after_s < before_s / 4
    finally:
        gc.unfreeze()
    assert kept

"""`python -m tests.simulator SEED` shows one history, `python -m tests.simulator FROM TO` runs the seeds from FROM up to TO."""

from __future__ import annotations

import sys

from tests.simulator.runs import one, several


def main(words: list[str]) -> int:
    """Exit status 1 where a promise was broken."""
    if len(words) == 1:
        told = one(int(words[0]), say=print)
        print(f"{told.answered} answers, {sum(told.struck.values())} strikes, trace {told.digest[:16]}")
        return 0
    print(several(int(words[0]), int(words[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

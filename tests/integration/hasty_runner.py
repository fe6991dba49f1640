"""`python -m tests.integration.hasty_runner FACTOR FOLDER`: a local session's runner, for whom time passes FACTOR times as fast.

The clock is the runner's own; everything else is the program as it runs.
"""

from __future__ import annotations

import sys

from spawners import runner

if __name__ == "__main__":
    factor, real_ns = int(sys.argv.pop(1)), runner._boottime_ns
    began_ns = real_ns()
    runner._boottime_ns = lambda: began_ns + (real_ns() - began_ns) * factor
    sys.exit(runner.main())

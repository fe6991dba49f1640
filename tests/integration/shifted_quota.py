"""`python -m tests.integration.shifted_quota SECONDS serve`: the quota service with a clock that is so many seconds wrong, in any zone.

The clock is the service's own port; everything else is the program as it runs. $TZ may name a zone with daylight-saving time.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

from quota import main
from quota.adapters.clock import SystemClock


class ShiftedClock(SystemClock):
    """The machine's clock and a constant."""

    offset = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.offset


if __name__ == "__main__":
    ShiftedClock.offset = timedelta(seconds=float(sys.argv[1]))
    main.SystemClock = ShiftedClock  # type: ignore[attr-defined]
    sys.exit(main.main(sys.argv[2:]))

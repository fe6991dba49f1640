"""What happened to an admitted request, and what is due for it.

Invariant: one answer at any moment, so that a request that is cut anywhere is settled rightly: nothing due where nothing reached a
model or nothing was delivered through our or the server's fault; the server's own report where there is one; else the prompt's
estimate and the output counted here, marked `estimated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from quota.domain.hold import Usage
from quota.gateway.admission import Admitted
from quota.gateway.event_stream import EventStream
from quota.gateway.models import Server
from quota.gateway.usage import Counts

SOURCE: Final = "gateway"


class Outcome(StrEnum):
    """How a request ended; kept with its usage record, or as the reason of its release."""

    NOT_SENT = "not_sent"  # no model server got it
    REFUSED = "refused"  # the model server refused it
    FAILED = "failed"  # a model server got it, and nothing was delivered
    COMPLETE = "complete"
    CLIENT_LEFT = "client_left"
    CUT = "cut"  # the server broke off, or the deadline came, with a part delivered


@dataclass(slots=True)
class Tally:
    """The books of one request while it runs."""

    admitted: Admitted
    outcome: Outcome = Outcome.NOT_SENT
    server: Server | None = None
    reported: Counts | None = None
    counted_output: int = 0
    stream: EventStream | None = None
    over_at: datetime | None = None
    due: Usage | None = None  # once it is over

    @property
    def counts(self) -> Counts | None:
        """The tokens due; None where nothing is."""
        if self.outcome in (Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED):
            return None
        if self.reported is not None:
            return self.reported
        stream = self.stream
        if stream is not None and stream.reported is not None:
            return stream.reported
        output = stream.output_tokens if stream is not None else self.counted_output
        if stream is not None and stream.failed and not output:
            return None
        request = self.admitted.request
        told = stream.prompt_reported if stream is not None else None
        prompt = told if told is not None else request.prompt_estimate
        return Counts(prompt, min(output, self.admitted.cap * request.answers))

    @property
    def estimated(self) -> bool:
        """Whether the counts are ours, or the last report was beyond belief."""
        if self.reported is not None:
            return False
        stream = self.stream
        by_stream = stream is not None and stream.reported is not None and not stream.doubtful
        return not by_stream

    def usage(self, at: datetime, counts: Counts | None) -> Usage | None:
        """The record to settle with, for the `counts` of this moment; None where the hold is released."""
        if counts is None:
            return None
        admitted, server, tokens = self.admitted, self.server or self.admitted.server, counts.total
        payload: dict[str, object] = {
            "outcome": str(self.outcome),
            "prompt_tokens": counts.prompt,
            "cached_tokens": counts.cached,
            "output_tokens": counts.output,
            "reasoning_tokens": counts.reasoning,
            "model": admitted.request.model.name,
            "provider": server.provider,
            "hardware": server.hardware,
            "cloud": server.cloud,
            "application": admitted.caller.application,
            "session": admitted.caller.session,
        }
        # Fields by position: by name a tuple with names takes twice as long.
        return Usage(
            SOURCE, admitted.hold_id, admitted.hold_id, admitted.at, max(at, admitted.at),
            tokens, admitted.price.down(tokens), self.estimated, payload,
        )  # fmt: skip

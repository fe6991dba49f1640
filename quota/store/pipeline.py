"""libpq's pipeline mode on a connection of psycopg's: statements are sent without a wait, and their answers read up to a mark.

psycopg's own pipeline reads every answer there is; here a transaction's answers are read while the next one's statements are on their
way. Source: PostgreSQL's manual, "Pipeline Mode" of libpq. Invariant: each `send` ends with a mark, and each `receive` reads up to one:
after an error PostgreSQL skips what was sent up to the next mark, and nothing behind it.
"""

from __future__ import annotations

import itertools
import select
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

Run = tuple[bytes, Sequence[bytes | None]]
"""A statement's text with $1, $2… and its parameters as text."""
_MARK: Final = ExecStatus.PIPELINE_SYNC
_DONE: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class Pipeline:
    """Of one connection, for as long as it lives; each text is prepared once."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._pg = connection.pgconn
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._prepared: dict[bytes, bytes] = {}  # names by text
        self._names = itertools.count()
        self._sent: deque[list[bytes | None]] = deque()  # up to each mark: the text that is prepared, None for a run

    @property
    def pending(self) -> int:
        """How many marks are not read yet."""
        return len(self._sent)

    def send(self, runs: Sequence[Run]) -> None:
        """Send statements and a mark. Raises OperationalError."""
        sent: list[bytes | None] = []
        fresh: dict[bytes, bytes] = {}
        for text, values in runs:
            name = self._prepared.get(text) or fresh.get(text)
            if name is None:
                name = fresh[text] = b"w%d" % next(self._names)
                self._pg.send_prepare(name, text)
                sent.append(text)
            self._pg.send_query_prepared(name, values)
            sent.append(None)
        self._pg.pipeline_sync()
        self._sent.append(sent)
        self._prepared.update(fresh)
        self._pg.flush()

    def receive(self) -> list[PGresult]:
        """One result a statement, up to the next mark. Raises OperationalError where the connection is lost."""
        results: list[PGresult] = []
        for prepares in self._sent[0]:
            result = self._next()
            assert result.status != _MARK
            if prepares is None or result.status == ExecStatus.FATAL_ERROR:
                results.append(result)
            if prepares is not None and result.status not in _DONE:
                self._prepared.pop(prepares)  # it was skipped: prepare it again
        assert self._next().status == _MARK
        self._sent.popleft()
        return results

    def wait(self, bell: int) -> None:
        """Return once an answer has come, or the file descriptor `bell` can be read."""
        with suppress(psycopg.Error):  # said by `receive`
            if self._pg.is_busy():
                self._wait(bell)

    def _next(self) -> PGresult:
        for _ in range(2):  # what ends the results before comes first
            while self._pg.is_busy():
                self._wait()
            result = self._pg.get_result()
            if self._pg.status != ConnStatus.OK:
                break
            if result is not None:
                return result
        raise psycopg.OperationalError("the connection is lost")

    def _wait(self, bell: int | None = None) -> None:
        """Wait for the socket; what libpq still has to send goes out on the way."""
        poll = select.poll()
        while True:  # ends with the first bytes that come
            poll.register(self._pg.socket, select.POLLIN | (select.POLLOUT if self._pg.flush() else 0))
            if bell is not None:
                poll.register(bell, select.POLLIN)
            ready = dict(poll.poll())
            if bell in ready:
                return
            if ready.get(self._pg.socket, 0) & ~select.POLLOUT:
                self._pg.consume_input()
                return

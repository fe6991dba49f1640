"""What is proved in SQL: facts of double entry, the caches on accounts, holds and limits, usage against charges.

Each check is written once, for the whole history; its scope says over which rows it is asked where `verify` starts from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Scope(Enum):
    """Which rows a check sees after a checkpoint."""

    ENTRIES = auto()  # the entries and usage records that came after it
    HOLDS = auto()  # the holds that are open or were touched after it, with all their lines and usage
    WHOLE = auto()  # everything: it costs what is open, not what was
    HISTORY = (
        auto()
    )  # sums over all entries: from a checkpoint they are made of its sums and the entries since (`verify_since`)


@dataclass(frozen=True, slots=True)
class Check:
    """SQL that returns (row, details) for each row that is wrong.

    {left} and {began} are where a row may be explained by an entry before the checkpoint, which is proved already.
    """

    table: str
    problem: str
    sql: str
    scope: Scope

    def whole(self) -> str:
        """Over the whole history."""
        return self.sql.format(left="LEFT", began="")

    def since(self, views: dict[Scope, str]) -> str:
        """Over what came after a checkpoint: the tables hidden by `views` of the same names."""
        sql = self.sql.format(left="", began="HAVING MIN(CASE WHEN kind = 'withdraw' THEN 1 ELSE 0 END) = 0")
        if self.scope not in views:
            return sql
        return f"WITH {views[self.scope]}, {sql[5:]}" if sql.startswith("WITH ") else f"WITH {views[self.scope]} {sql}"


_BOOKS: Final = (
    Check(
        "entry",
        "names an account that does not exist",
        "SELECT e.seq, e.account_id FROM entry e LEFT JOIN account a ON a.id = e.account_id WHERE a.id IS NULL",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "the transaction's entries do not sum to zero",
        "SELECT e.txn_id, SUM(e.amount) FROM entry e JOIN account a ON a.id = e.account_id WHERE e.contra IS NULL "
        "GROUP BY e.txn_id, a.unit HAVING SUM(e.amount) <> 0",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "names a hold that does not exist",
        "SELECT e.seq, e.hold_id FROM entry e LEFT JOIN hold h ON h.id = e.hold_id "
        "WHERE e.hold_id IS NOT NULL AND (h.id IS NULL OR h.account_id <> e.account_id)",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "the pool's entries do not mirror what was awarded",
        "SELECT p.id, COALESCE((SELECT SUM(amount) FROM entry WHERE account_id = p.id), 0) "
        "+ (SELECT COALESCE(SUM(awarded), 0) FROM account a WHERE a.kind = 'allocation' AND a.unit = p.unit) "
        "FROM account p WHERE p.kind = 'pool' "
        "AND COALESCE((SELECT SUM(amount) FROM entry WHERE account_id = p.id), 0) "
        "<> -(SELECT COALESCE(SUM(awarded), 0) FROM account a WHERE a.kind = 'allocation' AND a.unit = p.unit)",
        Scope.HISTORY,
    ),
    Check(
        "adjustment",
        "does not equal its entries",
        "WITH e AS MATERIALIZED (SELECT substr(txn_id, 3) AS id, account_id, SUM(amount) AS amount FROM posting "
        "WHERE bucket = 'available' AND kind IN ('deposit', 'adjustment') GROUP BY txn_id, account_id) "
        "SELECT j.id, j.delta FROM adjustment j {left} JOIN e ON e.id = j.id AND e.account_id = j.account_id "
        "WHERE CASE WHEN j.refusal_code IS NULL THEN j.delta ELSE 0 END <> COALESCE(e.amount, 0)",
        Scope.ENTRIES,
    ),
)
_CORRECTIONS: Final = (
    Check(
        "refund",
        "does not equal its entries",
        "WITH e AS MATERIALIZED (SELECT substr(txn_id, 3) AS id, account_id, hold_id, SUM(amount) AS amount FROM posting "
        "WHERE bucket = 'available' AND kind = 'refund' GROUP BY txn_id, account_id, hold_id) "
        "SELECT r.id, r.amount FROM refund r {left} JOIN e ON e.id = r.id AND e.account_id = r.account_id "
        "AND e.hold_id = r.hold_id WHERE CASE WHEN r.refusal_code IS NULL THEN r.amount ELSE 0 END <> COALESCE(e.amount, 0)",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "is a refund without its record",
        "SELECT e.seq, e.txn_id FROM entry e LEFT JOIN refund r ON r.id = substr(e.txn_id, 3) AND r.hold_id = e.hold_id "
        "WHERE e.kind = 'refund' AND r.id IS NULL",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "changes an award without its record",
        "SELECT e.seq, e.txn_id FROM entry e LEFT JOIN adjustment j ON j.id = substr(e.txn_id, 3) "
        "WHERE e.kind IN ('deposit', 'adjustment') AND j.id IS NULL",
        Scope.ENTRIES,
    ),
    Check(
        "hold",
        "more is refunded than was charged",
        "SELECT h.id, r.amount FROM hold h JOIN (SELECT hold_id, SUM(amount) AS amount FROM refund "
        "WHERE refusal_code IS NULL GROUP BY hold_id) r ON r.hold_id = h.id WHERE r.amount > h.charged",
        Scope.HOLDS,
    ),
    Check(
        "adjustment",
        "is not the opposite of what it takes back",
        "SELECT j.id, j.reverses FROM adjustment j LEFT JOIN adjustment o ON o.id = j.reverses "
        "WHERE j.reverses IS NOT NULL AND (o.id IS NULL OR j.delta <> -o.delta OR j.account_id <> o.account_id)",
        Scope.WHOLE,
    ),
)
_CACHES: Final = (
    Check(
        "account",
        "awarded, charged or held is not the fold of its entries",
        "WITH sums AS (SELECT account_id, SUM(CASE WHEN bucket = 'available' THEN amount ELSE 0 END) AS available, "
        "SUM(CASE WHEN bucket = 'held' THEN amount ELSE 0 END) AS held, "
        "SUM(CASE WHEN bucket = 'charged' THEN amount ELSE 0 END) AS charged FROM posting GROUP BY account_id) "
        "SELECT a.id, a.awarded - COALESCE(s.available + s.held + s.charged, 0) FROM account a "
        "LEFT JOIN sums s ON s.account_id = a.id WHERE a.kind = 'allocation' "
        "AND (a.awarded <> COALESCE(s.available + s.held + s.charged, 0) OR a.held <> COALESCE(s.held, 0) "
        "OR a.charged <> COALESCE(s.charged, 0))",
        Scope.HISTORY,
    ),
    Check(
        "account",
        "held is not the sum of its open holds",
        "SELECT a.id, a.held FROM account a LEFT JOIN (SELECT account_id, SUM(amount - charged) AS held FROM hold "
        "WHERE state = 'held' GROUP BY account_id) h ON h.account_id = a.id WHERE a.held <> COALESCE(h.held, 0)",
        Scope.WHOLE,
    ),
    Check(
        "account",
        "overdraft_used is not what goes beyond the award",
        "SELECT id, overdraft_used FROM account WHERE overdraft_used <> "
        "CASE WHEN charged + held > awarded THEN charged + held - awarded ELSE 0 END OR overdraft_used > overdraft_limit",
        Scope.WHOLE,
    ),
    Check(
        "hold",
        "amount or charged is not the sum of its lines",
        "SELECT h.id, h.amount FROM hold h LEFT JOIN (SELECT hold_id, SUM(amount) AS amount, SUM(charged) AS charged, "
        "COUNT(*) AS n FROM hold_line GROUP BY hold_id) l ON l.hold_id = h.id "
        "WHERE COALESCE(l.n, 0) <> CASE WHEN h.line_count > 1 THEN h.line_count ELSE 0 END "
        "OR (h.line_count > 1 AND (h.amount <> l.amount OR h.charged <> l.charged))",
        Scope.HOLDS,
    ),
    Check(
        "hold",
        "its only line is not what its entries set aside",
        "WITH e AS MATERIALIZED (SELECT hold_id, SUM(amount) AS amount FROM posting "
        "WHERE bucket = 'held' AND kind = 'hold' GROUP BY hold_id) "
        "SELECT h.id, h.amount FROM hold h {left} JOIN e ON e.hold_id = h.id "
        "WHERE h.line_count = 1 AND h.amount <> COALESCE(e.amount, 0)",
        Scope.ENTRIES,
    ),
    Check(
        "hold",
        "amount or charged does not follow from its entries",
        "SELECT h.id, h.amount FROM hold h LEFT JOIN (SELECT hold_id, "
        "SUM(CASE WHEN bucket = 'held' THEN amount ELSE 0 END) AS held, "
        "SUM(CASE WHEN bucket = 'charged' AND kind <> 'refund' THEN amount ELSE 0 END) AS charged FROM posting WHERE hold_id IS NOT NULL "
        "GROUP BY hold_id) e ON e.hold_id = h.id WHERE h.charged <> COALESCE(e.charged, 0) "
        "OR COALESCE(e.held, 0) <> CASE WHEN h.state = 'held' THEN h.amount - h.charged ELSE 0 END",
        Scope.HISTORY,
    ),
    Check(
        "hold_line",
        "belongs to no hold",
        "SELECT l.hold_id, l.line_id FROM hold_line l LEFT JOIN hold h ON h.id = l.hold_id WHERE h.id IS NULL",
        Scope.HOLDS,
    ),
    Check(
        "hold_line",
        "does not equal its entries",
        "WITH e AS MATERIALIZED (SELECT line_txn AS txn_id, SUM(amount) AS amount FROM (SELECT amount, kind, "
        "CASE WHEN kind = 'withdraw' THEN 't' || substr(txn_id, 2) ELSE txn_id END AS line_txn FROM posting "
        "WHERE bucket = 'held' AND kind IN ('hold', 'top_up', 'withdraw')) moved GROUP BY line_txn {began}) "
        "SELECT l.hold_id, l.line_id FROM hold_line l {left} JOIN e "
        "ON e.txn_id = CASE WHEN l.kind = 'hold' THEN 'h:' || l.hold_id ELSE 't:' || l.hold_id || ':' || l.line_id END "
        "WHERE l.kind IN ('hold', 'top_up') AND l.amount <> COALESCE(e.amount, 0)",
        Scope.ENTRIES,
    ),
    Check(
        "limit_counter",
        "charged or held is not the sum of the holds that count against it",
        "SELECT c.id, c.held FROM limit_counter c LEFT JOIN (SELECT u.limit_id, SUM(u.charged) AS charged, "
        "SUM(CASE WHEN h.state = 'held' THEN u.amount - u.charged ELSE 0 END) AS held FROM hold_limit u "
        "JOIN hold h ON h.id = u.hold_id GROUP BY u.limit_id) s ON s.limit_id = c.id "
        "WHERE c.held <> COALESCE(s.held, 0) OR c.charged <> COALESCE(s.charged, 0)",
        Scope.WHOLE,
    ),
)
_USAGE: Final = (
    Check(
        "usage_record",
        "does not equal the charge that it explains",
        "WITH e AS MATERIALIZED (SELECT usage_ref, SUM(CASE WHEN bucket = 'charged' THEN amount ELSE 0 END) AS amount, "
        "MIN(hold_id) AS hold_id FROM posting WHERE usage_ref IS NOT NULL GROUP BY usage_ref) "
        "SELECT u.source || ':' || u.event_id, u.amount FROM usage_record u "
        "LEFT JOIN e ON e.usage_ref = u.source || ':' || u.event_id "
        "WHERE u.amount <> COALESCE(e.amount, 0) OR u.hold_id <> COALESCE(e.hold_id, u.hold_id)",
        Scope.ENTRIES,
    ),
    Check(
        "entry",
        "is a charge without its usage record",
        "SELECT ref, 'no record' FROM (SELECT usage_ref AS ref FROM entry WHERE usage_ref IS NOT NULL "
        "EXCEPT SELECT source || ':' || event_id FROM usage_record) missing "
        "UNION ALL SELECT CAST(seq AS TEXT), 'no reference' FROM posting WHERE bucket = 'charged' AND usage_ref IS NULL AND kind <> 'refund'",
        Scope.ENTRIES,
    ),
    Check(
        "usage_record",
        "belongs to no hold",
        "SELECT u.source || ':' || u.event_id, u.hold_id FROM usage_record u LEFT JOIN hold h ON h.id = u.hold_id "
        "WHERE h.id IS NULL",
        Scope.ENTRIES,
    ),
    Check(
        "usage_record",
        "overlaps another interval of its hold",
        "SELECT r.source || ':' || r.event_id, r.hold_id FROM (SELECT source, event_id, hold_id, from_us, to_us, "
        "MAX(to_us) OVER (PARTITION BY hold_id ORDER BY from_us, to_us, seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) "
        "AS before_us FROM usage_record WHERE from_us < to_us) r WHERE r.from_us < r.before_us",
        Scope.HOLDS,
    ),
    Check(
        "hold",
        "its usage records do not add up to what it was charged",
        "SELECT h.id, h.charged FROM hold h LEFT JOIN (SELECT hold_id, COUNT(*) AS n, MIN(seq) AS first, MAX(seq) AS last, "
        "SUM(amount) AS amount, MAX(to_us) AS to_us FROM usage_record GROUP BY hold_id) u ON u.hold_id = h.id "
        "WHERE h.next_seq <> COALESCE(u.n, 0) OR h.charged <> COALESCE(u.amount, 0) "
        "OR COALESCE(u.first, 0) <> 0 OR COALESCE(u.last, -1) <> h.next_seq - 1 "
        "OR COALESCE(h.charged_to_us, -1) <> COALESCE(u.to_us, -1)",
        Scope.HOLDS,
    ),
)

CHECKS: Final = (*_BOOKS, *_CORRECTIONS, *_CACHES, *_USAGE)

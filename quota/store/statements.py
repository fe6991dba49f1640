"""Every statement of the ledger's hot path, once for both engines.

The guards stand here: an account, limit or hold is changed only where the condition that the plan relied on still holds in the
database, and a hold or usage record goes in only once. `persist` compares the counts.
"""

from __future__ import annotations

from typing import Final

from quota.store.wire import Insert, Rows, Statement
from quota.store.working_set import HOLD_COLUMNS

_T, _I, _B = "text", "bigint", "boolean"
_INTEGERS: Final = frozenset({"amount", "charged", "next_seq", "line_count", "limit_count", "epoch"})
_HOLD_TYPES: Final = {name: _I if name.endswith("_us") or name in _INTEGERS else _T for name in HOLD_COLUMNS}
_IDS: Final = Rows({"id": _T})

# -- read -----------------------------------------------------------------------------------------------------------------------

FENCES: Final = Statement(
    "SELECT name, epoch FROM fence WHERE name IN (SELECT id FROM {rows} k) ORDER BY name {share}", _IDS
)
LOCK_ACCOUNTS: Final = Statement(
    "SELECT id, unit, project_id, period_start_us, period_end_us, awarded, charged, held, frozen, version "
    "FROM account WHERE id IN (SELECT id FROM {rows} k) AND kind = 'allocation' ORDER BY id {lock}",
    _IDS,
)
HOLDS: Final = Statement(
    f"SELECT {', '.join('h.' + name for name in HOLD_COLUMNS)} FROM {{rows}} k JOIN hold h ON h.id = k.id",  # noqa: S608
    _IDS,
)
LINES: Final = Statement(
    "SELECT l.hold_id, l.line_id, l.kind, l.amount, l.charged, l.at_us, l.asked "
    "FROM {rows} k JOIN hold_line l ON l.hold_id = k.id ORDER BY l.hold_id, l.at_us, l.line_id",
    _IDS,
)
REFUSED_LINES: Final = Statement(
    "SELECT l.hold_id, l.line_id, l.amount, l.at_us, l.refusal_code, l.refusal_params "
    "FROM {rows} k JOIN refused_line l ON l.hold_id = k.hold_id AND l.line_id = k.line_id",
    Rows({"hold_id": _T, "line_id": _T}),
)
USAGES: Final = Statement(
    "SELECT u.source, u.event_id, u.hold_id, u.seq, u.from_us, u.to_us, u.quantity, u.amount, u.overrun, u.estimated, "
    "u.payload, u.payload_hash FROM {rows} k JOIN usage_record u ON u.source = k.source AND u.event_id = k.event_id",
    Rows({"source": _T, "event_id": _T}),
)
INTERVALS: Final = Statement("SELECT u.from_us, u.to_us FROM {rows} k JOIN usage_record u ON u.hold_id = k.id", _IDS)
HOLD_LIMITS: Final = Statement(
    "SELECT l.hold_id, l.limit_id, l.amount, l.charged FROM {rows} k JOIN hold_limit l ON l.hold_id = k.id", _IDS
)
LOCK_LIMITS: Final = Statement(
    "SELECT id, kind, unit, cap, charged, held FROM limit_counter WHERE id IN (SELECT id FROM {rows} k) ORDER BY id {lock}",
    _IDS,
)

# -- guarded changes --------------------------------------------------------------------------------------------------------------

_BEYOND: Final = "(account.charged + d.charged) + (account.held + d.held) - account.awarded"
MOVE_ACCOUNTS: Final = Statement(
    "UPDATE account SET held = account.held + d.held, charged = account.charged + d.charged, version = account.version + 1, "  # noqa: S608
    f"overdraft_used = CASE WHEN d.overruns <> 0 THEN {{greatest}}(0, {_BEYOND}) "
    f"ELSE {{least}}(account.overdraft_used, {{greatest}}(0, {_BEYOND})) END, "
    f"overdraft_limit = CASE WHEN d.overruns <> 0 THEN {{greatest}}(account.overdraft_limit, {_BEYOND}) "
    "ELSE account.overdraft_limit END "
    "FROM {rows} d WHERE account.id = d.id AND (d.takes = 0 OR NOT account.frozen) "
    "AND (d.strict = 0 OR account.version = d.version) AND (d.overruns <> 0 OR d.held + d.charged <= 0 "
    "OR account.awarded - account.charged - account.held >= d.held + d.charged)",
    Rows({"id": _T, "held": _I, "charged": _I, "takes": _I, "overruns": _I, "strict": _I, "version": _I}),
)  # strict: an overrun, and what was planned on a row that was remembered
MOVE_LIMITS: Final = Statement(
    "UPDATE limit_counter SET held = limit_counter.held + d.held, charged = limit_counter.charged + d.charged, "
    "beyond_cap = CASE WHEN d.overruns <> 0 "
    "THEN {greatest}(limit_counter.beyond_cap, limit_counter.held + d.held + limit_counter.charged + d.charged - limit_counter.cap) "
    "ELSE limit_counter.beyond_cap END "
    "FROM {rows} d WHERE limit_counter.id = d.id AND (d.overruns <> 0 OR d.held + d.charged <= 0 "
    "OR limit_counter.cap - limit_counter.charged - limit_counter.held >= d.held + d.charged)",
    Rows({"id": _T, "held": _I, "charged": _I, "overruns": _I}),
)
CHANGE_HOLDS: Final = Statement(
    "UPDATE hold SET state = d.state, amount = d.amount, charged = d.charged, next_seq = d.next_seq, "
    "line_count = d.line_count, lease_until_us = {greatest}(hold.lease_until_us, d.lease_until_us), "
    "charged_to_us = d.charged_to_us, closed_us = d.closed_us, close_reason = d.close_reason "
    # Not plainly "state = 'held'": PostgreSQL would go through its index of open holds, all of them for each row.
    "FROM {rows} d WHERE hold.id = d.id AND hold.state || '' = 'held' AND hold.next_seq = d.seen_next_seq "
    "AND hold.line_count = d.seen_line_count AND hold.amount = d.seen_amount "
    "AND hold.limit_count = d.limit_count",
    Rows(
        {
            "id": _T, "state": _T, "amount": _I, "charged": _I, "next_seq": _I, "line_count": _I, "lease_until_us": _I,
            "charged_to_us": _I, "closed_us": _I, "close_reason": _T, "seen_next_seq": _I, "seen_line_count": _I,
            "seen_amount": _I, "limit_count": _I,
        }
    ),
)  # fmt: skip
SETTLE_HOLDS: Final = Statement(
    "UPDATE hold SET state = 'settled', charged = d.charged, next_seq = d.next_seq, "
    "lease_until_us = {greatest}(hold.lease_until_us, d.lease_until_us), charged_to_us = d.charged_to_us, closed_us = d.closed_us "
    "FROM {rows} d WHERE hold.id = d.id AND hold.state || '' = 'held' AND hold.next_seq = d.seen_next_seq "
    "AND hold.line_count = 1 AND hold.amount = d.seen_amount AND hold.limit_count = 0",
    Rows(
        {
            "id": _T, "charged": _I, "next_seq": _I, "lease_until_us": _I, "charged_to_us": _I, "closed_us": _I,
            "seen_next_seq": _I, "seen_amount": _I,
        }
    ),
)  # fmt: skip  # as CHANGE_HOLDS, for holds with one line and no limit: nearly all, and half of the columns
CHANGE_LINES: Final = Statement(
    "UPDATE hold_line SET amount = d.amount, charged = d.charged FROM {rows} d "
    "WHERE hold_line.hold_id = d.hold_id AND hold_line.line_id = d.line_id AND hold_line.charged <= d.charged",
    Rows({"hold_id": _T, "line_id": _T, "amount": _I, "charged": _I}),
)
CHANGE_HOLD_LIMITS: Final = Statement(
    "UPDATE hold_limit SET amount = d.amount, charged = d.charged FROM {rows} d "
    "WHERE hold_limit.hold_id = d.hold_id AND hold_limit.limit_id = d.limit_id "
    "AND hold_limit.amount = d.seen_amount AND hold_limit.charged = d.seen_charged",
    Rows({"hold_id": _T, "limit_id": _T, "amount": _I, "charged": _I, "seen_amount": _I, "seen_charged": _I}),
)

# -- additions --------------------------------------------------------------------------------------------------------------------

_OPEN: Final = {"state": "'held'", "charged": "0", "next_seq": "0", "line_count": "1"}
_LATER: Final = ("charged_to_us", "closed_us", "close_reason", "refusal_code", "refusal_params")
PLACED_COLUMNS: Final = tuple(name for name in HOLD_COLUMNS if name not in (*_OPEN, *_LATER, "epoch"))
PLACE_HOLDS: Final = Insert(
    "hold", {name: _HOLD_TYPES[name] for name in PLACED_COLUMNS}, once=True, shared={"epoch": _I}, fixed=_OPEN
)  # holds that the batch left as they are placed; refused ones, and those that it closed again, are added whole
ADD_HOLDS: Final = Insert("hold", _HOLD_TYPES, once=True)
ADD_LINES: Final = Insert(
    "hold_line", {"hold_id": _T, "line_id": _T, "kind": _T, "amount": _I, "charged": _I, "at_us": _I, "asked": _I}
)
ADD_REFUSED_LINES: Final = Insert(
    "refused_line",
    {"hold_id": _T, "line_id": _T, "amount": _I, "at_us": _I, "refusal_code": _T, "refusal_params": _T},
    once=True,
)
ADD_HOLD_LIMITS: Final = Insert("hold_limit", {"hold_id": _T, "limit_id": _T, "amount": _I, "charged": _I})
ADD_USAGES: Final = Insert(
    "usage_record",
    {
        "source": _T, "event_id": _T, "hold_id": _T, "seq": _I, "from_us": _I, "to_us": _I, "quantity": _I, "amount": _I,
        "overrun": _I, "estimated": _B, "payload": _T, "payload_hash": _T,
    },
    once=True,
    shared={"link": _I},
)  # fmt: skip
ADD_ENTRIES: Final = Insert(
    "entry",
    {
        "txn_id": _T, "account_id": _T, "bucket": _T, "amount": _I, "hold_id": _T, "usage_ref": _T, "kind": _T, "at_us": _I,
        "actor": _T, "contra": _T,
    },
    shared={"link": _I},
)  # fmt: skip

# -- the chain: one link a batch, each writer its own -------------------------------------------------------------------------------

OPEN_EPOCH: Final = Statement(
    "INSERT INTO ledger_epoch (writer, started_us, links, head_hash) SELECT d.writer, d.started_us, 0, '' FROM {rows} d "
    "WHERE 1 = 1 RETURNING id",
    Rows({"writer": _T, "started_us": _I}),
)
ADD_LINK: Final = Statement(
    "INSERT INTO ledger_link (epoch, n, prev_hash, hash, entries, usages) "
    "SELECT d.epoch, d.n, d.prev_hash, d.hash, d.entries, d.usages FROM {rows} d WHERE 1 = 1 RETURNING id",
    Rows({"epoch": _I, "n": _I, "prev_hash": _T, "hash": _T, "entries": _I, "usages": _I}),
)
MOVE_HEAD: Final = Statement(
    "UPDATE ledger_epoch SET links = d.n, head_hash = d.hash FROM {rows} d WHERE ledger_epoch.id = d.epoch AND links = d.n - 1",
    Rows({"epoch": _I, "n": _I, "hash": _T}),
)
LINK_OF: Final = Statement(
    "SELECT l.hash FROM {rows} k JOIN ledger_link l ON l.epoch = k.epoch AND l.n = k.n", Rows({"epoch": _I, "n": _I})
)

"""What the ledger promises, as the simplest program that keeps it: dictionaries, one operation at a time.

Written apart from the store, so that both would have to be wrong in the same way. `run` answers with a tuple that names what the
caller would see; `of` turns the ledger's real answers into the same tuples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quota.domain.errors import QuotaError, Refused
from quota.domain.hold import Charged, Hold, HoldState
from quota.service.ports import Adjusted

Seen = tuple[object, ...]


@dataclass(frozen=True)
class Place:
    hold: str
    account: int
    amount: int
    limited: bool


@dataclass(frozen=True)
class TopUp:
    hold: str
    line: str
    amount: int


@dataclass(frozen=True)
class Withdraw:
    """Only on holds with at most one top-up: which of several lines is charged first is not modelled."""

    hold: str
    line: str


@dataclass(frozen=True)
class Charge:
    hold: str
    event: str
    minute: int
    amount: int


@dataclass(frozen=True)
class Settle:
    hold: str
    usage: Charge | None


@dataclass(frozen=True)
class Close:
    hold: str
    to: HoldState


Op = Place | TopUp | Withdraw | Charge | Settle | Close


@dataclass
class Account:
    awarded: int
    charged: int = 0
    held: int = 0
    frozen: bool = False

    @property
    def available(self) -> int:
        return self.awarded - self.charged - self.held


@dataclass
class HoldModel:
    order: Place
    state: str
    amount: int
    refusal: str | None = None
    charged: int = 0
    within: int = 0  # charged out of what was held
    refunded: int = 0
    top_ups: dict[str, tuple[int, str | None, int]] = field(
        default_factory=dict
    )  # asked, why refused, what is left of it
    minutes: set[int] = field(default_factory=set)
    limit_amount: int = 0
    limit_charged: int = 0


class Model:
    """The reference. `cap` is the one limit's."""

    def __init__(self, awards: list[int], cap: int) -> None:
        self.accounts = [Account(award) for award in awards]
        self.holds: dict[str, HoldModel] = {}
        self.events: dict[str, tuple[Charge, int]] = {}
        self.adjustments: dict[str, tuple[int, int, str | None, bool]] = {}
        self.refunds: dict[str, tuple[str, int, bool]] = {}
        self.cap = cap
        self.limit_charged = 0
        self.limit_held = 0

    def run(self, op: Op) -> Seen:
        """Apply one operation; what its caller is told."""
        if isinstance(op, Place):
            return self._place(op)
        hold = self.holds.get(op.hold)
        if hold is None:
            return ("error", "unknown_hold")
        if isinstance(op, TopUp):
            return self._top_up(hold, op)
        if isinstance(op, Withdraw):
            return self._withdraw(hold, op)
        if isinstance(op, Charge):
            return self._charge(hold, op)
        if isinstance(op, Settle):
            return self._settle(hold, op)
        return self._close(hold, op)

    def adjust(self, key: str, account: int, delta: int) -> Seen:
        """Change an award."""
        return self._change(key, account, delta, None)

    def reverse(self, key: str, adjustment: str) -> Seen:
        """Take a change of an award back."""
        account, delta, reverses, done = self.adjustments.get(adjustment, (0, 0, None, False))
        if not done:
            return ("error", "unknown_adjustment")
        if reverses is not None:
            return ("error", "wrong_state")
        return self._change(key, account, -delta, adjustment)

    def _change(self, key: str, account: int, delta: int, reverses: str | None) -> Seen:
        if key in self.adjustments:
            *known, done = self.adjustments[key]
            if known != [account, delta, reverses]:
                return ("error", "id_conflict")
            return ("adjusted", True) if done else ("refused", "would_take_back_used")
        if reverses is not None and any(one[2] == reverses and one[3] for one in self.adjustments.values()):
            return ("error", "wrong_state")
        done = delta > 0 or self.accounts[account].available + delta >= 0
        self.adjustments[key] = (account, delta, reverses, done)
        if done:
            self.accounts[account].awarded += delta
        return ("adjusted", False) if done else ("refused", "would_take_back_used")

    def refund(self, key: str, hold_id: str, amount: int) -> Seen:
        """Give back of what a hold was charged."""
        hold = self.holds.get(hold_id)
        if hold is None:
            return ("error", "unknown_hold")
        if key in self.refunds:
            *known, done = self.refunds[key]
            if known != [hold_id, amount]:
                return ("error", "id_conflict")
            return ("adjusted", True) if done else ("refused", "refund_exceeds_charged")
        done = amount <= hold.charged - hold.refunded
        self.refunds[key] = (hold_id, amount, done)
        if not done:
            return ("refused", "refund_exceeds_charged")
        hold.refunded += amount
        self.accounts[hold.order.account].charged -= amount
        if hold.order.limited:
            self.limit_charged -= amount
            hold.limit_amount -= amount
            hold.limit_charged -= amount
        return ("adjusted", False)

    def _place(self, op: Place) -> Seen:
        known = self.holds.get(op.hold)
        if known is not None:
            return self._seen(known, replayed=True) if known.order == op else ("error", "id_conflict")
        account = self.accounts[op.account]
        refusal = None
        if account.frozen:
            refusal = "frozen"
        elif op.amount > 0 and account.available < op.amount:
            refusal = "insufficient_balance"
        elif op.limited and op.amount > 0 and self.cap - self.limit_charged - self.limit_held < op.amount:
            refusal = "limit_reached"
        hold = self.holds[op.hold] = HoldModel(op, "refused" if refusal else "held", op.amount, refusal)
        if refusal is None:
            account.held += op.amount
            if op.limited:
                hold.limit_amount = op.amount
                self.limit_held += op.amount
        return self._seen(hold)

    def _top_up(self, hold: HoldModel, op: TopUp) -> Seen:
        if op.line in hold.top_ups:
            amount, refusal, _ = hold.top_ups[op.line]
            if amount != op.amount:
                return ("error", "id_conflict")
            return ("refused", refusal) if refusal else self._seen(hold, replayed=True)
        if hold.state != "held":
            return ("error", "wrong_state")
        account = self.accounts[hold.order.account]
        refusal = None
        if account.frozen:
            refusal = "frozen"
        elif op.amount > 0 and account.available < op.amount:
            refusal = "insufficient_balance"
        elif hold.order.limited and self.cap - self.limit_charged - self.limit_held < op.amount:
            refusal = "limit_reached"
        hold.top_ups[op.line] = (op.amount, refusal, op.amount)
        if refusal is not None:
            return ("refused", refusal)
        hold.amount += op.amount
        account.held += op.amount
        if hold.order.limited:
            hold.limit_amount += op.amount
            self.limit_held += op.amount
        return self._seen(hold)

    def _withdraw(self, hold: HoldModel, op: Withdraw) -> Seen:
        asked, refusal, amount = hold.top_ups.get(op.line, (0, "none", 0))
        if refusal is not None:
            return ("error", "unknown_line")
        rest = amount - max(0, hold.within - hold.order.amount)
        if rest == 0 or hold.state != "held":
            return self._seen(hold, replayed=True)
        hold.top_ups[op.line] = (asked, None, amount - rest)
        hold.amount -= rest
        self.accounts[hold.order.account].held -= rest
        if hold.order.limited:
            back = min(rest, hold.limit_amount - hold.limit_charged)
            self.limit_held -= back
            hold.limit_amount -= back
        return self._seen(hold)

    def _charge(self, hold: HoldModel, op: Charge) -> Seen:
        if op.event in self.events:
            known, overrun = self.events[op.event]
            if known != op:
                return ("error", "id_conflict")
            return ("charged", False, overrun, hold.state, hold.amount, hold.charged)
        if hold.state != "held":
            return ("error", "wrong_state")
        if op.minute in hold.minutes:
            return ("error", "invariant_broken")
        overrun = max(0, op.amount - (hold.amount - hold.charged))
        self.events[op.event] = (op, overrun)
        hold.minutes.add(op.minute)
        account = self.accounts[hold.order.account]
        account.held -= op.amount - overrun
        account.charged += op.amount
        hold.amount += overrun
        hold.charged += op.amount
        hold.within += op.amount - overrun
        if hold.order.limited:
            within = min(op.amount, hold.limit_amount - hold.limit_charged)
            self.limit_held -= within
            self.limit_charged += op.amount
            hold.limit_amount += op.amount - within
            hold.limit_charged += op.amount
        return ("charged", True, overrun, hold.state, hold.amount, hold.charged)

    def _settle(self, hold: HoldModel, op: Settle) -> Seen:
        if hold.state != "held":
            return self._seen(hold, replayed=True)
        if op.usage is not None:
            charged = self._charge(hold, op.usage)
            if charged[0] == "error":
                return charged
        self._release_rest(hold, "settled")
        return self._seen(hold)

    def _close(self, hold: HoldModel, op: Close) -> Seen:
        if hold.state == op.to.value:
            return self._seen(hold, replayed=True)
        if hold.state != "held" or hold.minutes:
            return ("error", "wrong_state")
        self._release_rest(hold, op.to.value)
        return self._seen(hold)

    def _release_rest(self, hold: HoldModel, state: str) -> None:
        self.accounts[hold.order.account].held -= hold.amount - hold.charged
        if hold.order.limited:
            self.limit_held -= hold.limit_amount - hold.limit_charged
        hold.state = state

    @staticmethod
    def _seen(hold: HoldModel, *, replayed: bool = False) -> Seen:
        return ("hold", hold.state, hold.amount, hold.charged, hold.refusal, replayed)


def of(answer: object) -> Seen:
    """The ledger's answer as the model would say it."""
    match answer:
        case Hold():
            refusal = answer.refusal.code.value if answer.refusal is not None else None
            return ("hold", answer.state.value, answer.amount, answer.charged, refusal, answer.replayed)
        case Charged():
            hold = answer.hold
            return ("charged", answer.applied, answer.overrun, hold.state.value, hold.amount, hold.charged)
        case Refused():
            return ("refused", answer.code.value)
        case Adjusted():
            return ("adjusted", answer.replayed)
        case QuotaError():
            return ("error", answer.code)
    raise TypeError(f"not an answer of the ledger: {answer!r}")

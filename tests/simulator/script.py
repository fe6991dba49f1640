"""What the clients of a history want: operations made up by the seed, from pools of ids small enough to collide.

A session places, tops up, charges its slices out of order, twice and late, and settles; a meddler sends anything about anybody's
hold.
"""

from __future__ import annotations

import random

from quota.domain.hold import HoldState
from tests.property import ledger_model as model

AWARDS = (100, 60)
CAP = 80
HOLDS = tuple(f"hold-000{number}" for number in range(8))
_EVENTS = tuple(f"event-{number}" for number in range(12))


def session(choice: random.Random, hold: str) -> list[model.Op]:
    """A hold from its place to its end, with the mishaps of a network on the way."""
    ops: list[model.Op] = [
        model.Place(hold, choice.randrange(2), choice.choice((10, 25, 40, 70)), choice.random() < 0.4)
    ]
    if choice.random() < 0.4:
        ops.append(model.TopUp(hold, "t1", choice.choice((0, 10, 30))))
        if choice.random() < 0.3:  # the backend refused the extension
            ops.append(model.Withdraw(hold, "t1"))
    slices: list[model.Op] = [
        model.Charge(hold, f"{hold}:{minute}", minute, choice.choice((0, 3, 8, 20)))
        for minute in range(choice.randrange(4))
    ]
    slices += [one for one in slices if choice.random() < 0.3]  # sent twice
    choice.shuffle(slices)
    late = [slices.pop() for _ in range(min(len(slices), choice.randrange(2)))]
    ops += slices
    end = choice.random()
    if end < 0.5:
        ops.append(model.Settle(hold, model.Charge(hold, f"{hold}:end", 9, choice.choice((0, 5, 30)))))
    elif end < 0.7:
        ops.append(model.Settle(hold, None))
    elif end < 0.9:
        ops.append(model.Close(hold, choice.choice((HoldState.RELEASED, HoldState.EXPIRED))))
    return ops + late


def meddling(choice: random.Random) -> model.Op:
    """One operation of any kind on any hold."""
    hold, event = choice.choice(HOLDS), choice.choice(_EVENTS)
    charge = model.Charge(hold, event, choice.randrange(6), choice.randrange(50))
    return choice.choice(
        (
            model.Place(hold, choice.randrange(2), choice.choice((5, 30, 90)), choice.random() < 0.5),
            model.TopUp(hold, "t1", choice.choice((0, 10, 30))),
            model.Withdraw(hold, "t1"),
            charge,
            model.Settle(hold, choice.choice((None, charge))),
            model.Close(hold, choice.choice((HoldState.RELEASED, HoldState.EXPIRED))),
        )
    )


def requests(choice: random.Random, client: int) -> list[model.Op]:
    """Model requests one after the other: each is placed and settled by its own ids, a few of them twice."""
    ops: list[model.Op] = []
    for number in range(choice.randint(2, 6)):
        hold = f"call-{client}-{number}"
        ops.append(model.Place(hold, choice.randrange(2), choice.choice((0, 4, 20)), False))
        ops.append(model.Settle(hold, model.Charge(hold, f"{hold}:end", 9, choice.choice((0, 2, 4, 30)))))
        if choice.random() < 0.1:
            ops.append(ops[choice.randrange(len(ops))])
    return ops


def scripts(choice: random.Random) -> list[list[model.Op]]:
    """One list of operations a client."""
    if choice.random() < 0.3:
        return [requests(choice, client) for client in range(choice.randint(3, 8))]
    found = [session(choice, hold) for hold in choice.sample(HOLDS, choice.randint(1, 3))]
    found += [[meddling(choice) for _ in range(choice.randint(2, 6))] for _ in range(choice.randint(1, 2))]
    if choice.random() < 0.5:  # the same client twice, as a retry of a retry
        found.append(list(choice.choice(found)))
    return found

"""Starts that come at once leave the loop to others between their pieces."""

from __future__ import annotations

import asyncio

from hub.turns import Turns


async def test_between_two_pieces_everybody_else_has_a_turn() -> None:
    turns, order = Turns(), list[str]()

    async def start(number: int) -> None:
        for _ in range(3):
            await turns.take()
            order.append("piece")

    async def other() -> None:
        while True:
            order.append("other")
            await asyncio.sleep(0)

    looking = asyncio.create_task(other())
    await asyncio.gather(*(start(number) for number in range(50)))
    looking.cancel()
    assert order.count("piece") == 150
    assert "piece piece" not in " ".join(order)


async def test_who_gives_up_waiting_keeps_nobody_else_waiting() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.take()) for _ in range(5)]
    await asyncio.sleep(0)
    for one in waiting[:4]:
        one.cancel()
    await asyncio.wait_for(waiting[4], 60)
    await asyncio.wait_for(turns.take(), 60)

"""The end of a relay: by its deadline, by a cut, and never by mistake."""

from __future__ import annotations

import asyncio

import pytest

from quota.gateway.deadlines import Deadlines


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError), Deadlines().within(0):
        await forever()


async def test_a_cut_ends_one_and_not_its_neighbour() -> None:
    deadlines = Deadlines()
    first, second = deadlines.within(60), deadlines.within(60)
    go_on = asyncio.Event()

    async def cut_one() -> str:
        with first:
            await forever()
        return "not cut"

    async def other() -> str:
        with second:
            await go_on.wait()
        return "whole"

    tasks = [asyncio.create_task(cut_one()), asyncio.create_task(other())]
    await asyncio.sleep(0)
    first.cut()
    with pytest.raises(TimeoutError):
        await tasks[0]
    go_on.set()
    assert await tasks[1] == "whole"


async def test_the_task_goes_on_after_a_cut() -> None:
    deadline = Deadlines().within(60)
    asyncio.get_running_loop().call_soon(deadline.cut)
    with pytest.raises(TimeoutError), deadline:
        await forever()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_who_is_gone_already_is_cut_at_the_next_wait() -> None:
    deadline = Deadlines().within(60)

    async def cut_and_wait() -> None:
        deadline.cut()
        await forever()

    with pytest.raises(TimeoutError), deadline:
        await cut_and_wait()


async def test_a_task_that_somebody_else_cancels_is_cancelled() -> None:
    async def relay() -> None:
        with Deadlines().within(60):
            await forever()

    task = asyncio.create_task(relay())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cut_after_the_end_is_nothing() -> None:
    deadline = Deadlines().within(60)
    with deadline:
        pass
    deadline.cut()
    await asyncio.sleep(0)

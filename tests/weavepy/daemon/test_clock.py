import asyncio

import pytest
import uvloop

from weavepy.base.deadline import NEVER, Deadline
from weavepy.daemon.clock import Timer

UVLOOP_TICK_S = 0.002
"""libuv counts whole milliseconds; a core that is asked too early just says the deadline again."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def loop(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """The timer must work on both loops: they differ in what a handle knows."""
    loop = request.param()
    yield loop
    loop.close()


def run(loop: asyncio.AbstractEventLoop, deadlines: list[float], arms: int) -> list[float]:
    """Arm a timer for these deadlines, each after the one before has fired."""
    fired: list[float] = []
    start = loop.time()
    done = loop.create_future()

    def next_deadline() -> Deadline:
        if len(fired) == len(deadlines):
            return NEVER
        return Deadline(start + deadlines[len(fired)], "test")

    def fire() -> None:
        fired.append(loop.time() - start)
        timer.arm()
        if len(fired) == len(deadlines):
            done.set_result(None)

    timer = Timer(next_deadline, fire)

    async def main() -> None:
        for _ in range(arms):
            timer.arm()
        async with asyncio.timeout(5.0):
            await done

    loop.run_until_complete(main())
    return fired


def test_it_fires_at_each_deadline_and_not_before(loop: asyncio.AbstractEventLoop) -> None:
    first, second = run(loop, [0.02, 0.05], arms=1)
    assert first >= 0.02 - UVLOOP_TICK_S
    assert second >= 0.05 - UVLOOP_TICK_S


def test_arming_often_fires_once(loop: asyncio.AbstractEventLoop) -> None:
    assert len(run(loop, [0.01], arms=5)) == 1


def test_deadlines_in_the_past_fire_soon_one_after_the_other(
    loop: asyncio.AbstractEventLoop,
) -> None:
    assert len(run(loop, [-1.0, -1.0, -2.0], arms=3)) == 3

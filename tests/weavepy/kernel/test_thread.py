"""What a daemon asks of its host's network leaves no garbage behind."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from weavepy.kernel.netlink import HostError, Link, links, netlink
from weavepy.kernel.thread import KernelThread

TIMES = 20

LEFT_OBJECTS = 100
"""Of all times together; a single look at the loopback alone makes several hundred."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing is collected but on demand."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def look() -> list[Link]:
    with netlink() as route:
        return links(route)


async def test_looking_again_and_again_leaves_no_objects_behind(no_collector: None) -> None:
    loop = asyncio.get_running_loop()
    with KernelThread() as thread:
        await loop.run_in_executor(thread, look)  # makes what stays: the thread, caches of classes
        before = len(gc.get_objects())
        for _ in range(TIMES):
            found = await loop.run_in_executor(thread, look)
            assert any(link.loopback for link in found)
        left = len(gc.get_objects()) - before
    assert left < LEFT_OBJECTS


async def test_what_fails_reaches_who_asked_and_leaves_nothing_either(no_collector: None) -> None:
    def fail() -> None:
        look()
        raise HostError("no")

    loop = asyncio.get_running_loop()
    with KernelThread() as thread:
        await loop.run_in_executor(thread, look)
        before = len(gc.get_objects())
        for _ in range(TIMES):
            with pytest.raises(HostError, match="no"):
                await loop.run_in_executor(thread, fail)
        left = len(gc.get_objects()) - before
    assert left < LEFT_OBJECTS

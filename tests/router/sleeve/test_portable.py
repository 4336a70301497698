"""The portable path's own parts; what it carries is tested with real datapaths."""

import asyncio

from router.sleeve.portable import DroppingQueue, QueueSink


async def test_a_full_queue_drops_the_newest_and_counts() -> None:
    queue = DroppingQueue(2)
    for number in range(5):
        queue.put_nowait(number)
    assert queue.dropped == 3
    assert [queue.get_nowait(), queue.get_nowait()] == [0, 1]
    queue.put_nowait(5)
    assert await queue.get() == 5
    assert queue.dropped == 3


async def test_what_the_network_does_not_take_in_time_is_refused_by_name() -> None:
    sink = QueueSink()
    assert sink.send([b"header", b"body"], 10, 1, ("fd99::1", 6783)) == "EAFNOSUPPORT"
    queue = sink.queues[True] = asyncio.Queue(2)
    assert sink.send([b"header", b"body"], 10, 1, ("fd99::1", 6783)) == ""
    assert sink.send([b"header", b"body"] * 2, 10, 2, ("fd99::1", 6783)) == "ENOBUFS"
    assert queue.get_nowait() == (b"headerbody", ("fd99::1", 6783))
    assert queue.empty(), "what is counted as refused does not go out after all"

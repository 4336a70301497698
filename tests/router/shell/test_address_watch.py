"""The kernel says at once that an address came or went."""

import asyncio
import time
from contextlib import closing

import pytest

from router.shell.address_watch import LOOK_INTERVAL_S, SETTLE_S, AddressWatch
from tests.namespaces import run
from tests.router.shell.conftest import World

pytestmark = pytest.mark.root


def test_a_change_of_addresses_is_told_long_before_the_next_regular_look(world: World) -> None:
    host = world.host.name
    run("ip", "-n", host, "link", "add", "up0", "up", "type", "bridge")

    async def change(*words: str) -> bool:
        """Whether the watch, in whose namespace nothing else happens, tells of it."""
        waits = asyncio.create_task(watch.changed())
        done, _ = await asyncio.wait([waits], timeout=0.5)
        assert not done, "nothing has changed yet"
        await asyncio.to_thread(run, "ip", "-n", host, "addr", *words, "dev", "up0")
        done, _ = await asyncio.wait([waits], timeout=LOOK_INTERVAL_S / 6)
        waits.cancel()
        return bool(done)

    with closing(world.on_host(AddressWatch)) as watch:
        asyncio.run(settle(watch))
        assert asyncio.run(change("add", "192.0.2.1/24"))
        assert asyncio.run(change("add", "fd01::1/64", "nodad"))
        assert asyncio.run(change("del", "192.0.2.1/24"))


def test_the_loop_sleeps_while_a_burst_of_changes_settles(world: World) -> None:
    with closing(world.on_host(AddressWatch)) as watch:
        run("ip", "-n", world.host.name, "addr", "add", "192.0.2.1/24", "dev", "lo")
        before_s = time.process_time()
        asyncio.run(watch.changed())
        assert time.process_time() - before_s < SETTLE_S / 3


async def settle(watch: AddressWatch) -> None:
    """What the kernel still says of interfaces that came up."""
    while True:
        _, waiting = await asyncio.wait([asyncio.ensure_future(watch.changed())], timeout=3.0)
        if waiting:
            waiting.pop().cancel()
            return

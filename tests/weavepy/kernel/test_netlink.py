"""That netlink works from a worker thread beside a running uvloop, policy or not."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.namespaces import Namespaces
from weavepy.kernel.netlink import (
    NLM_F_DUMP_INTR,
    KernelRefused,
    dumped,
    explained,
    find_link,
    links,
    netlink,
)

BESIDE_UVLOOP = """
import asyncio, warnings
from concurrent.futures import ThreadPoolExecutor
import uvloop
from weavepy.kernel.netlink import links, netlink

def names():
    with netlink() as route:
        return [link.name for link in links(route)]

async def main():
    with ThreadPoolExecutor(1) as executor:
        for _ in range(2):
            found = await asyncio.get_running_loop().run_in_executor(executor, names)
    print(*found)

warnings.simplefilter("error")
if POLICY:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
else:
    uvloop.run(main())
"""


@pytest.mark.parametrize("policy", [True, False])
def test_it_works_on_a_thread_beside_uvloop(policy: bool) -> None:
    script = BESIDE_UVLOOP.replace("POLICY", str(policy))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=60
    )

    assert "lo" in done.stdout.split(), done.stderr
    assert "ResourceWarning" not in done.stderr


async def test_it_works_on_a_thread_beside_asyncio() -> None:
    def loopback() -> bool:
        with netlink() as route:
            return any(link.loopback for link in links(route))

    with ThreadPoolExecutor(1) as executor:
        assert await asyncio.get_running_loop().run_in_executor(executor, loopback)


def test_a_link_that_is_not_there_is_none() -> None:
    with netlink() as route:
        assert find_link(route, "nothere") is None
        loopback = find_link(route, "lo")

    assert loopback is not None
    assert loopback.loopback


def test_a_refusal_says_what_was_being_done() -> None:
    with (
        pytest.raises(KernelRefused, match=r"painting: the kernel refused: No such device"),
        explained("painting"),
        netlink() as route,
    ):
        route.link("get", ifname="nothere")


@pytest.mark.root
def test_a_table_that_changes_while_it_is_read_is_read_again(namespaces: Namespaces) -> None:
    """Links come and go all the time; what is returned carries the kernel's mark nowhere."""
    host = namespaces.add("host")
    stop = threading.Event()
    marks: list[bool] = []

    def come_and_go() -> None:
        with netlink() as route:
            while not stop.is_set():
                route.link("add", ifname="coming", kind="bridge")
                route.link("del", ifname="coming")

    def read() -> None:
        with netlink() as route:
            for number in range(60):
                route.link("add", ifname=f"many{number}", kind="bridge")

            def dump() -> list[Any]:
                messages = list(route.get_links())
                marks.append(any(it["header"]["flags"] & NLM_F_DUMP_INTR for it in messages))
                return messages

            give_up_at = time.monotonic() + 20
            while True not in marks and time.monotonic() < give_up_at:
                dumped(dump)
                assert not marks[-1]

    with ThreadPoolExecutor(1) as other:
        running = other.submit(namespaces.inside, host, come_and_go)
        try:
            namespaces.inside(host, read)
        finally:
            stop.set()
        running.result(timeout=20)
    assert True in marks

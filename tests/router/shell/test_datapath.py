"""The router's end of the datapath's socket, with an end that does what no datapath should."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from router.shell import datapath
from router.shell.datapath import DatapathOptions, running_pid
from router.shell.datapath_link import MAX_UNSENT_BYTES, DatapathLink
from router.sleeve.messages import FromDatapath, SessionDown, SetFastPeers, SetMtu
from weavepy.base.wire import encode

LARGE = SetFastPeers(generation=1, fast=[], relays=[], learn={1: ["02:00:00:00:00:01"] * 5000})


def options_in(directory: Path) -> DatapathOptions:
    return DatapathOptions(
        socket=directory / "datapath.sock",
        pid_file=directory / "datapath.pid",
        log_file=directory / "datapath.log",
        tap="nothere",
        port=1,
        mtu_bytes=1400,
        underlay_mtu_bytes=1500,
        encrypted=True,
        offload=True,
    )


async def test_a_datapath_that_takes_nothing_is_lost_before_much_waits_for_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed, _other = socket.socketpair()
    lost: list[str] = []
    link = DatapathLink(ours, lambda _: None, lost.append)
    sent = 0
    link.send(LARGE)
    link.send(LARGE)
    link.send(LARGE, passed)
    while ours.fileno() >= 0:
        link.send(LARGE)
        sent += 1
        assert sent * 100_000 < 2 * MAX_UNSENT_BYTES, "it must come to an end"
    assert lost == [], "not while the caller is in `send`"
    assert passed.fileno() < 0

    await asyncio.sleep(0)

    (reason,) = lost
    assert reason.startswith("it hangs: ")
    link.send(SetMtu(1400))
    await asyncio.sleep(0)
    assert len(lost) == 1
    theirs.close()
    _other.close()


async def test_what_a_newer_datapath_says_and_nobody_knows_is_dropped_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[FromDatapath] = []
    done = asyncio.Event()

    def hear(message: FromDatapath) -> None:
        heard.append(message)
        done.set()

    link = DatapathLink(ours, hear, pytest.fail)
    for number in range(3):
        theirs.send(encode({"type": "Novelty", "number": number}))
    theirs.send(encode({"type": "SessionDown", "peer": "p", "reason": "why", "since_s": 3}))
    await asyncio.wait_for(done.wait(), 5)
    assert heard == [SessionDown("p", "why")]
    assert len(caplog.messages) == 1
    assert "Novelty" in caplog.text
    link.close()
    theirs.close()


async def test_what_waits_is_sent_once_the_datapath_takes_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    lost: list[str] = []
    link = DatapathLink(ours, lambda _: None, lost.append)
    count = 3 * MAX_UNSENT_BYTES // 100_000
    loop = asyncio.get_running_loop()
    for number in range(count):
        link.send(LARGE)
        if number % 10 == 9:
            for _ in range(10):
                await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), 5)
    assert lost == []
    link.close()
    theirs.close()


async def test_a_process_that_hangs_is_killed_and_another_program_is_not(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    assert running_pid(options) is None, "no file"
    options.pid_file.write_text(f"{os.getpid()}\n")
    assert running_pid(options) is None, "another program"

    sleeping = (sys.executable, "-c", "import time; time.sleep(600)", str(options.socket))
    hung = await asyncio.create_subprocess_exec(*sleeping)
    options.pid_file.write_text(f"{hung.pid}\n")
    try:
        async with asyncio.timeout(10):
            while running_pid(options) is None:
                await asyncio.sleep(0.01)  # until it has become that program
        assert await datapath._try_running(options) is None
        assert await asyncio.wait_for(hung.wait(), 5) in (-signal.SIGKILL, 255)
    finally:
        if hung.returncode is None:
            hung.kill()
    assert running_pid(options) is None

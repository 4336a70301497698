"""A datapath that nobody's router has started: whole processes, in a network namespace."""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.shell import datapath
from router.shell.datapath import DatapathError, DatapathOptions
from router.sleeve.datapath import PULSE_S
from router.sleeve.messages import Snapshot
from tests.kube.manifest import probe_of_datapath
from tests.kube.places import wait_for
from tests.namespaces import Namespaces, can_make_namespaces
from weavepy.base.settings import DEFAULT_PORT, Directories
from weavepy.base.wire import encode

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not can_make_namespaces(), reason="needs root: network namespaces"
    ),
]

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    places = Namespaces()
    namespace = places.add("dp")
    started: list[subprocess.Popen[bytes]] = []

    def start_one(*options: str) -> "subprocess.Popen[bytes]":
        command = ["ip", "netns", "exec", namespace.name, sys.executable, "-m", "weavepy"]
        environment = os.environ | {"WEAVEPY_RUN_DIR": str(tmp_path)}
        started.append(subprocess.Popen([*command, "datapath", *options], env=environment))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait(timeout=10)
    places.remove()


@pytest.fixture
def options(tmp_path: Path) -> DatapathOptions:
    where = Directories(tmp_path, tmp_path)
    return DatapathOptions(
        socket=where.datapath_socket,
        pid_file=where.datapath_pid_file,
        log_file=where.datapath_log_file,
        tap="weavetap",
        port=DEFAULT_PORT,
        mtu_bytes=1400,
        underlay_mtu_bytes=1500,
        encrypted=True,
        offload=True,
        separate=True,
    )


async def be_patient(why: str) -> None:
    """It is only just starting."""


async def refuse(why: str) -> None:
    raise DatapathError(why)


async def met(options: DatapathOptions, waits: datapath.Waits = be_patient) -> Snapshot:
    async with asyncio.timeout(20):
        connection, snapshot, adopted = await datapath.connect(options, waits)
    connection.close()
    assert adopted, "it is not ours to end"
    return snapshot


async def test_a_second_one_waits_for_the_end_of_the_first(
    start: Start, options: DatapathOptions
) -> None:
    first = start()
    assert (await met(options)).pid == first.pid
    second = start()
    assert (await met(options)).pid == first.pid
    first.kill()
    first.wait(timeout=10)
    assert (await met(options)).pid == second.pid
    second.terminate()
    assert second.wait(timeout=10) == 0
    assert not options.socket.exists()


async def test_one_with_other_options_is_refused_and_left_alone(
    start: Start, options: DatapathOptions
) -> None:
    process = start()
    await met(options)
    with pytest.raises(DatapathError, match=f"other options.*port {DEFAULT_PORT}"):
        await met(dataclasses.replace(options, port=1), refuse)
    assert (await met(options)).pid == process.pid


async def test_where_there_is_none_a_router_says_what_to_start(
    options: DatapathOptions,
) -> None:
    with pytest.raises(DatapathError, match="start `weavepy datapath`"):
        await met(options, refuse)


async def test_one_of_before_versions_were_told_is_refused_by_saying_so(
    options: DatapathOptions,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(options.socket))
        listener.listen()
        asking = asyncio.create_task(met(options, refuse))
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        router, _ = await asyncio.wait_for(loop.sock_accept(listener), 5)
        with router:
            await loop.sock_sendall(router, encode({"type": "Snapshot", "pid": 1}))
            with pytest.raises(DatapathError, match="no datapath that we understand"):
                await asking


@pytest.fixture
def lives(options: DatapathOptions) -> Callable[[], bool]:
    """What kubelet would find, if it looked now."""
    command = [
        word.replace("/run/weavepy/datapath.pid", str(options.pid_file))
        for word in probe_of_datapath()
    ]
    return lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0


def an_hour_passes(options: DatapathOptions) -> None:
    """Without a sign of life."""
    before = time.time() - 3600
    os.utime(options.pid_file, (before, before))


def test_the_probe_finds_a_datapath_that_hangs_and_no_other(
    start: Start, options: DatapathOptions, lives: Callable[[], bool]
) -> None:
    assert not lives()
    process = start()
    wait_for("it lives", lives)
    an_hour_passes(options)
    assert not lives()
    wait_for("it shows that it lives, with nothing to do and no router", lives)

    process.send_signal(signal.SIGSTOP)
    an_hour_passes(options)
    time.sleep(PULSE_S + 1)
    assert not lives()
    process.send_signal(signal.SIGCONT)
    wait_for("it goes on", lives)

    options.pid_file.unlink()
    wait_for("it is not taken for dead because somebody tidied up", lives)
    assert int(options.pid_file.read_text()) == process.pid


def test_the_probe_finds_the_portable_one_alive(
    start: Start, options: DatapathOptions, lives: Callable[[], bool]
) -> None:
    start("--no-offload")
    wait_for("it lives", lives)
    an_hour_passes(options)
    wait_for("it shows it again", lives)

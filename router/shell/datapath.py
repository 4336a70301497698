"""The router's end of the datapath: find the running process or start one, and talk to it.

The datapath outlives the router. So the router first tries the socket in the run directory and
adopts what answers there; only if nobody does, or if what runs was started with other options,
it starts a process of its own. One that is *separate* is somebody else's to start and to end: the
router waits for it, and knows nothing by its process id, which is of another namespace.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    Shutdown,
    Snapshot,
    from_datapath_decoder,
)
from router.sleeve.parts import Joiner
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.wire import encode

log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
SEPARATE_TIMEOUT_S = 30.0
"""For one that somebody else starts, perhaps at this moment."""
HUNG_S = 5.0
"""A datapath that runs and does not answer for so long is killed; on a busy machine it is slow."""

_POLL_S = 0.05


class DatapathError(WeavepyError):
    """The datapath process does not start or does not answer."""


@dataclass(frozen=True, slots=True)
class DatapathOptions:
    """What a datapath is started with and cannot change later."""

    socket: Path
    pid_file: Path
    log_file: Path
    tap: str
    port: int
    mtu_bytes: int
    underlay_mtu_bytes: int
    encrypted: bool
    offload: bool
    separate: bool = False

    def command(self) -> Sequence[str]:
        flags = {
            "--socket": self.socket,
            "--pid-file": self.pid_file,
            "--log-file": self.log_file,
            "--tap": self.tap,
            "--port": self.port,
            "--mtu": self.mtu_bytes,
            "--underlay-mtu": self.underlay_mtu_bytes,
        }
        command = [sys.executable, "-m", "router.sleeve.process"]
        for flag, value in flags.items():
            command += [flag, str(value)]
        if not self.encrypted:
            command.append("--insecure")
        if not self.offload:
            command.append("--no-offload")
        return command

    def fits(self, snapshot: Snapshot) -> bool:
        return (
            snapshot.tap == self.tap
            and snapshot.udp_port == self.port
            and snapshot.encrypted == self.encrypted
            and bool(snapshot.offloads) <= self.offload
        )


async def connect(options: DatapathOptions) -> tuple[socket.socket, Snapshot, bool]:
    """Return a connection, what the datapath has, and whether it was running already.

    A datapath that runs with other options (another port, another TAP) is ended first, and so is
    one that hangs: TAP and port can be only one's.
    """
    if options.separate:
        return *await _meet_separate(options), True
    found = await _try_running(options)
    if found is not None:
        connection, snapshot = found
        if options.fits(snapshot):
            return connection, snapshot, True
        log.warning("the datapath (pid %d) runs with other options: starting anew", snapshot.pid)
        connection.send(encode(Shutdown()))
        connection.close()
        await until_gone(snapshot.pid)
    with contextlib.suppress(FileNotFoundError):
        options.socket.unlink()
    process = _start(options)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        found = await _try(options)
        if found is not None:
            return *found, False
        if process.poll() is not None:
            raise DatapathError(
                f"the datapath ended with status {process.returncode} as it started: "
                + _last_line(options.log_file)
            )
        await asyncio.sleep(_POLL_S)
    process.kill()
    raise DatapathError(f"the datapath did not answer within {START_TIMEOUT_S:g} s")


async def _meet_separate(options: DatapathOptions) -> tuple[socket.socket, Snapshot]:
    deadline = asyncio.get_running_loop().time() + SEPARATE_TIMEOUT_S
    while (found := await _try(options)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            raise DatapathError(
                f"no datapath that we understand is at {options.socket}: start `weavepy datapath`"
                " of this version (in Kubernetes: look at this node's pod of weavepy-datapath)"
            )
        await asyncio.sleep(_POLL_S)
    connection, snapshot = found
    if not options.fits(snapshot):
        connection.close()
        raise DatapathError(
            f"the datapath at {options.socket} has other options (port {snapshot.udp_port}, TAP"
            f" {snapshot.tap}, encrypted: {snapshot.encrypted}): give both the same"
        )
    return connection, snapshot


async def _try_running(
    options: DatapathOptions,
) -> tuple[socket.socket, Snapshot] | None:
    """None if no datapath runs, any more."""
    deadline = asyncio.get_running_loop().time() + HUNG_S
    while True:
        found, pid = await _try(options), running_pid(options)
        if found is not None or pid is None:
            return found
        if asyncio.get_running_loop().time() >= deadline:
            log.warning("the datapath (pid %d) hangs: it is killed", pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await until_gone(pid)
            return None
        await asyncio.sleep(_POLL_S)


def running_pid(options: DatapathOptions) -> int | None:
    """Of the datapath with this socket; its number may by now be that of another program."""
    try:
        pid = int(options.pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(options.socket) in arguments else None


def _start(options: DatapathOptions) -> "subprocess.Popen[bytes]":
    with options.log_file.open("ab") as output:
        process = subprocess.Popen(
            options.command(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    log.info("datapath started, pid %d", process.pid)
    return process


async def _try(options: DatapathOptions) -> tuple[socket.socket, Snapshot] | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = asyncio.get_running_loop()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE_BYTES)
        connection.setblocking(False)
        joiner = Joiner(from_datapath_decoder)
        message = None
        async with asyncio.timeout(2.0):
            await loop.sock_connect(connection, str(options.socket))
            while message is None:
                message = joiner.take(await loop.sock_recv(connection, MAX_MESSAGE_BYTES))
    except (OSError, TimeoutError, ProtocolError):
        connection.close()
        return None
    if not isinstance(message, Snapshot):
        connection.close()
        return None
    return connection, message


async def until_gone(pid: int) -> None:
    """Wait for a datapath that was told to end; one that does not is killed."""
    for _ in range(100):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # if it is our child, it stays until we have looked
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(_POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"

"""The router's datapath: find the process that runs, or start one.

The datapath outlives the router. So the router first tries the socket in the run directory and
adopts what answers there; only if nobody does, or if what runs was started with other options or
speaks another version, it starts a process of its own. One that is *separate* is somebody else's to
start and to end: the router waits for it, and knows nothing by its process id, which is of another
namespace. While it waits for one to be replaced, that one carries frames with what it has.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.sleeve.hello import PROTOCOL, Hello, hello_decoder
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
ANSWER_TIMEOUT_S = 2.0
SEPARATE_RETRY_S = 0.5
"""One that somebody else starts may come at any moment."""
HUNG_S = 5.0
"""A datapath that runs and does not answer for so long is killed; on a busy machine it is slow."""

_POLL_S = 0.05
_POD = "this node's pod of weavepy-datapath"


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

    def misfit(self, theirs: Snapshot | Hello) -> str:
        """Why a router with these options cannot work with this datapath; empty if it can."""
        if isinstance(theirs, Hello):
            return (
                f"is of version {theirs.version} and speaks protocol {theirs.protocol}, this router"
                f" speaks {PROTOCOL}"
            )
        if (
            theirs.tap == self.tap
            and theirs.udp_port == self.port
            and theirs.encrypted == self.encrypted
            and bool(theirs.offloads) <= self.offload
        ):
            return ""
        return (
            f"has other options (port {theirs.udp_port}, TAP {theirs.tap}, encrypted:"
            f" {theirs.encrypted})"
        )


Waits = Callable[[str], Awaitable[None]]
"""Hears why there is no datapath yet, whenever that has become another reason."""


async def connect(options: DatapathOptions, waits: Waits) -> tuple[socket.socket, Snapshot, bool]:
    """Return a connection, what the datapath has, and whether it was running already.

    A datapath that runs with other options (another port, another TAP) or is of another version is
    ended first, and so is one that hangs: TAP and port can be only one's. One that is separate is
    waited for, for as long as it takes: only then is `waits` called.
    """
    if options.separate:
        return *await _meet_separate(options, waits), True
    found = await _try_running(options)
    if found is not None:
        connection, theirs = found
        misfit = options.misfit(theirs)
        if isinstance(theirs, Snapshot) and not misfit:
            return connection, theirs, True
        log.warning("the datapath (pid %d) %s: starting anew", theirs.pid, misfit)
        connection.send(encode(Shutdown()))
        connection.close()
        await until_gone(theirs.pid)
    with contextlib.suppress(FileNotFoundError):
        options.socket.unlink()
    process = _start(options)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(DatapathError):
            connection, theirs = await _ask(options.socket)
            if isinstance(theirs, Snapshot):
                return connection, theirs, False
            connection.close()
        if process.poll() is not None:
            raise DatapathError(
                f"the datapath ended with status {process.returncode} as it started: "
                + _last_line(options.log_file)
            )
        await asyncio.sleep(_POLL_S)
    process.kill()
    raise DatapathError(f"the datapath did not answer within {START_TIMEOUT_S:g} s")


async def _meet_separate(options: DatapathOptions, waits: Waits) -> tuple[socket.socket, Snapshot]:
    said = ""
    while True:
        connection = None
        try:
            connection, theirs = await _ask(options.socket)
        except DatapathError as error:
            why = f"{error}: start `weavepy datapath` (in Kubernetes: see {_POD})"
        else:
            misfit = options.misfit(theirs)
            if isinstance(theirs, Snapshot) and not misfit:
                return connection, theirs
            why = f"the datapath at {options.socket} {misfit}: {_remedy(theirs)}"
        with connection or contextlib.nullcontext():
            if why != said:
                await waits(why)
                said = why
            if connection is not None:
                await _until_ended(connection)
        await asyncio.sleep(SEPARATE_RETRY_S)


def _remedy(misfit: Snapshot | Hello) -> str:
    if isinstance(misfit, Snapshot):
        return "give both the same"
    return f"delete {_POD} to replace it" if misfit.protocol < PROTOCOL else "replace this router"


async def _until_ended(connection: socket.socket) -> None:
    """What it says meanwhile is not for us."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while await loop.sock_recv(connection, MAX_MESSAGE_BYTES):
            pass


async def _try_running(
    options: DatapathOptions,
) -> tuple[socket.socket, Snapshot | Hello] | None:
    """None if no datapath runs, any more."""
    deadline = asyncio.get_running_loop().time() + HUNG_S
    while True:
        with contextlib.suppress(DatapathError):
            return await _ask(options.socket)
        pid = running_pid(options)
        if pid is None:
            return None
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


async def _ask(where: Path) -> tuple[socket.socket, Snapshot | Hello]:
    """Return a connection and what the datapath has, or only who it is if it is of another version.

    Raises `DatapathError`, which says what is there instead.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(connection.close)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE_BYTES)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await loop.sock_connect(connection, str(where))
                found = await _hear(connection)
        except TimeoutError as error:
            raise DatapathError(f"the datapath at {where} does not answer") from error
        except OSError as error:
            raise DatapathError(f"no datapath is at {where}") from error
        except ProtocolError as error:
            raise DatapathError(f"no datapath that we understand is at {where}") from error
        undo.pop_all()
    return connection, found


async def _hear(connection: socket.socket) -> Snapshot | Hello:
    loop = asyncio.get_running_loop()
    hello = hello_decoder.decode(await loop.sock_recv(connection, MAX_MESSAGE_BYTES))
    assert isinstance(hello, Hello)
    if hello.protocol != PROTOCOL:
        return hello
    joiner = Joiner(from_datapath_decoder)
    while True:
        message = joiner.take(await loop.sock_recv(connection, MAX_MESSAGE_BYTES))
        if isinstance(message, Snapshot):
            return message
        if message is not None:
            raise ProtocolError("a datapath that does not begin with what it has")


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

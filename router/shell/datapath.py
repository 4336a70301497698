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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    FromDatapath,
    Report,
    Shutdown,
    Snapshot,
    ToDatapath,
    from_datapath_decoder,
)
from router.sleeve.parts import MAX_PARTS, PART_BYTES, Joiner, packets
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.wire import encode

log = logging.getLogger(__name__)

REPORT = Report()
START_TIMEOUT_S = 10.0
SEPARATE_TIMEOUT_S = 30.0
"""For one that somebody else starts, perhaps at this moment."""
HUNG_S = 5.0
"""A datapath that runs and does not answer for so long is killed; on a busy machine it is slow."""

MAX_UNSENT_BYTES = 2 * MAX_PARTS * PART_BYTES
"""What may wait for the datapath to take it: two messages of the largest kind. It takes what comes
within milliseconds, so one that lets so much lie hangs."""

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


class DatapathLink:
    """A connection to a running datapath; `received` and `lost` are called from the event loop.

    Neither is called while a caller is in `send`.
    """

    def __init__(
        self,
        connection: socket.socket,
        received: Callable[[FromDatapath], None],
        lost: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._received = received
        self._lost = lost
        self._unsent: deque[tuple[bytes, socket.socket | None]] = deque()
        self._unsent_bytes = 0
        self._joiner = Joiner(from_datapath_decoder)
        connection.setblocking(False)
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)

    def send(self, message: ToDatapath, passed: socket.socket | None = None) -> None:
        """Send, and pass on a socket with it; that is closed here once it is sent."""
        if self._socket.fileno() < 0:
            if passed is not None:
                passed.close()
            return
        try:
            *first, last = packets(message)
        except ProtocolError as error:
            log.error("%s", error)
            return
        self._unsent += [(packet, None) for packet in first]
        self._unsent.append((last, passed))
        self._unsent_bytes += sum(map(len, first)) + len(last)
        self._write()
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            waiting = self._unsent_bytes
            self.close()
            reason = f"it hangs: {waiting} bytes wait for it to take them"
            asyncio.get_running_loop().call_soon(self._lost, reason)

    def close(self) -> None:
        """The datapath goes on without us."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(descriptor)
        loop.remove_writer(descriptor)
        self._socket.close()
        self._forget_unsent()

    def _read(self) -> None:
        for _ in range(64):
            try:
                data = self._socket.recv(MAX_MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._gone(error.strerror or str(error))
                return
            if not data:
                self._gone("the datapath process ended")
                return
            try:
                message = self._joiner.take(data)
            except ProtocolError as error:
                log.error("datapath: %s", error)
                continue
            if message is None:
                continue
            self._received(message)
            if self._socket.fileno() < 0:
                return

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unsent:
            data, passed = self._unsent[0]
            descriptors = [] if passed is None else [passed.fileno()]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except (BlockingIOError, InterruptedError):
                loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                self._forget_unsent()  # the reader hears of it and reports
                break
            if passed is not None:
                passed.close()
            self._unsent.popleft()
            self._unsent_bytes -= len(data)
        loop.remove_writer(self._socket.fileno())

    def _forget_unsent(self) -> None:
        for _, passed in self._unsent:
            if passed is not None:
                passed.close()
        self._unsent.clear()
        self._unsent_bytes = 0

    def _gone(self, reason: str) -> None:
        self.close()
        self._lost(reason)


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

"""The router's connection to a running datapath: what it sends, and what it hears.

It never blocks the router. A datapath that does not take what waits for it hangs, and is lost: who
is told so starts another.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    FromDatapath,
    ToDatapath,
    from_datapath_decoder,
)
from router.sleeve.parts import MAX_PARTS, PART_BYTES, Joiner, packets
from weavepy.base.errors import ProtocolError

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 2 * MAX_PARTS * PART_BYTES
"""What may wait for the datapath to take it: two messages of the largest kind. It takes what comes
within milliseconds, so one that lets so much lie hangs."""


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
        self._is_understood = True
        """Nothing of it was refused so far."""
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
                if self._is_understood:
                    log.error("what the datapath says is dropped, the first for: %s", error)
                self._is_understood = False
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

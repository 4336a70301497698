"""Copies of frames for whoever wants to look: `weavepy capture`.

The router hands over one end of a socket pair, and copies go straight into it as blocks of a
pcapng file. The kernel's buffer of that socket is all the memory there is: when nobody reads
fast enough, copies are dropped and counted, and the frames themselves never wait. While nobody
captures, nothing of this is in the way of a frame.

Seen are frames where the bridge is: those that it gave us, before they are cut, bundled or
sealed, and those that we give to it, after they are put together. So a large frame is one
frame, and its checksum may still be for the kernel to fill in. What is only relayed is not seen.
"""

import socket
from collections.abc import Callable
from typing import Protocol

from router.overlay.ethernet import is_multicast
from router.overlay.mac_table import MacTable
from router.sleeve.messages import StartCapture
from weavepy.base import pcapng

MAX_CAPTURES = 4
"""At one time; a further one is refused by closing its socket."""

QUEUE_BYTES = 2 * 1024 * 1024
"""Of copies that were not read yet, for each capture."""

_SO_SNDBUFFORCE = 32


class Watcher(Protocol):
    def handle_outbound(self, frame: memoryview) -> None:
        """The bridge gave us this frame."""
        ...

    def handle_inbound(self, frame: bytes) -> None:
        """We give this frame to the bridge."""
        ...


class Captures:
    """All that are under way. `watch` is called with this when there is one, else with None."""

    def __init__(
        self,
        interface: str,
        macs: MacTable,
        watch: Callable[[Watcher | None], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._interface = interface
        self._macs = macs
        self._watch = watch
        self._clock_ns = clock_ns
        self._captures: dict[int, _Capture] = {}

    def start(self, wanted: StartCapture, descriptor: int) -> None:
        """Begin to write to this socket, which is ours from here on."""
        output = socket.socket(fileno=descriptor)
        if len(self._captures) >= MAX_CAPTURES or wanted.number in self._captures:
            output.close()
            return
        output.setblocking(False)
        try:
            output.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, QUEUE_BYTES)
        except PermissionError:
            output.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        capture = _Capture(wanted, output)
        capture.write(pcapng.file_head(self._interface, wanted.snap_bytes))
        self._captures[wanted.number] = capture
        self._watch(self)

    def stop(self, number: int) -> None:
        capture = self._captures.pop(number, None)
        if capture is not None:
            capture.end(self._clock_ns())
        if not self._captures:
            self._watch(None)

    def stop_all(self) -> None:
        for number in list(self._captures):
            self.stop(number)

    def handle_outbound(self, frame: memoryview) -> None:
        self._handle(bytes(frame), frame[:6], outbound=True)

    def handle_inbound(self, frame: bytes) -> None:
        self._handle(frame, frame[6:12], outbound=False)

    def _handle(self, frame: bytes, far_mac: bytes | memoryview, *, outbound: bool) -> None:
        """`far_mac` is the one that may live behind a peer."""
        at_ns = self._clock_ns()
        short_id = None if is_multicast(frame) and outbound else self._macs.lookup(bytes(far_mac))
        for capture in list(self._captures.values()):
            # What goes to everyone, or to who knows whom, goes to this peer too.
            if capture.short_id and short_id is not None and short_id != capture.short_id:
                continue
            kept = frame[: capture.snap_bytes]
            capture.add(pcapng.packet(at_ns, kept, len(frame), outbound=outbound))
            if capture.over:
                self.stop(capture.number)


class _Capture:
    def __init__(self, wanted: StartCapture, output: socket.socket) -> None:
        self.number = wanted.number
        self.short_id = wanted.short_id
        self.snap_bytes = wanted.snap_bytes
        self.over = False
        self._count = wanted.count
        self._output = output
        self._seen = 0
        self._dropped = 0

    def add(self, block: bytes) -> None:
        self._seen += 1
        if not self.write(block):
            self._dropped += 1
        if self._count and self._seen - self._dropped >= self._count:
            self.over = True

    def write(self, block: bytes) -> bool:
        try:
            self._output.send(block)
        except BlockingIOError:
            return False
        except OSError as error:
            # ENOBUFS and the like pass; a reader that is gone does not come back.
            self.over = self.over or isinstance(error, BrokenPipeError | ConnectionError)
            return False
        return True

    def end(self, at_ns: int) -> None:
        self.write(pcapng.statistics(at_ns, self._seen, self._dropped))
        self._output.close()

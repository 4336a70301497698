"""One TCP connection that never ends by itself, and when its bytes arrived.

What a test wants to know of a path that changes is not how fast a flow is but how long it stood
still, and that no byte of it was lost or changed.
"""

import contextlib
import itertools
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from weavepy.lab.lab import Lab

_PATTERN = bytes(range(256)) * 256
_RECEIVE_BYTES = 1 << 16
_END_S = 10.0


@dataclass(slots=True)
class Progress:
    bytes_received: int = 0
    damaged: bool = False
    failure: str = ""
    """Why the connection broke; empty while it works."""
    arrivals: list[float] = field(default_factory=list)
    """When something came in, by `time.monotonic`, not closer than a millisecond."""

    def longest_gap_s(self, since: float) -> float:
        """In which nothing arrived, up to now."""
        times = [since, *(at for at in self.arrivals if at > since), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class Flow:
    """Bytes from one node to another for as long as it is open."""

    def __init__(
        self, lab: Lab, source: str, destination: str, address: str, bytes_per_s: float = 2e6
    ) -> None:
        self.progress = Progress()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._interval_s = len(_PATTERN) / bytes_per_s
        self._open = threading.Event()
        self._listener = lab.inside(destination, lambda: socket.socket(family))
        self.sender = lab.inside(source, lambda: socket.socket(family))
        self._listener.bind((address, 0))
        self._listener.listen()
        self._listener.settimeout(_END_S)
        self._address = self._listener.getsockname()
        self._threads = [
            threading.Thread(target=self._receive, name="flow receiver"),
            threading.Thread(target=self._send, name="flow sender"),
        ]

    def __enter__(self) -> Progress:
        self._open.set()
        self.sender.settimeout(_END_S)
        for thread in self._threads:
            thread.start()
        return self.progress

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.clear()
        for thread in reversed(self._threads):
            thread.join()
        self._listener.close()

    def _send(self) -> None:
        with self.sender:
            try:
                self.sender.connect(self._address)
                self.sender.settimeout(60.0)
                while self._open.is_set():
                    began = time.monotonic()
                    self.sender.sendall(_PATTERN)
                    time.sleep(max(0.0, began + self._interval_s - time.monotonic()))
            except OSError as error:
                self.progress.failure = f"sending: {error}"

    def _receive(self) -> None:
        progress = self.progress
        expected = _PATTERN + _PATTERN
        with contextlib.ExitStack() as stack:
            try:
                connection, _ = self._listener.accept()
                stack.enter_context(connection)
                connection.settimeout(60.0)
                while part := connection.recv(_RECEIVE_BYTES):
                    now = time.monotonic()
                    if not progress.arrivals or now - progress.arrivals[-1] >= 0.001:
                        progress.arrivals.append(now)
                    at = progress.bytes_received % len(_PATTERN)
                    if part != expected[at : at + len(part)]:
                        progress.damaged = True
                    progress.bytes_received += len(part)
            except OSError as error:
                progress.failure = f"receiving: {error}"

"""Garbage is refused by the kernel, while there is much of it.

A datagram under an index that nobody has costs us a microsecond or three, and its place in the
socket's queue, which it takes from a peer's. At some ten thousand per second that is felt. So
while so many come, the sockets have a filter (classic BPF) that knows our indexes and drops all
else before it is queued. It goes again when the flood is over, so nothing is between us and a
peer in ordinary times.

The kernel counts what the filter drops together with what does not fit the queue; while the
filter is there, we take all of it for refused datagrams.
"""

import ctypes
import socket
from collections.abc import Callable, Iterable, Sequence
from struct import Struct

FLOOD_PER_S = 5_000.0
"""Datagrams under unknown indexes: more than that, and the filter comes."""

CALM_PER_S = 500.0
"""Fewer than that refused by the filter, and it goes."""

CALM_S = 5.0
CHECK_S = 0.25
"""Between two looks at the counters."""

MAX_INDEXES = 1_000
"""What fits a filter; with more sessions than that there is none, and all goes on as without."""

_INDEX_AT = 8 + 1
"""After the UDP header, which the filter sees too, and the record's type."""

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_ACCEPT = 0xFFFFFFFF
_instruction = Struct("HBBI")
_program = Struct("HL")


class Shield:
    """`check` is to be called when `check_at` has come."""

    def __init__(
        self,
        sockets: Callable[[], Iterable[socket.socket]],
        kernel_drops: Callable[[], int],
        indexes: Callable[[], Iterable[int]],
    ) -> None:
        """`kernel_drops`: what the sockets did not take, as the kernel counts it."""
        self.up = False
        self._sockets = sockets
        self._kernel_drops = kernel_drops
        self._indexes = indexes
        self._refused = 0
        """By the filter, in earlier times when it was there."""
        self._drops_before = 0
        """The kernel's count when the filter came, or when it was last looked at."""
        self._unknown_before = 0
        self._checked_at = 0.0
        self.check_at = 0.0
        self._calm_since = 0.0

    @property
    def refused(self) -> int:
        return self._refused + (self._kernel_drops() - self._drops_before if self.up else 0)

    def check(self, unknown: int, now: float) -> None:
        """`unknown` counts the datagrams under unknown indexes that we had to look at."""
        passed_s = max(CHECK_S, now - self._checked_at)
        self.check_at = now + CHECK_S
        rate = (unknown - self._unknown_before) / passed_s
        self._unknown_before, self._checked_at = unknown, now
        if not self.up:
            if rate >= FLOOD_PER_S:
                self._raise(now)
            return
        drops = self._kernel_drops()
        refused, self._drops_before = drops - self._drops_before, drops
        self._refused += refused
        if refused / passed_s >= CALM_PER_S:
            self._calm_since = now
        elif now - self._calm_since >= CALM_S:
            self._lower()

    def handle_indexes_changed(self) -> None:
        """There is a new epoch or an old one went: at once, before the peer uses it."""
        if self.up and not self._attach():
            self._lower()

    def _raise(self, now: float) -> None:
        self._drops_before = self._kernel_drops()
        self._calm_since = now
        if self._attach():
            self.up = True
        else:
            self._detach()

    def _lower(self) -> None:
        self._refused = self.refused
        self.up = False
        self._detach()

    def _attach(self) -> bool:
        program = filter_for(sorted(self._indexes()))
        if program is None:
            return False
        code = ctypes.create_string_buffer(program, len(program))
        described = _program.pack(len(program) // _instruction.size, ctypes.addressof(code))
        try:
            for udp in self._sockets():
                udp.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
        except OSError:
            return False
        return True

    def _detach(self) -> None:
        for udp in self._sockets():
            try:
                udp.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            except OSError:
                continue  # it had none


def filter_for(indexes: Sequence[int]) -> bytes | None:
    """A program that lets datagrams under these indexes pass; None if there are too many."""
    if len(indexes) > MAX_INDEXES:
        return None
    code = [_instruction.pack(_LOAD_WORD, 0, 0, _INDEX_AT)]
    for index in indexes:
        # Equal: on to the next instruction, which accepts. Else: over it.
        code.append(_instruction.pack(_JUMP_IF_EQUAL, 0, 1, index))
        code.append(_instruction.pack(_RETURN, 0, 0, _ACCEPT))
    code.append(_instruction.pack(_RETURN, 0, 0, 0))
    return b"".join(code)

"""Floods from strangers are refused by the kernel, while they last.

A datagram under an index that nobody has, or one that was recorded and is sent again, costs us a
microsecond or ten, and its place in the socket's queue, which it takes from a peer's. At some ten
thousand per second that is felt. So while so many come, the sockets have a filter (classic BPF)
that knows our indexes and where their peers are, and drops all else before it is queued. It goes
again when the flood is over, so nothing is between us and a peer in ordinary times.

A peer may be at a new address just then. So of what comes under an index of ours from elsewhere,
one in `SAMPLED` passes, by chance: the first of these that is genuine tells us where the peer
is now. Whoever can send from a peer's address gets his replays as far as our replay window.

The kernel counts what the filter drops together with what does not fit the queue; while the
filter is there, we take all of it for refused datagrams.
"""

import ctypes
import socket
from collections.abc import Callable, Iterable, Sequence
from struct import Struct

FLOOD_PER_S = 5_000.0
"""Datagrams under unknown indexes, and replays: more than that, and the filter comes. What did not
fit the sockets' queues counts as well, if we saw `SEEN_PER_S` of it: then it is of the same kind,
and we are too slow to look at more."""

SEEN_PER_S = FLOOD_PER_S / 10

CALM_PER_S = 500.0
"""Fewer than that refused by the filter, and it goes."""

CALM_S = 5.0
CHECK_S = 0.25
"""Between two looks at the counters."""

SAMPLED = 32
"""A power of two."""

MAX_INDEXES = 800
"""What fits a filter of 4,096 instructions; with more sessions than that there is none, and all
goes on as without."""

_INDEX_AT = 8 + 1
"""After the UDP header, which the filter sees too, and the record's type."""

_NETWORK_HEADER = -0x100000 & 0xFFFFFFFF
_IPV4_SOURCE_AT = _NETWORK_HEADER + 12
_IPV6_SOURCE_AT = _NETWORK_HEADER + 8 + 12
"""Its last 32 bits, which are enough to tell a stranger's address from a peer's."""
_RANDOM_AT = -0x1000 + 56 & 0xFFFFFFFF

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP = 0x05
_AND = 0x54
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
        peers: Callable[[], Iterable[tuple[int, str]]],
    ) -> None:
        """`kernel_drops`: what the sockets did not take, as the kernel counts it.

        `peers`: each of our indexes, and the IP address of the peer that may use it.
        """
        self.up = False
        self._sockets = sockets
        self._kernel_drops = kernel_drops
        self._peers = peers
        self._refused = 0
        """By the filter, in earlier times when it was there."""
        self._drops_before = 0
        """The kernel's count when it was last looked at."""
        self._unwanted_before = 0
        self._checked_at = 0.0
        self.check_at = 0.0
        self._calm_since = 0.0

    @property
    def refused(self) -> int:
        return self._refused + (self._kernel_drops() - self._drops_before if self.up else 0)

    def check(self, unwanted: int, now: float) -> None:
        """`unwanted` counts unknown indexes and replays that we had to look at ourselves."""
        passed_s = max(CHECK_S, now - self._checked_at)
        self.check_at = now + CHECK_S
        seen = unwanted - self._unwanted_before
        self._unwanted_before, self._checked_at = unwanted, now
        drops = self._kernel_drops()
        refused, self._drops_before = drops - self._drops_before, drops
        if not self.up:
            if seen >= SEEN_PER_S * passed_s and seen + refused >= FLOOD_PER_S * passed_s:
                self._raise(now)
            return
        self._refused += refused
        if refused / passed_s >= CALM_PER_S:
            self._calm_since = now
        elif now - self._calm_since >= CALM_S:
            self._lower()

    def handle_peers_changed(self) -> None:
        """A new epoch, an old one less, another address: at once, before the peer uses it."""
        if self.up and not self._attach():
            self._lower()

    def _raise(self, now: float) -> None:
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
        peers = sorted(self._peers())
        for udp in self._sockets():
            program = filter_for(peers, udp.family)
            if program is None:
                return False
            code = ctypes.create_string_buffer(program, len(program))
            described = _program.pack(len(program) // _instruction.size, ctypes.addressof(code))
            try:
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


def filter_for(peers: Sequence[tuple[int, str]], family: int) -> bytes | None:
    """A program for sockets of this family; None if there are too many indexes."""
    if len(peers) > MAX_INDEXES:
        return None
    source_at = _IPV6_SOURCE_AT if family == socket.AF_INET6 else _IPV4_SOURCE_AT
    code = [_instruction.pack(_LOAD_WORD, 0, 0, _INDEX_AT)]
    for number, (index, address) in enumerate(peers):
        source = _last_word(address, family)
        to_sample = 5 * (len(peers) - number - 1) + 1
        code += (
            _instruction.pack(_JUMP_IF_EQUAL, 0, 4, index),  # else on to the next index
            _instruction.pack(_LOAD_WORD, 0, 0, source_at),
            _instruction.pack(_JUMP_IF_EQUAL, 0, 1, source or 0),
            _instruction.pack(_RETURN, 0, 0, 0 if source is None else _ACCEPT),
            _instruction.pack(_JUMP, 0, 0, to_sample),
        )
    code += (
        _instruction.pack(_RETURN, 0, 0, 0),
        _instruction.pack(_LOAD_WORD, 0, 0, _RANDOM_AT),
        _instruction.pack(_AND, 0, 0, SAMPLED - 1),
        _instruction.pack(_JUMP_IF_EQUAL, 0, 1, 0),
        _instruction.pack(_RETURN, 0, 0, _ACCEPT),
        _instruction.pack(_RETURN, 0, 0, 0),
    )
    return b"".join(code)


def _last_word(address: str, family: int) -> int | None:
    """None if a socket of this family cannot hear from there."""
    try:
        packed = socket.inet_pton(family, address.partition("%")[0])
    except OSError:
        return None
    return int.from_bytes(packed[-4:], "big")

"""Who reaches whom, with real packets: TCP, UDP, SCTP and ICMP between network namespaces.

A socket belongs to the namespace in which it was made, whoever uses it then. So one thread has all
listeners and all clients, and a whole table of cells is tried at once.
"""

import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from weavepy.lab.system import in_namespace

AGAIN_S = 0.4
"""Datagrams are sent again until something comes back."""
QUIET_S = 0.6
"""Nothing more can be expected after this; what passes takes milliseconds."""
TIMEOUT_S = 8.0
"""For what is expected to pass, on a busy machine."""

PROTOCOL_NUMBERS = {"TCP": socket.IPPROTO_TCP, "SCTP": socket.IPPROTO_SCTP}


@dataclass(frozen=True)
class Cell:
    source: str
    """A namespace."""
    destination: str
    """An address."""
    protocol: str
    port: int | None = None


@dataclass
class _Try:
    cell: Cell
    socket: socket.socket
    identity: int
    passed: bool = False
    sent: float = field(default=-1e9)


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


class Reach:
    """Listeners in these namespaces on these ports; `table` tries cells."""

    def __init__(self, namespaces: Iterable[str], ports: Iterable[int], sctp: bool = False) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._identity = 0
        for namespace in namespaces:
            for port in ports:
                for protocol in ("TCP", "SCTP") if sctp else ("TCP",):
                    self._listen(namespace, protocol, port)
                answerer = self._make(namespace, socket.AF_INET6, socket.SOCK_DGRAM, 0)
                answerer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                answerer.bind(("::", port))
                self._register(answerer, self._answer)

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        self._selector.close()

    def table(self, cells: Iterable[Cell], expected: Collection[Cell] = ()) -> set[Cell]:
        """Which of them answer. What is expected to is given more time, the others `QUIET_S`."""
        tries = [self._try(cell) for cell in cells]
        waited_for = [one for one in tries if one.cell in expected]
        began = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                late = all(one.passed for one in waited_for) and now - began > QUIET_S
                if late or now - began > TIMEOUT_S or all(one.passed for one in tries):
                    return {one.cell for one in tries if one.passed}
                for one in tries:
                    if not one.passed and now - one.sent > AGAIN_S:
                        self._send(one)
                        one.sent = now
                for key, _ in self._selector.select(0.05):
                    key.data(key.fileobj)
        finally:
            for one in tries:
                self._forget(one.socket)

    # --- those who answer ------------------------------------------------------------------------

    def _listen(self, namespace: str, protocol: str, port: int) -> None:
        number = PROTOCOL_NUMBERS[protocol]
        listener = self._make(namespace, socket.AF_INET6, socket.SOCK_STREAM, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", port))
        listener.listen(256)
        self._register(listener, _accept)

    def _answer(self, answerer: socket.socket) -> None:
        try:
            _, sender = answerer.recvfrom(100)
            answerer.sendto(b"!", sender)
        except OSError:
            return

    # --- those who ask ---------------------------------------------------------------------------

    def _try(self, cell: Cell) -> _Try:
        family = socket.AF_INET6 if ":" in cell.destination else socket.AF_INET
        match cell.protocol:
            case "TCP" | "SCTP":
                kind, number = socket.SOCK_STREAM, PROTOCOL_NUMBERS[cell.protocol]
            case "UDP":
                kind, number = socket.SOCK_DGRAM, 0
            case _:
                six = family == socket.AF_INET6
                kind = socket.SOCK_RAW
                number = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        made = self._make(cell.source, family, kind, number)
        self._identity += 1
        one = _Try(cell, made, self._identity % 65536)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            code = made.connect_ex((cell.destination, cell.port))
            assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
            self._selector.register(made, selectors.EVENT_WRITE, lambda made: self._opened(one))
        else:
            self._register(made, lambda made: _heard(one))
        return one

    def _send(self, one: _Try) -> None:
        cell = one.cell
        if cell.protocol == "UDP":
            _quietly(lambda: one.socket.sendto(b"?", (cell.destination, cell.port)))
        elif cell.protocol == "ICMP":
            six = ip_address(cell.destination).version == 6
            plain = struct.pack(">BBHHH", 128 if six else 8, 0, 0, one.identity, 1)
            echo = plain[:2] + struct.pack(">H", _checksum(plain)) + plain[4:]
            _quietly(lambda: one.socket.sendto(echo, (cell.destination, 0)))

    def _opened(self, one: _Try) -> None:
        one.passed = one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        self._selector.unregister(one.socket)

    # --- sockets ---------------------------------------------------------------------------------

    def _make(self, namespace: str, family: int, kind: int, number: int) -> socket.socket:
        made = in_namespace(namespace, lambda: socket.socket(family, kind, number))
        made.setblocking(False)
        self._sockets.append(made)
        return made

    def _register(self, made: socket.socket, on_readable: Callable[[socket.socket], None]) -> None:
        self._selector.register(made, selectors.EVENT_READ, on_readable)

    def _forget(self, made: socket.socket) -> None:
        if made in self._selector.get_map():
            self._selector.unregister(made)
        self._sockets.remove(made)
        made.close()


def _accept(listener: socket.socket) -> None:
    try:
        listener.accept()[0].close()
    except OSError:
        return


def _heard(one: _Try) -> None:
    try:
        heard = one.socket.recv(200)
    except OSError:
        return
    if one.cell.protocol == "UDP":
        one.passed = True
        return
    if ":" not in one.cell.destination:
        heard = heard[(heard[0] & 15) * 4 :]
    if heard[0] in (0, 129) and heard[4:6] == struct.pack(">H", one.identity):
        one.passed = True


def _quietly(send: Callable[[], object]) -> None:
    """A socket may hear of an earlier datagram's fate when the next one is sent."""
    try:
        send()
    except OSError:
        return


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF

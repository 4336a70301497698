"""What containers really have, looked at from outside: in their namespaces, and by ARP.

No router is asked. `Inspector` looks all the time for one address in two namespaces that live,
and `ask_arp` lets one container ask for addresses and counts who answers.
"""

import array
import fcntl
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import TracebackType

from tests.e2e.traffic import INTERFACE
from weavepy.lab.lab import Lab
from weavepy.lab.system import LabError, in_namespace, list_namespaces

LOOK_INTERVAL_S = 0.1
QUIET_S = 1.0
"""An answer to ARP takes milliseconds, so whoever is silent for so long has nothing to say."""

_SIOCGIFCONF = 0x8912
_ROW_BYTES = 40
_MAX_ROWS = 64
_ETH_P_ARP = 0x0806
_ARP_REPLY = 2


def container_namespaces(lab: Lab) -> list[str]:
    pattern = re.compile(re.escape(f"weavepy-{lab.name}-") + r"h[0-9]+c[0-9]+")
    return [name for name in list_namespaces() if pattern.fullmatch(name)]


def addresses_in(namespace: str) -> set[str]:
    """All IPv4 addresses of a namespace but the loopback's; none if there is no such namespace."""
    try:
        rows = in_namespace(namespace, _interface_addresses)
    except LabError:
        return set()
    return {address for address in rows if not address.startswith("127.")}


def _interface_addresses() -> list[str]:
    """One call of the kernel, see netdevice(7); labels of secondary addresses come as well."""
    rows = array.array("B", bytes(_ROW_BYTES * _MAX_ROWS))
    request = bytearray(struct.pack("iP", len(rows), rows.buffer_info()[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made.fileno(), _SIOCGIFCONF, request)
    used = struct.unpack_from("i", request)[0]
    return [
        socket.inet_ntoa(rows[at + 20 : at + 24].tobytes()) for at in range(0, used, _ROW_BYTES)
    ]


class Inspector:
    """While open, looks for addresses that two containers have at the same time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.looks = 0
        self.most_containers = 0
        self.seen: set[str] = set()
        """Every address that any container ever had."""
        self.duplicates: list[str] = []
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="inspector")

    def __enter__(self) -> "Inspector":
        self._open.set()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.clear()
        self._thread.join()

    def look(self) -> dict[str, set[str]]:
        """Return the addresses of all containers that have one."""
        found = {name: addresses_in(name) for name in container_namespaces(self._lab)}
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for namespace, addresses in found.items():
            for address in addresses:
                holders[address].append(namespace)
        for address, namespaces in holders.items():
            if len(namespaces) > 1 and _at_once(address, namespaces):
                self.duplicates.append(f"{address} on {' and '.join(namespaces)}")
        self.looks += 1
        self.seen |= set(holders)
        attached = {name: addresses for name, addresses in found.items() if addresses}
        self.most_containers = max(self.most_containers, len(attached))
        return attached

    def _watch(self) -> None:
        while self._open.is_set():
            self.look()
            time.sleep(LOOK_INTERVAL_S)


def _at_once(address: str, namespaces: Sequence[str]) -> bool:
    """A look takes a while; who has the address before and after another had it has it as well."""
    first, *others = namespaces
    before = address in addresses_in(first)
    meanwhile = any(address in addresses_in(other) for other in others)
    return before and meanwhile and address in addresses_in(first)


def ask_arp(namespace: str, addresses: Iterable[str]) -> dict[str, list[str]]:
    """Ask for each address from this container, once; returns the MACs of all that answered.

    Nobody answers for the container's own address: ask for it from another.
    """
    own = sorted(addresses_in(namespace))[0]
    made = in_namespace(namespace, _arp_socket)
    answers: dict[str, list[str]] = {address: [] for address in addresses}
    with made:
        mac = made.getsockname()[4]
        for address in answers:
            request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + socket.inet_aton(own)
            request += bytes(6) + socket.inet_aton(address)
            made.send(b"\xff" * 6 + mac + struct.pack("!H", _ETH_P_ARP) + request)
        made.settimeout(QUIET_S)
        while True:
            try:
                frame, sender = made.recvfrom(2048)
            except TimeoutError:
                return answers
            operation = struct.unpack_from("!H", frame, 20)[0]
            if operation == _ARP_REPLY and sender[2] != socket.PACKET_OUTGOING:
                answers.setdefault(socket.inet_ntoa(frame[28:32]), []).append(frame[22:28].hex(":"))


def _arp_socket() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((INTERFACE, _ETH_P_ARP))
    return made

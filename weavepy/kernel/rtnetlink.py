"""Links, addresses and routes by rtnetlink itself (linux/rtnetlink.h): what pods wait for.

An operation is one message there and one back, and 30 µs, where pyroute2 takes a millisecond: it
runs an event loop per call and makes objects of every attribute (`netlink.py`, which stays for what
is done seldom). A message's body is a structure that its type fixes, then attributes, of which only
those are written or read that somebody here wants.

What the kernel refuses is an `OSError`; `explained` says what was being done.
"""

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from types import TracebackType

from weavepy.kernel.messages import CREATE, EXCLUSIVE, ask, attribute, attributes, change, dump
from weavepy.kernel.netlink import (
    IFA_F_NODAD,
    IFF_LOOPBACK,
    IFF_UP,
    SCOPE_LINK,
    IpAddress,
    IpInterface,
    Link,
)

IpNetwork = IPv4Network | IPv6Network

BRIDGE_FORWARD_DELAY, BRIDGE_STP, BRIDGE_SNOOPING = 1, 5, 23
PORT_HAIRPIN, PORT_ISOLATED = 4, 33
"""What can be set of a bridge, and of a port of one."""

MAIN_TABLE = 254

DELLINK = 17
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
_GETNSID = 90

_LINK = struct.Struct("=BxHiII")
"""ifinfomsg: family, device type, index, flags, which of the flags are meant."""
_ADDRESS = struct.Struct("=BBBBi")
"""ifaddrmsg: family, prefix length, flags, scope, index."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags."""
_NUMBER = struct.Struct("=I")
_ID = struct.Struct("=i")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 3, 4, 10, 16
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 18, 20, 28
_IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 29, 37
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_WITHOUT_STATISTICS = attribute(_IFLA_EXT_MASK, _NUMBER.pack(1 << 3))
_UP = b"\6"

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 8, 15
_RTAX_MTU = 2
_BY_STATIC, _UNICAST = 4, 1
_NETNSA_NSID, _NETNSA_FD = 1, 3

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Entry:
    """One route, as the kernel has it."""

    destination: IpNetwork
    gateway: IpAddress | None
    index: int
    """Of the interface; 0 if there is none, or several."""
    table: int
    mtu_bytes: int
    """0 if that is the interface's."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """One address, as the kernel has it."""

    interface: IpInterface
    index: int
    scope: int
    flags: int


class Rtnetlink:
    """A connection to the network namespace of the thread that makes it; any thread may use it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    def __enter__(self) -> "Rtnetlink":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    # --- links -----------------------------------------------------------------------------------

    def find_link(self, name: str) -> Link | None:
        """None also for what cannot be a name."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _WITHOUT_STATISTICS
        try:
            return _link(ask(self._socket, _GETLINK, body))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
                return None
            raise

    def links(self) -> list[Link]:
        body = _LINK.pack(0, 0, 0, 0, 0) + _WITHOUT_STATISTICS
        return [_link(content) for content in dump(self._socket, _GETLINK, body)]

    def make_bridge(self, name: str, mac: str) -> None:
        kind = attribute(_INFO_KIND, b"bridge")
        self._make(_text(_IFLA_IFNAME, name) + _mac(mac) + attribute(_IFLA_LINKINFO, kind))

    def make_veth(
        self, name: str, mtu_bytes: int, *, peer: str, peer_mac: str, peer_namespace: int
    ) -> None:
        """The peer appears in the namespace of this descriptor, as it shall be, but down."""
        inner = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, peer) + _mac(peer_mac)
        inner += _number(_IFLA_MTU, mtu_bytes) + _number(_IFLA_NET_NS_FD, peer_namespace)
        data = attribute(_INFO_DATA, attribute(_VETH_INFO_PEER, inner))
        self._make(
            _text(_IFLA_IFNAME, name)
            + _number(_IFLA_MTU, mtu_bytes)
            + attribute(_IFLA_LINKINFO, attribute(_INFO_KIND, b"veth") + data)
        )

    def change_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        master: int | None = None,
        mtu_bytes: int = 0,
        alias: str = "",
    ) -> None:
        """What is given, in one message: the master first, then up or down."""
        content = b""
        if master is not None:
            content += _number(_IFLA_MASTER, master)
        if mtu_bytes:
            content += _number(_IFLA_MTU, mtu_bytes)
        if alias:
            content += attribute(_IFLA_IFALIAS, alias.encode())
        flags = (IFF_UP if up else 0, 0 if up is None else IFF_UP)
        self._change(_NEWLINK, 0, _LINK.pack(0, 0, index, *flags) + content)

    def set_bridge(self, index: int, settings: Mapping[int, int]) -> None:
        data = b"".join(
            attribute(key, bytes([value])) if key == BRIDGE_SNOOPING else _number(key, value)
            for key, value in settings.items()
        )
        content = attribute(_INFO_KIND, b"bridge") + attribute(_INFO_DATA, data)
        self._set_information(index, content)

    def set_port(self, index: int, setting: int, value: int) -> None:
        """Of what is a port of a bridge already."""
        data = attribute(_INFO_SLAVE_DATA, attribute(setting, bytes([value])))
        self._set_information(index, attribute(_INFO_SLAVE_KIND, b"bridge") + data)

    def delete_link(self, index: int) -> bool:
        """False if it was not there. Waits until nobody in the kernel can be using it."""
        return self._change(DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), errno.ENODEV)

    def namespace_id(self, descriptor: int) -> int:
        """By what links here name the namespace of this descriptor; -1 if none leads to it."""
        body = bytes(4) + _number(_NETNSA_FD, descriptor)
        answer = attributes(ask(self._socket, _GETNSID, body)[4:])
        return int(_ID.unpack(answer[_NETNSA_NSID])[0])

    # --- addresses -------------------------------------------------------------------------------

    def addresses(self, index: int) -> list[IpInterface]:
        """Of one interface, without link-local ones: those configured, not those self-assigned."""
        return [
            one.interface
            for one in self.all_addresses()
            if one.index == index and one.scope != SCOPE_LINK
        ]

    def all_addresses(self) -> list[Assigned]:
        body = _ADDRESS.pack(0, 0, 0, 0, 0)
        return [_assigned(content) for content in dump(self._socket, _GETADDR, body)]

    def add_address(self, index: int, address: IpInterface) -> bool:
        """Add it without duplicate address detection; False if it is there already."""
        content = _address(index, address)
        if isinstance(address, IPv6Interface):
            content += _number(_IFA_FLAGS, IFA_F_NODAD)
        elif address.network.prefixlen < 31:
            content += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
        return self._change(_NEWADDR, CREATE | EXCLUSIVE, content, errno.EEXIST)

    def remove_address(self, index: int, address: IpInterface) -> bool:
        """False if it was not there."""
        gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
        return self._change(_DELADDR, 0, _address(index, address), *gone)

    # --- routes ----------------------------------------------------------------------------------

    def routes(self, version: int) -> list[Entry]:
        """Of one IP version, in all tables."""
        body = _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
        return [_entry(content) for content in dump(self._socket, _GETROUTE, body)]

    def route_to(self, address: IpAddress) -> Entry | None:
        """What the kernel would send to it by; None if it would not."""
        body = _ROUTE.pack(_FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        try:
            return _entry(ask(self._socket, _GETROUTE, body + attribute(_RTA_DST, address.packed)))
        except OSError:
            return None

    def add_route(self, destination: IpNetwork, index: int, gateway: IpAddress | None) -> bool:
        """False if there is one to there already."""
        family, scope = _FAMILIES[destination.version], 0 if gateway else SCOPE_LINK
        content = _ROUTE.pack(
            family, destination.prefixlen, 0, 0, MAIN_TABLE, _BY_STATIC, scope, _UNICAST, 0
        )
        content += attribute(_RTA_DST, destination.network_address.packed)
        content += _number(_RTA_OIF, index)
        if gateway:
            content += attribute(_RTA_GATEWAY, gateway.packed)
        return self._change(_NEWROUTE, CREATE | EXCLUSIVE, content, errno.EEXIST)

    # ---------------------------------------------------------------------------------------------

    def _make(self, content: bytes) -> None:
        self._change(_NEWLINK, CREATE | EXCLUSIVE, _LINK.pack(0, 0, 0, 0, 0) + content)

    def _set_information(self, index: int, content: bytes) -> None:
        body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_LINKINFO, content)
        self._change(_NEWLINK, 0, body)

    def _change(self, kind: int, flags: int, body: bytes, *harmless: int) -> bool:
        """False if the kernel refused it for one of these reasons."""
        try:
            change(self._socket, kind, flags, [body])
        except OSError as error:
            if error.errno not in harmless:
                raise
            return False
        return True


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))


def _mac(mac: str) -> bytes:
    return attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _address(index: int, address: IpInterface) -> bytes:
    length, packed = address.network.prefixlen, address.ip.packed
    body = _ADDRESS.pack(_FAMILIES[address.version], length, 0, 0, index)
    return body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _link(content: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(content)
    given = attributes(content[_LINK.size :])
    information = attributes(given.get(_IFLA_LINKINFO, b""))
    peer = given.get(_IFLA_LINK_NETNSID)
    return Link(
        index=index,
        name=_decoded(given[_IFLA_IFNAME]),
        kind=_decoded(information.get(_INFO_KIND, b"")),
        up=bool(flags & IFF_UP),
        loopback=bool(flags & IFF_LOOPBACK),
        mtu_bytes=_NUMBER.unpack(given[_IFLA_MTU])[0],
        mac=given.get(_IFLA_ADDRESS, b"").hex(":"),
        master=_NUMBER.unpack(given.get(_IFLA_MASTER, bytes(4)))[0],
        alias=_decoded(given.get(_IFLA_IFALIAS, b"")),
        peer_namespace_id=_ID.unpack(peer)[0] if peer is not None else None,
        operational=given.get(_IFLA_OPERSTATE) == _UP,
    )


def _assigned(content: bytes) -> Assigned:
    _, length, flags, scope, index = _ADDRESS.unpack_from(content)
    given = attributes(content[_ADDRESS.size :])
    address = ip_address(given.get(_IFA_LOCAL) or given[_IFA_ADDRESS])
    return Assigned(ip_interface((address, length)), index, scope, flags)


def _entry(content: bytes) -> Entry:
    family, length, _, _, table, *_ = _ROUTE.unpack_from(content)
    given = attributes(content[_ROUTE.size :])
    gateway = given.get(_RTA_GATEWAY)
    metrics = attributes(given.get(_RTA_METRICS, b""))
    nowhere = bytes(4 if family == socket.AF_INET else 16)
    return Entry(
        ip_network((given.get(_RTA_DST, nowhere), length)),
        ip_address(gateway) if gateway else None,
        _NUMBER.unpack(given.get(_RTA_OIF, bytes(4)))[0],
        _NUMBER.unpack(given[_RTA_TABLE])[0] if _RTA_TABLE in given else table,
        _NUMBER.unpack(metrics.get(_RTAX_MTU, bytes(4)))[0],
    )


def _decoded(text: bytes) -> str:
    return text.rstrip(b"\0").decode(errors="replace")

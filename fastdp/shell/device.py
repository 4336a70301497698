"""Tunnels' devices as ports of a bridge: reading what there is, making and changing one."""

import errno
import re
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from zlib import crc32

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.core.effects import Tunnel
from fastdp.shell.driver import Traffic
from weavepy.base.names import PeerName, is_peer_name
from weavepy.kernel.messages import attribute, attributes, change, connected, dump
from weavepy.kernel.netlink import IFF_UP, HostError, Link, find_link, set_sysctl

QUIET = {"unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0, "learning": 0}
CARRYING = dict.fromkeys(QUIET, 1)
ISOLATED = {"isolated": 1}

DONT_FRAGMENT = 1

_RTM_GETLINK = 18
_RTM_SETLINK = 19
_NESTED = 0x8000
_IFLA_PROTINFO = 12
_IFLA_BRPORT_FLUSH = 24
_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_IFALIAS = 20
_IFLA_STATS64 = 23
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_VXLAN_ID = 1
_IFLA_VXLAN_GROUP = 2
_IFLA_VXLAN_PORT = 15
_IFLA_VXLAN_GROUP6 = 16
_PORT_FLAGS = {
    "learning": 8,
    "unicast_flood": 9,
    "mcast_flood": 27,
    "bcast_flood": 30,
    "isolated": 33,
}
"""`IFLA_BRPORT_...` and their numbers."""

_INTERFACE = struct.Struct("=BxHiII")
"""Family, type, index, flags, change."""
_STATS64 = struct.Struct("=4Q")
"""Packets received and sent, bytes received and sent, and more."""

_NAME = re.compile(r"w(vx|ov)[0-9a-f]{3}")
"""By the VXLAN driver or by Open vSwitch's; a short id in the end."""


class NotOurs(HostError):
    """What stands in a tunnel's place is someone else's, and is left alone."""


def device_name(short_id: int) -> str:
    return f"wvx{short_id:03x}"


def numeric(host: str) -> IPv4Address | IPv6Address:
    """As packets carry it: an IPv4 address mapped into IPv6 is one of IPv4."""
    address = ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True)
class Device:
    """A tunnel's device as the kernel has it."""

    name: str
    index: int
    mac: bytes
    alias: str
    network_id: int
    remote_host: str
    udp_port: int
    mtu_bytes: int
    up: bool
    master: int
    flags: Mapping[str, int]
    """Of the bridge's port; empty while it is none."""
    traffic: Traffic

    @property
    def carrying(self) -> bool:
        return self.flags.items() >= CARRYING.items()

    @property
    def short_id(self) -> int:
        return int(self.name[3:], 16)

    def owner(self, bridge: str) -> PeerName | None:
        """The peer whose tunnel it is on this bridge."""
        prefix = alias_of(bridge, PeerName(""))
        peer = self.alias.removeprefix(prefix)
        if self.alias.startswith(prefix) and is_peer_name(peer) and _NAME.fullmatch(self.name):
            return PeerName(peer)
        return None

    def is_up_on(self, bridge: Link) -> bool:
        """Whether the bridge still knows what it has learnt behind it."""
        return self.up and self.master == bridge.index

    def is_half_made(self, udp_port: int) -> bool:
        """Whether we were killed while we made it: it was never said to be ours, and never up."""
        ours = _NAME.fullmatch(self.name) and self.udp_port == udp_port
        return bool(ours) and not self.alias and not self.up

    def is_tunnel(self, bridge: str, tunnel: Tunnel, udp_port: int) -> bool:
        """Whether it is the tunnel in all that cannot be changed in place."""
        return (self.alias, self.network_id, self.remote_host, self.udp_port) == (
            alias_of(bridge, tunnel.peer),
            tunnel.network_id,
            str(numeric(tunnel.remote_host)),
            udp_port,
        )


def alias_of(bridge: str, peer: PeerName) -> str:
    return f"weavepy {bridge} {peer}"


def group_of(bridge: str) -> int:
    """The kernel's group of all tunnels of a bridge, by which it removes them at one stroke."""
    return crc32(f"weavepy {bridge}".encode()) & 0x7FFFFFFF


def devices(kind: str = "vxlan") -> list[Device]:
    """All of a kind on this host, whoever made them."""
    wanted = attribute(_IFLA_INFO_KIND, kind.encode())
    request = _INTERFACE.pack(0, 0, 0, 0, 0) + attribute(_IFLA_LINKINFO, wanted)
    with connected() as connection:
        # A kernel which has not loaded the module yet knows no such kind, and lists all links.
        found = (_device(body, kind) for body in dump(connection, _RTM_GETLINK, request))
        return [device for device in found if device is not None]


def make(route: Any, bridge: Link, tunnel: Tunnel, udp_port: int, mtu_bytes: int) -> None:
    """Create it as a port, down. Raises `NotOurs` if something stands in its place."""
    name = device_name(tunnel.short_id)
    address = numeric(tunnel.remote_host)
    remote = {f"vxlan_group{'6' if address.version == 6 else ''}": str(address)}
    try:
        route.link(
            "add",
            ifname=name,
            kind="vxlan",
            master=bridge.index,
            mtu=mtu_bytes,
            group=group_of(bridge.name),
            vxlan_id=tunnel.network_id,
            vxlan_port=udp_port,
            vxlan_learning=0,
            vxlan_df=DONT_FRAGMENT,
            **remote,
        )
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        if find_link(route, name) is None:
            raise NotOurs(
                f"another VXLAN device has network id {tunnel.network_id} at UDP port {udp_port}: "
                "remove it (`ip -d link show type vxlan`)"
            ) from error
        raise not_ours(name) from error
    set_sysctl(f"ipv6/conf/{name}/disable_ipv6", 1)
    route.link("set", ifname=name, ifalias=alias_of(bridge.name, tunnel.peer))


def not_ours(name: str) -> NotOurs:
    return NotOurs(f"the interface {name} is not ours: remove it (`ip link del {name}`)")


def is_isolated(route: Any, index: int) -> bool:
    data = route.link("get", index=index)[0].get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    return bool(data is not None and data.get_attr("IFLA_BRPORT_ISOLATED"))


def set_flags(index: int, flags: Mapping[str, int]) -> None:
    """Of a bridge's port, all at once."""
    values = b"".join(attribute(_PORT_FLAGS[name], bytes((flags[name],))) for name in flags)
    _set_port(index, values)


def flush(index: int) -> None:
    """Forget all that was learnt behind this port."""
    _set_port(index, attribute(_IFLA_BRPORT_FLUSH, b""))


def _set_port(index: int, values: bytes) -> None:
    head = _INTERFACE.pack(socket.AF_BRIDGE, 0, index, 0, 0)
    body = head + attribute(_IFLA_PROTINFO | _NESTED, values)
    with connected() as connection:
        change(connection, _RTM_SETLINK, 0, [body])


def _device(body: bytes, kind: str) -> Device | None:
    """None if it is a link of another kind."""
    _, _, index, up_and_others, _ = _INTERFACE.unpack_from(body)
    found = attributes(body[_INTERFACE.size :])
    information = attributes(found.get(_IFLA_LINKINFO, b""))
    if _text(information.get(_IFLA_INFO_KIND, b"")) != kind:
        return None
    vxlan = attributes(information.get(_IFLA_INFO_DATA, b""))
    port = attributes(information.get(_IFLA_INFO_SLAVE_DATA, b""))
    remote = vxlan.get(_IFLA_VXLAN_GROUP) or vxlan.get(_IFLA_VXLAN_GROUP6)
    counts = _STATS64.unpack_from(found[_IFLA_STATS64])
    return Device(
        name=_text(found[_IFLA_IFNAME]),
        index=index,
        mac=found.get(_IFLA_ADDRESS, b""),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        network_id=_number(vxlan.get(_IFLA_VXLAN_ID)),
        remote_host=str(ip_address(remote)) if remote else "",
        udp_port=int.from_bytes(vxlan.get(_IFLA_VXLAN_PORT, b""), "big"),
        mtu_bytes=_number(found.get(_IFLA_MTU)),
        up=bool(up_and_others & IFF_UP),
        master=_number(found.get(_IFLA_MASTER)),
        flags={name: _number(port.get(kind)) for name, kind in _PORT_FLAGS.items()} if port else {},
        traffic=Traffic(counts[1], counts[0], counts[3], counts[2]),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", sys.byteorder)

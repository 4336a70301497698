"""VXLAN devices as ports of a bridge: reading what there is, making and changing one."""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.core.effects import Tunnel
from fastdp.shell.driver import Traffic
from weavepy.base.names import PeerName, is_peer_name
from weavepy.kernel.netlink import IFF_UP, HostError, dumped, find_link, set_sysctl

QUIET = {"unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0, "learning": 0}
CARRYING = dict.fromkeys(QUIET, 1)
ISOLATED = {"isolated": 1}

DONT_FRAGMENT = 1

_NAME = re.compile(r"wvx[0-9a-f]{3}")


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
    """A VXLAN device as the kernel has it."""

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

    def is_half_made(self, udp_port: int) -> bool:
        """Whether we were killed while we made it: it was not ours yet, and never came up."""
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


def devices(route: Any) -> list[Device]:
    """All VXLAN devices of the host, whoever made them."""
    return [_device(message) for message in dumped(lambda: route.get_links(kind="vxlan"))]


def make(route: Any, bridge: int, tunnel: Tunnel, udp_port: int, mtu_bytes: int) -> Device:
    """Create it as a port, down. Raises `NotOurs` if something stands in its place."""
    name = device_name(tunnel.short_id)
    address = numeric(tunnel.remote_host)
    remote = {f"vxlan_group{'6' if address.version == 6 else ''}": str(address)}
    try:
        route.link(
            "add",
            ifname=name,
            kind="vxlan",
            master=bridge,
            mtu=mtu_bytes,
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
    return _device(route.link("get", ifname=name)[0])


def not_ours(name: str) -> NotOurs:
    return NotOurs(f"the interface {name} is not ours: remove it (`ip link del {name}`)")


def port_flags(route: Any, index: int) -> Mapping[str, int]:
    return _flags(route.link("get", index=index)[0])


def set_flags(route: Any, index: int, flags: Mapping[str, int]) -> None:
    route.brport("set", index=index, **flags)


def flush(route: Any, index: int) -> None:
    """Forget all that was learnt behind this port."""
    route.brport("set", index=index, flush=True)


def _device(message: Any) -> Device:
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    counts = message.get_attr("IFLA_STATS64")
    return Device(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        alias=message.get_attr("IFLA_IFALIAS") or "",
        network_id=data.get_attr("IFLA_VXLAN_ID") or 0,
        remote_host=data.get_attr("IFLA_VXLAN_GROUP") or data.get_attr("IFLA_VXLAN_GROUP6") or "",
        udp_port=data.get_attr("IFLA_VXLAN_PORT") or 0,
        mtu_bytes=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        master=message.get_attr("IFLA_MASTER") or 0,
        flags=_flags(message),
        traffic=Traffic(
            counts["tx_packets"], counts["rx_packets"], counts["tx_bytes"], counts["rx_bytes"]
        ),
    )


def _flags(message: Any) -> dict[str, int]:
    information = message.get_attr("IFLA_LINKINFO")
    data = information.get_attr("IFLA_INFO_SLAVE_DATA") if information else None
    if data is None:
        return {}
    return {flag: data.get_attr(f"IFLA_BRPORT_{flag.upper()}") or 0 for flag in (*QUIET, *ISOLATED)}

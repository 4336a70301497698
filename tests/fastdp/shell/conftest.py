"""Hosts with a bridge each, containers on it, and one underlay that joins them."""

import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fastdp.core.effects import Association, Tunnel, network_id
from fastdp.shell.driver import Arranged
from fastdp.shell.ovs import OvsDriver
from fastdp.shell.vxlan import VxlanDriver
from tests.namespaces import Namespaces, Result, can_make_namespaces, inside, run
from tests.openvswitch import OpenVSwitch
from weavepy.base.names import PeerName

BRIDGE = "weave"
TAP = "weavetap"
MTU_BYTES = 1400
SPI = 0x1000
"""What a host receives by is this and its number."""


class Host:
    """Host n has the short id n, the underlay's addresses .n, and one container, 10.32.0.n."""

    def __init__(self, world: "World", number: int) -> None:
        self.number = number
        self.peer = PeerName(f"00:00:00:00:00:{number:02x}")
        self.address = f"10.0.0.{number}"
        self.address6 = f"fd00:1::{number:x}"
        self.container_address = f"10.32.0.{number}"
        self.namespace = world.add(f"h{number}")
        self.container = world.add(f"c{number}")
        self.driver: VxlanDriver | OvsDriver = VxlanDriver(BRIDGE, TAP)
        self.switch: OpenVSwitch | None = None
        self._world = world

    def seen_by(self, ipv6: bool) -> str:
        return self.address6 if ipv6 else self.address

    def on(self, work: Callable[[], Result]) -> Result:
        if self.switch is not None:
            os.environ["OVS_RUNDIR"] = str(self.switch.directory)
        return self._world.inside(self.namespace, work)

    def with_open_vswitch(self, directory: Path, *, userspace: bool = True) -> "Host":
        """Its daemons, the underlay on its userspace datapath, if so, and the driver for it."""
        self.switch = OpenVSwitch(self.namespace.name, directory)
        self.switch.start()
        if userspace:
            self.switch.take_underlay("eth0")
        self.driver = OvsDriver(BRIDGE, TAP)
        return self

    def tunnel(self, other: "Host", address: str = "", *, encrypted: bool = False) -> Tunnel:
        pair = network_id(self.number, other.number)
        return Tunnel(other.peer, other.number, pair, address or other.address, encrypted)

    def arrange(self, *tunnels: Tunnel, mtu_bytes: int = MTU_BYTES) -> Arranged:
        return self.on(partial(self.driver.arrange, tunnels, mtu_bytes))

    def carry(self, other: "Host", *macs: bytes) -> None:
        self.on(partial(self.driver.carry, other.peer, macs))

    def retire(self, other: "Host", *macs: bytes) -> None:
        self.on(partial(self.driver.retire, other.peer, macs))

    def refused(self) -> dict[str, int]:
        return dict(self.on(self.driver.counters).refused)

    def run(self, command: str) -> str:
        return inside(self.namespace, *command.split())

    def in_container(self, command: str) -> str:
        return inside(self.container, *command.split())

    def flag(self, interface: str, name: str) -> bool:
        """Of the bridge's port."""
        return f" {name} on " in self.run(f"ip -d link show {interface}")

    def fdb(self) -> dict[str, str]:
        """MAC to port, of what the bridge has learnt."""
        found = {}
        for line in self.run(f"bridge fdb show br {BRIDGE} dynamic").splitlines():
            mac, _, port, *rest = line.split()
            if "master" in rest:
                found[mac] = port
        return found

    def container_mac(self) -> bytes:
        text = self.in_container("cat /sys/class/net/ethwe/address")
        return bytes.fromhex(text.strip().replace(":", ""))


class World(Namespaces):
    def __init__(self, mtu_bytes: int = 1500) -> None:
        super().__init__()
        self._underlay = self.add("underlay")
        self._mtu_bytes = mtu_bytes
        inside(self._underlay, "ip", "link", "add", "u", "type", "bridge")
        inside(self._underlay, "ip", "link", "set", "u", "up")

    def host(self, number: int) -> Host:
        """In place of the TAP it has a device with carrier."""
        host = Host(self, number)
        self.plug(host.namespace, f"p{number}", host.address, host.address6)
        for command in (
            "ip link add weave type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            # What the kernel says by itself about IPv6 would be counted with the rest.
            "sysctl -qw net.ipv6.conf.weave.disable_ipv6=1",
            "ip link set weave up",
            f"ip link add vc type veth peer name ethwe netns {host.container.name}",
            "ip link set vc master weave up",
        ):
            host.run(command)
        host.run(f"ip link add {TAP} type veth peer name beyond")
        for name in (TAP, "beyond"):
            host.run(f"sysctl -qw net.ipv6.conf.{name}.disable_ipv6=1")
        host.run("ip link set beyond up")
        host.run(f"ip link set {TAP} master weave up")
        host.in_container("sysctl -qw net.ipv6.conf.ethwe.disable_ipv6=1")
        host.in_container(f"ip link set ethwe mtu {MTU_BYTES} up")
        host.in_container(f"ip addr add {host.container_address}/24 dev ethwe")
        return host

    def hosts(self, count: int) -> list[Host]:
        return [self.host(number) for number in range(1, count + 1)]

    def plug(self, namespace: Path, port: str, address: str, address6: str) -> None:
        """Put a machine on the underlay."""
        mtu = self._mtu_bytes
        for there, command in (
            (namespace, f"link add eth0 type veth peer name {port} netns {self._underlay.name}"),
            (self._underlay, f"link set {port} mtu {mtu} master u up"),
            (namespace, f"addr add {address}/24 dev eth0"),
            (namespace, f"addr add {address6}/64 dev eth0 nodad"),
            (namespace, f"link set eth0 mtu {mtu} up"),
        ):
            run("ip", "-n", there.name, *command.split())


def joined(*hosts: Host, ipv6: bool = False, mtu_bytes: int = MTU_BYTES, esp: bool = False) -> None:
    """Tunnels between all, carrying; in ESP, if so wanted, with keys of the day."""
    keys = {(sender, receiver): secrets.token_bytes(36) for sender in hosts for receiver in hosts}
    for host in hosts:
        for name in (BRIDGE, TAP, "vc"):
            host.run(f"ip link set {name} mtu {mtu_bytes}")
        host.in_container(f"ip link set ethwe mtu {mtu_bytes}")
        if esp:
            host.driver = VxlanDriver(BRIDGE, TAP, esp=True)
        others = [other for other in hosts if other is not host]
        tunnels = [host.tunnel(it, it.seen_by(ipv6), encrypted=esp) for it in others]
        assert host.arrange(*tunnels, mtu_bytes=mtu_bytes).errors == {}
        for other in others:
            if esp:
                ours, theirs = host.seen_by(ipv6), other.seen_by(ipv6)
                for association in (
                    Association(SPI + host.number, keys[other, host], ours, theirs),
                    Association(SPI + other.number, keys[host, other], "", theirs),
                ):
                    add = host.driver.add_association
                    host.on(partial(add, other.number, association))
            host.carry(other)


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    worlds: list[World] = []

    def make(mtu_bytes: int = 1500) -> World:
        worlds.append(World(mtu_bytes))
        return worlds[-1]

    try:
        yield make
    finally:
        for each in worlds:
            each.remove()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()

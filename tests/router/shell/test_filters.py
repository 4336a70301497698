"""A container with raw sockets tries to be someone else; its neighbour listens."""

import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import pytest

from router.shell.announce import announcement, checksum, gratuitous_arp
from router.shell.filters import Filters, Port, link_local
from router.shell.namespaces import run_in_new
from tests.namespaces import ping
from tests.router.shell.conftest import World
from weavepy.kernel.nftables import NftFailed, run_transaction

pytestmark = pytest.mark.root

OWN4, OWN6 = IPv4Address("10.32.0.1"), IPv6Address("fd00::1")
OTHER4, OTHER6 = IPv4Address("10.32.0.7"), IPv6Address("fd00::7")
EVERYONE = b"\xff" * 6
MARKER = b"the end of the test"
TRIES = 5


def ethernet(source: bytes, kind: int, payload: bytes) -> bytes:
    return EVERYONE + source + struct.pack("!H", kind) + payload


def ip4(source: IPv4Address, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    header += source.packed + IPv4Address("255.255.255.255").packed
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ip6(source: IPv6Address, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return header + source.packed + IPv6Address("ff02::1").packed + payload


def udp(source: int, destination: int, payload: bytes = b"x" * 20) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def icmp6(kind: int, target: IPv6Address = OWN6) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0) + target.packed


def arp(operation: int, hardware: bytes, address: IPv4Address) -> bytes:
    start = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return start + hardware + address.packed + bytes(6) + IPv4Address("10.32.0.9").packed


FrameOf = Callable[[bytes], bytes]
"""The container's own MAC to the frame that it sends."""

LOCAL = IPv6Address("fe80::bad")
NOBODY4, NOBODY6 = IPv4Address(0), IPv6Address(0)
STRANGE = bytes.fromhex("02bad0bad000")

FORBIDDEN: dict[str, tuple[str, FrameOf]] = {
    "a MAC that is not its own": (
        "source_mac",
        lambda mac: ethernet(STRANGE, 0x0800, ip4(OWN4, 17, udp(1, 2))),
    ),
    "an IPv4 source that is not its own": (
        "source_address",
        lambda mac: ethernet(mac, 0x0800, ip4(OTHER4, 17, udp(1, 2))),
    ),
    "an IPv6 source that is not its own": (
        "source_address",
        lambda mac: ethernet(mac, 0x86DD, ip6(OTHER6, 17, udp(1, 2))),
    ),
    "a link-local source of another MAC": (
        "source_address",
        lambda mac: ethernet(mac, 0x86DD, ip6(LOCAL, 17, udp(1, 2))),
    ),
    "an ARP request for another address": (
        "arp_sender",
        lambda mac: gratuitous_arp(mac, OTHER4),
    ),
    "an ARP answer with another MAC inside": (
        "arp_sender",
        lambda mac: ethernet(mac, 0x0806, arp(2, STRANGE, OWN4)),
    ),
    "an ARP answer from nobody": (
        "arp_sender",
        lambda mac: ethernet(mac, 0x0806, arp(2, mac, NOBODY4)),
    ),
    "an ARP probe with another MAC inside": (
        "arp_sender",
        lambda mac: ethernet(mac, 0x0806, arp(1, STRANGE, NOBODY4)),
    ),
    "a router advertisement": (
        "router_advertisement",
        lambda mac: ethernet(mac, 0x86DD, ip6(link_local(mac.hex(":")), 58, icmp6(134))),
    ),
    "an ICMPv6 redirect": (
        "router_advertisement",
        lambda mac: ethernet(mac, 0x86DD, ip6(OWN6, 58, icmp6(137))),
    ),
    "a router advertisement behind an extension header": (
        "router_advertisement",
        lambda mac: ethernet(mac, 0x86DD, ip6(OWN6, 60, bytes([58]) + bytes(7) + icmp6(134))),
    ),
    "a neighbour advertisement for another address": (
        "neighbour_advertisement",
        lambda mac: ethernet(mac, 0x86DD, ip6(OWN6, 58, icmp6(136, OTHER6))),
    ),
    "a DHCP answer": (
        "dhcp_server",
        lambda mac: ethernet(mac, 0x0800, ip4(OWN4, 17, udp(67, 68))),
    ),
    "a DHCPv6 answer": (
        "dhcp_server",
        lambda mac: ethernet(mac, 0x86DD, ip6(OWN6, 17, udp(547, 546))),
    ),
    "a DHCP question from nobody": (
        "source_address",
        lambda mac: ethernet(mac, 0x0800, ip4(NOBODY4, 17, udp(68, 67))),
    ),
    "IPv6 traffic from nobody": (
        "source_address",
        lambda mac: ethernet(mac, 0x86DD, ip6(NOBODY6, 17, udp(1, 2))),
    ),
    "a foreign source under a VLAN tag": (
        "other_protocol",
        lambda mac: ethernet(mac, 0x8100, b"\0\0\x08\0" + ip4(OTHER4, 17, udp(1, 2))),
    ),
    "a protocol that is neither ARP nor IP": (
        "other_protocol",
        lambda mac: ethernet(mac, 0x88F7, bytes(46)),
    ),
}

ALLOWED: dict[str, FrameOf] = {
    "its own IPv4 source": lambda mac: ethernet(mac, 0x0800, ip4(OWN4, 17, udp(1, 2))),
    "its own IPv6 source": lambda mac: ethernet(mac, 0x86DD, ip6(OWN6, 17, udp(1, 2))),
    "its own link-local source": lambda mac: ethernet(
        mac, 0x86DD, ip6(link_local(mac.hex(":")), 17, udp(1, 2))
    ),
    "its own ARP announcement": lambda mac: gratuitous_arp(mac, OWN4),
    "an ARP probe": lambda mac: ethernet(mac, 0x0806, arp(1, mac, NOBODY4)),
    "its own neighbour advertisement": lambda mac: announcement(mac.hex(":"), OWN6),
    "a neighbour solicitation from nobody (duplicate address detection)": lambda mac: ethernet(
        mac, 0x86DD, ip6(NOBODY6, 58, icmp6(135))
    ),
    "a DHCPv6 question": lambda mac: ethernet(
        mac, 0x86DD, ip6(link_local(mac.hex(":")), 17, udp(546, 547))
    ),
}


def send_and_watch(world: World, frame_of: FrameOf) -> tuple[bool, dict[str, int]]:
    """Whether the neighbour saw the frame, and what was counted as dropped.

    What was neither is sent again: each processor has one queue for the packets of all veths, and
    it is full while another test floods a network of its own.
    """
    one, two = world.add("c1"), world.add("c2")
    sender = world.attach(one, str(OWN4) + "/12", str(OWN6) + "/64")
    world.attach(two, "10.32.0.2/12", "fd00::2/64")
    before = world.on_host(world.router.dropped)
    mac = bytes.fromhex(sender.mac.replace(":", ""))
    frame = frame_of(mac)
    last = ethernet(mac, 0x0800, ip4(OWN4, 17, udp(1, 2, MARKER)))
    assert frame != last
    with world.inside(two, packet_socket) as wire, world.inside(one, packet_socket) as own:
        for _ in range(TRIES):
            own.send(frame)
            own.send(last)
            seen = passed(wire, frame)
            after = world.on_host(world.router.dropped)
            if seen or after != before:
                break
    return seen, {reason: after[reason] - before[reason] for reason in after}


def passed(wire: socket.socket, frame: bytes) -> bool:
    """Whether it comes, before the last one does or the wire is silent."""
    seen = False
    with contextlib.suppress(TimeoutError):
        while MARKER not in (received := wire.recv(2048)):
            seen |= received[14:] == frame[14:] or received[-20:] == frame[-20:]
    return seen


def packet_socket() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("ethwe", 3))
    wire.settimeout(1)
    return wire


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_container_cannot_send(world: World, name: str) -> None:
    reason, frame_of = FORBIDDEN[name]

    seen, dropped = send_and_watch(world, frame_of)

    assert not seen
    assert dropped[reason] == 1, dropped


@pytest.mark.parametrize("name", ALLOWED)
def test_a_container_can_send(world: World, name: str) -> None:
    seen, dropped = send_and_watch(world, ALLOWED[name])

    assert seen
    assert not any(dropped.values()), dropped


@pytest.mark.parametrize("name", ["an IPv4 source that is not its own", "a router advertisement"])
def test_without_filters_it_would_arrive(world: World, name: str) -> None:
    """So that the checks above can fail."""
    original = world.attach

    def attach_and_flush(*arguments: object, **options: object) -> object:
        facts = original(*arguments, **options)  # type: ignore[arg-type]
        world.on_host(lambda: run_transaction("flush chain bridge weavepy from_container\n"))
        return facts

    world.attach = attach_and_flush  # type: ignore[method-assign, assignment]
    seen, _ = send_and_watch(world, FORBIDDEN[name][1])

    assert seen


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_the_meshs_ports_are_closed_to_containers_and_others_open(
    world: World, kind: socket.SocketKind
) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    address = "10.32.0.100"
    world.on_host(lambda: world.router.expose([ip_interface(f"{address}/12")], False))
    ping(one, address)

    def listen(port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, kind)
        listener.settimeout(5)
        listener.bind((address, port))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener

    def knock(port: int) -> bool:
        with socket.socket(socket.AF_INET, kind) as knocker:
            knocker.settimeout(0.3)
            try:
                knocker.connect((address, port))
                knocker.send(str(port).encode())
            except TimeoutError:
                return False
        return True

    listeners = {port: world.on_host(lambda port=port: listen(port)) for port in PORTS}  # type: ignore[misc]
    try:
        knocked = {port: world.inside(one, lambda port=port: knock(port)) for port in PORTS}  # type: ignore[misc]
        if kind == socket.SOCK_STREAM:
            assert knocked == {6783: False, 6784: False, 6785: True}
        else:
            assert listeners[6785].recv(16) == b"6785"
            for closed in (6783, 6784):
                listeners[closed].setblocking(False)
                with pytest.raises(BlockingIOError):
                    listeners[closed].recv(16)
    finally:
        for listener in listeners.values():
            listener.close()


PORTS = (6783, 6784, 6785)


def test_ports_are_read_back_as_they_were_allowed() -> None:
    addresses = frozenset(map(ip_interface, ("10.32.0.1/12", "fd00::1/64", "64:ff9b::1/96")))
    port = Port("vethw1", "02:00:00:00:00:01", addresses)
    fewer = Port("vethw1", "02:00:00:00:00:01", frozenset([ip_interface("10.32.0.1/24")]))
    other = Port("vethw2", "02:00:00:00:00:02", frozenset())

    def work() -> None:
        filters = Filters("weave")
        filters.allow(port)
        filters.allow(other)
        filters.allow(port)
        assert filters.ports() == {"vethw1": port, "vethw2": other}
        filters.allow(fewer)
        assert filters.ports() == {"vethw1": fewer, "vethw2": other}
        filters.forbid(["vethw1", "never seen"])
        assert filters.ports() == {"vethw2": other}
        filters.remove()
        assert filters.ports() == {}

    run_in_new(work)


def test_a_kernel_without_limits_per_port_costs_the_limit_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = Port("vethw1", "02:00:00:00:00:01", frozenset([ip_interface("10.32.0.1/12")]))
    other = Port("vethw2", "02:00:00:00:00:02", frozenset())

    def work() -> None:
        filters = Filters("weave")
        monkeypatch.setattr("router.shell.filters.STORM_RULE", "no such rule")
        filters.allow(port)
        filters.allow(other)
        assert filters.ports() == {"vethw1": port, "vethw2": other}
        assert caplog.text.count("storms of containers are not limited") == 1
        monkeypatch.undo()
        Filters("weave").install()
        assert "storms" in rules_of("to_groups")
        filters.forbid(["vethw1"])
        assert filters.ports() == {"vethw2": other}
        with pytest.raises(NftFailed):
            filters.allow(Port("a name too long for nft", port.mac, frozenset()))

    run_in_new(work)


def rules_of(chain: str) -> str:
    command = ["nft", "list", "chain", "bridge", "weavepy", chain]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_link_local_address_follows_from_the_mac() -> None:
    assert link_local("02:00:5e:10:00:52") == ip_address("fe80::5eff:fe10:52")

"""Forged VXLAN against real hosts: from strangers, from peers, from containers."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fastdp.core.effects import network_id
from tests.fastdp.shell.conftest import Host, World, joined
from tests.namespaces import inside, ping

pytestmark = pytest.mark.root

MARKER = b"nobody may see this"
ETHERTYPE = 0x88B6
NOTHING = {"from_container": 0, "forged_id": 0, "forged_source": 0}


def vxlan(identifier: int, payload: bytes = MARKER) -> bytes:
    """A datagram that brings a frame for everyone."""
    frame = b"\xff" * 6 + b"\2\0\0\0\0\x66" + ETHERTYPE.to_bytes(2, "big") + payload
    return b"\x08\0\0\0" + identifier.to_bytes(3, "big") + b"\0" + frame.ljust(60, b"\0")


def send(world: World, namespace: Path, address: str, data: bytes, times: int = 1) -> None:
    def work() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(times):
                sender.sendto(data, (address, 6784))

    world.inside(namespace, work)


@contextmanager
def watched(world: World, host: Host) -> Iterator[socket.socket]:
    """What the host's container sees of such frames."""

    def work() -> socket.socket:
        protocol = socket.htons(ETHERTYPE)
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)

    with world.inside(host.container, work) as seen:
        seen.settimeout(5.0)
        yield seen


def assert_only_true_ones(seen: socket.socket, send_true: object) -> None:
    """Nothing forged came in before a frame that may."""
    send_true()  # type: ignore[operator]  # a partial
    assert seen.recv(2000)[14:].startswith(b"true")


def until(host: Host, expected: dict[str, int]) -> None:
    """A datagram is counted a moment after it was sent."""
    give_up_at = time.monotonic() + 5
    while host.refused() != expected and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert host.refused() == expected


@pytest.mark.parametrize("ipv6", [False, True])
def test_only_a_peer_with_its_own_id_gets_in(world: World, ipv6: bool) -> None:
    one, two, three = world.hosts(3)
    joined(one, two, three, ipv6=ipv6)
    stranger = world.add("stranger")
    world.plug(stranger, "p9", "10.0.0.9", "fd00:1::9")
    to = one.address6 if ipv6 else one.address
    pair = network_id(1, 2)
    with watched(world, one) as seen:
        assert one.refused() == NOTHING

        send(world, stranger, to, vxlan(pair), times=3)
        until(one, NOTHING | {"forged_source": 3})
        send(world, three.namespace, to, vxlan(pair), times=2)
        until(one, NOTHING | {"forged_source": 3, "forged_id": 2})
        send(world, two.namespace, to, vxlan(network_id(2, 3)))
        until(one, NOTHING | {"forged_source": 3, "forged_id": 3})
        # Too short to have an id at all.
        send(world, stranger, to, b"\x08\0")
        send(world, two.namespace, to, b"\x08\0")
        until(one, NOTHING | {"forged_source": 4, "forged_id": 4})

        assert_only_true_ones(
            seen, partial(send, world, two.namespace, to, vxlan(pair, b"true" * 10))
        )


def test_a_datagram_in_fragments_is_looked_at_whole(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    with watched(world, one) as seen:
        send(world, two.namespace, one.address, vxlan(network_id(1, 3), MARKER * 200))
        until(one, NOTHING | {"forged_id": 1})

        true = vxlan(network_id(1, 2), b"true" * 10)
        assert_only_true_ones(seen, partial(send, world, two.namespace, one.address, true))


def test_no_container_gets_in(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run("ip addr add 10.32.0.100/24 dev weave")
    for host in (one, two):
        host.in_container("ip route add default via 10.32.0.100")

    pair = vxlan(network_id(1, 2))
    send(world, one.container, "10.32.0.100", pair)
    until(one, NOTHING | {"from_container": 1})
    send(world, one.container, one.address, pair)
    until(one, NOTHING | {"from_container": 2})
    send(world, two.container, "10.32.0.100", pair)  # from the other host, through the tunnel
    until(one, NOTHING | {"from_container": 3})


def test_no_container_reaches_a_peer_behind_the_address_of_its_host(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two)
    one.run("ip addr add 10.32.0.100/24 dev weave")
    one.run("sysctl -qw net.ipv4.ip_forward=1")
    one.in_container("ip route add default via 10.32.0.100")
    one.run("nft add table ip nat")
    one.run("nft add chain ip nat out { type nat hook postrouting priority 100; }")
    one.run("nft add rule ip nat out masquerade")
    ping(one.container, two.address)  # the way out works

    with watched(world, two) as seen:
        send(world, one.container, two.address, vxlan(network_id(1, 2)))

        until(one, NOTHING | {"from_container": 1})
        assert two.refused() == NOTHING
        true = vxlan(network_id(1, 2), b"true" * 10)
        assert_only_true_ones(seen, partial(send, world, one.namespace, two.address, true))


def test_a_peer_that_left_is_a_stranger(world: World) -> None:
    one, two, three = world.hosts(3)
    joined(one, two, three)
    one.arrange(one.tunnel(three))

    send(world, two.namespace, one.address, vxlan(network_id(1, 2)))

    until(one, NOTHING | {"forged_source": 1})


def test_counters_go_on_when_tunnels_come_and_go(world: World) -> None:
    one, two, three = world.hosts(3)
    one.arrange(one.tunnel(two))
    send(world, three.namespace, one.address, vxlan(1))
    until(one, NOTHING | {"forged_source": 1})

    one.arrange(one.tunnel(two), one.tunnel(three))

    assert one.refused() == NOTHING | {"forged_source": 1}


def test_other_tables_are_not_touched(world: World) -> None:
    one, two = world.hosts(2)
    one.run("nft add table inet theirs")
    one.run("nft add set inet theirs things { type ipv4_addr; }")
    before = one.run("nft list ruleset")

    one.arrange(one.tunnel(two))
    one.on(one.driver.remove_all)

    assert one.run("nft list ruleset") == before


def test_a_guard_without_tunnels_is_found_as_left_over(world: World) -> None:
    one = world.host(1)
    assert not one.on(one.driver.left)
    one.arrange()
    assert one.on(one.driver.left)

    one.on(one.driver.remove_all)

    assert not one.on(one.driver.left)
    assert one.run("nft list ruleset") == ""


def test_two_peers_behind_one_address_are_told_apart(world: World) -> None:
    one, two, three = world.hosts(3)
    one.arrange(one.tunnel(two), one.tunnel(three, two.address))

    assert one.arrange(one.tunnel(two), one.tunnel(three, two.address)).errors == {}
    send(world, two.namespace, one.address, vxlan(network_id(1, 2)))
    send(world, two.namespace, one.address, vxlan(network_id(1, 3)))
    send(world, two.namespace, one.address, vxlan(network_id(1, 4)))

    until(one, NOTHING | {"forged_id": 1})
    assert inside(one.namespace, "ip", "-br", "link").count("wvx") == 2

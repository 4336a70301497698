"""Heartbeats through real tunnels."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from fastdp.shell.heartbeat import _FRAMES_PER_TURN, ETHERTYPE, GROUP, HeartbeatSocket
from fastdp.shell.vxlan import OVERHEAD_BYTES
from tests.fastdp.shell.conftest import MTU_BYTES, Host, World
from weavepy.base.names import PeerName

pytestmark = pytest.mark.root

FRAME_BYTES = MTU_BYTES + 14


class End:
    """One host's socket, with what came in."""

    def __init__(self, host: Host) -> None:
        self.heard: asyncio.Queue[tuple[PeerName, bytes]] = asyncio.Queue()
        self.socket = host.on(lambda: HeartbeatSocket(lambda *it: self.heard.put_nowait(it)))

    async def next(self) -> tuple[PeerName, bytes]:
        async with asyncio.timeout(5):
            return await self.heard.get()


Ends = tuple[Host, Host, End, End]


@pytest.fixture
async def ends(world: World) -> AsyncIterator[Ends]:
    async with listening(world) as made:
        yield made


@asynccontextmanager
async def listening(world: World, ipv6: bool = False) -> AsyncIterator[Ends]:
    """Two hosts with a tunnel that is arranged, and their sockets."""
    one, two = world.hosts(2)
    made = End(one), End(two)
    for host, other, end in ((one, two, made[0]), (two, one, made[1])):
        tunnel = host.tunnel(other, other.address6 if ipv6 else "")
        end.socket.set_ports(host.arrange(tunnel).ports)
        end.socket.start()
    yield (one, two, *made)
    for end in made:
        end.socket.close()


async def test_they_pass_a_tunnel_that_carries_nothing_else(ends: Ends) -> None:
    one, two, first, second = ends

    assert first.socket.send(two.peer, b"hello", FRAME_BYTES) == ""
    assert await second.next() == (one.peer, b"hello")
    assert second.socket.send(one.peer, b"and back", FRAME_BYTES) == ""
    assert await first.next() == (two.peer, b"and back")

    traffic = one.on(one.driver.counters).tunnels[two.peer]
    assert (traffic.frames_sent, traffic.frames_received) == (1, 1)
    assert traffic.bytes_sent == MTU_BYTES


async def test_they_pass_a_tunnel_that_carries_and_no_container_sees_them(ends: Ends) -> None:
    one, two, first, second = ends
    for host, other in ((one, two), (two, one)):
        host.carry(other)
    eavesdropper = two._world.inside(
        two.container,
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)),
    )
    with eavesdropper:
        eavesdropper.setblocking(False)

        first.socket.send(two.peer, b"hello", FRAME_BYTES)

        assert await second.next() == (one.peer, b"hello")
        with pytest.raises(BlockingIOError):
            eavesdropper.recv(2000)


async def test_a_frame_too_big_for_the_device_is_told(ends: Ends) -> None:
    _, two, first, _ = ends
    assert first.socket.send(two.peer, b"hello", FRAME_BYTES + 1) == "Message too long"


@pytest.mark.parametrize("ipv6", [False, True])
async def test_one_of_full_size_shows_that_the_path_is_too_small_for_it(
    make_world: Callable[..., World], ipv6: bool
) -> None:
    # In fragments it would pass, and say nothing about what GSO and other hosts can do.
    added = OVERHEAD_BYTES[6 if ipv6 else 4]
    async with listening(make_world(MTU_BYTES + added - 1), ipv6) as (one, two, first, second):
        first.socket.send(two.peer, b"too big", FRAME_BYTES)
        first.socket.send(two.peer, b"fits", FRAME_BYTES - 1)

        assert await second.next() == (one.peer, b"fits")


async def test_without_a_tunnel_there_is_nowhere_to_send(ends: Ends) -> None:
    one, two, first, _ = ends
    assert first.socket.send(one.peer, b"hello", FRAME_BYTES) == "there is no tunnel"

    one.run("ip link del wvx002")
    assert first.socket.send(two.peer, b"hello", FRAME_BYTES) == "No such device"


async def test_a_container_cannot_pose_as_a_peer(ends: Ends) -> None:
    one, two, first, second = ends
    for host, other in ((one, two), (two, one)):
        host.carry(other)
    payload = len(b"forged").to_bytes(2, "big") + b"forged"
    frame = GROUP + one.container_mac() + ETHERTYPE.to_bytes(2, "big") + payload + bytes(50)

    def forge() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.sendto(frame, ("ethwe", ETHERTYPE))

    one._world.inside(one.container, forge)
    two._world.inside(two.container, forge)
    first.socket.send(two.peer, b"true", FRAME_BYTES)
    second.socket.send(one.peer, b"true", FRAME_BYTES)

    assert await second.next() == (one.peer, b"true")
    assert await first.next() == (two.peer, b"true")


async def test_a_flood_is_taken_in_turns(ends: Ends) -> None:
    one, two, first, second = ends
    for _ in range(_FRAMES_PER_TURN):
        first.socket.send(two.peer, b"flood", 64)
    assert [await second.next() for _ in range(_FRAMES_PER_TURN)]

    first.socket.send(two.peer, b"after it", FRAME_BYTES)

    assert await second.next() == (one.peer, b"after it")
    assert second.heard.empty()

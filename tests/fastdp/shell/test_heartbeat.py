"""Heartbeats through real tunnels."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from fastdp.shell.heartbeat import _FRAMES_PER_TURN, HeartbeatSocket
from tests.fastdp.shell.conftest import MTU_BYTES, Host, World
from weavepy.base.marker import ETHERTYPE, GROUP
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


@pytest.fixture
async def ends(world: World) -> AsyncIterator[object]:
    """Two hosts with a tunnel that is arranged, and their sockets."""
    one, two = world.hosts(2)
    made = End(one), End(two)
    for host, other, end in ((one, two, made[0]), (two, one, made[1])):
        end.socket.set_ports(host.arrange(host.tunnel(other)).ports)
        end.socket.start()
    yield (one, two, *made)
    for end in made:
        end.socket.close()


Ends = tuple[Host, Host, End, End]


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

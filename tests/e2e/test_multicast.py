"""Multicast over a chain: full size and more than that, exactly once, at a good rate."""

import socket
import struct
import time
from collections import Counter

import pytest

from tests.e2e.conftest import BOTH_PATHS, MakeLab, path_name
from tests.e2e.waiting import counted
from weavepy.lab.lab import Lab

GROUP = "239.1.2.3"
PORT = 7790
DATAGRAMS = 2_000
RATE = 1_000.0
_SO_RCVBUFFORCE = 33


@pytest.mark.parametrize("size", [1372, 4000], ids=["full size", "in fragments"])
@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
def test_each_member_gets_each_datagram_once(
    make_lab: MakeLab, size: int, options: list[str]
) -> None:
    lab = make_lab(
        hosts=3,
        containers=2,
        topology="chain",
        launch_options=["--no-discovery", *options],
    )
    sender = lab.inside("h1c1", _udp)
    sender.setsockopt(
        socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(lab.address("h1c1"))
    )
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
    members = {name: _member(lab, name) for name in ("h1c2", "h2c1", "h2c2", "h3c1", "h3c2")}
    try:
        began = time.monotonic()
        for number in range(DATAGRAMS):
            # Never faster than this, even if we were held up: the TAP's queue takes 1,000 frames,
            # which is 333 of the larger datagrams, and what we send at once may not exceed that.
            time.sleep(max(0.5 / RATE, began + number / RATE - time.monotonic()))
            sender.sendto(struct.pack("!I", number).ljust(size, b"m"), (GROUP, PORT))
        wrong = {}
        for name, member in members.items():
            counts = _received(member, size)
            unlike = {n: counts[n] for n in range(DATAGRAMS) if counts[n] != 1}
            if unlike:
                wrong[name] = len(unlike), dict(list(unlike.items())[:5])
        drops = {
            host: counted(lab.api(host).status().datapath.drops) for host in ("h1", "h2", "h3")
        }
        assert wrong == {}, drops
    finally:
        for made in (sender, *members.values()):
            made.close()


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _member(lab: Lab, container: str) -> socket.socket:
    made = lab.inside(container, _udp)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 * 1024 * 1024)
    made.bind((GROUP, PORT))
    joining = socket.inet_aton(GROUP) + socket.inet_aton(lab.address(container))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joining)
    made.settimeout(1.0)
    return made


def _received(member: socket.socket, size: int) -> Counter[int]:
    counts: Counter[int] = Counter()
    try:
        while True:
            data = member.recv(65_536)
            assert len(data) == size
            counts[struct.unpack_from("!I", data)[0]] += 1
    except TimeoutError:
        return counts

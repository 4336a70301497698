"""The filter, on real sockets of this machine's loopback."""

import socket
from collections.abc import Iterator

import pytest

from router.sleeve.shield import (
    CALM_S,
    CHECK_S,
    FLOOD_PER_S,
    MAX_INDEXES,
    SAMPLED,
    SEEN_PER_S,
    Shield,
    filter_for,
)
from router.sleeve.udp import queue_drops

OURS, NEW, NOBODYS = 0x01020304, 0xFFFFFFFF, 0x01020305


class Fixture:
    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stranger.connect(self.udp.getsockname())
        self.indexes = [OURS]
        self.peer_address = "127.0.0.1"
        self.now = 1000.0
        self.unknown = 0
        self.shield = Shield(
            lambda: [self.udp],
            lambda: queue_drops(self.udp),
            lambda: [(index, self.peer_address) for index in self.indexes],
        )
        self.shield.check(0, self.now)

    def send(self, index: int, count: int = 1) -> None:
        for _ in range(count):
            self.stranger.send(b"\x01" + index.to_bytes(4, "big") + bytes(40))

    def received(self) -> int:
        count = 0
        while True:
            try:
                self.udp.recv(100)
            except BlockingIOError:
                return count
            count += 1

    def pass_time(self, seconds: float, unknown_per_s: float = 0.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += CHECK_S
            self.unknown += round(unknown_per_s * CHECK_S)
            assert self.now >= self.shield.check_at
            self.shield.check(self.unknown, self.now)


@pytest.fixture
def made() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.udp.close()
    fixture.stranger.close()


def test_in_ordinary_times_there_is_no_filter(made: Fixture) -> None:
    made.pass_time(10, unknown_per_s=FLOOD_PER_S / 2)
    assert not made.shield.up
    made.send(NOBODYS)
    assert made.received() == 1


def test_in_a_flood_only_what_is_ours_gets_into_the_queue(made: Fixture) -> None:
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    assert made.shield.up
    made.send(NOBODYS, 10)
    made.stranger.send(b"")
    made.send(OURS, 3)
    assert made.received() == 3
    assert made.shield.refused == 11


def test_who_is_too_slow_to_see_the_whole_flood_knows_it_by_what_it_loses(made: Fixture) -> None:
    made.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.send(NOBODYS, round(FLOOD_PER_S))
    made.pass_time(CHECK_S)
    assert not made.shield.up, "nothing shows that what was lost was garbage"
    made.send(NOBODYS, round(FLOOD_PER_S))
    made.pass_time(CHECK_S, unknown_per_s=SEEN_PER_S)
    assert made.shield.up


def test_a_new_epoch_is_let_in_at_once_and_an_old_one_no_more(made: Fixture) -> None:
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    made.indexes = [NEW]
    made.shield.handle_peers_changed()
    made.send(NEW)
    made.send(OURS)
    assert made.received() == 1


def test_the_filter_goes_when_the_flood_is_over_and_its_count_stays(made: Fixture) -> None:
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    made.send(NOBODYS, 1000)
    made.pass_time(CHECK_S)
    made.pass_time(CALM_S / 2)
    assert made.shield.up
    made.pass_time(CALM_S)
    assert not made.shield.up
    assert made.shield.refused == 1000
    made.send(NOBODYS)
    assert made.received() == 1
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    made.send(NOBODYS, 10)
    assert made.shield.refused == 1010


def test_in_a_flood_only_a_sample_passes_of_what_comes_from_elsewhere(made: Fixture) -> None:
    made.peer_address = "192.0.2.1"
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    total = 0
    for _ in range(100):
        made.send(OURS, 64)
        total += made.received()
    expected = 6400 / SAMPLED
    assert 0.6 * expected < total < 1.5 * expected
    made.send(NOBODYS, 1000)
    assert made.received() == 0
    made.peer_address = "127.0.0.1"
    made.shield.handle_peers_changed()
    made.send(OURS, 100)
    assert made.received() == 100, "the peer is there now"


def test_over_ipv6_the_filter_knows_the_peer_as_well() -> None:
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        udp.bind(("::1", 0))
        udp.setblocking(False)
        peers = [(NEW, "10.0.0.1"), (OURS, "::1")]
        shield = Shield(lambda: [udp], lambda: queue_drops(udp), lambda: peers)
        shield.check(0, 1000.0)
        shield.check(round(FLOOD_PER_S), 1000.0 + CHECK_S)
        assert shield.up
        for index in (OURS, NOBODYS, OURS):
            sender.sendto(b"\x01" + index.to_bytes(4, "big") + bytes(40), udp.getsockname())
        assert len([udp.recv(100), udp.recv(100)]) == 2
        with pytest.raises(BlockingIOError):
            udp.recv(100)


def test_as_many_indexes_as_are_allowed_fit_the_kernel(made: Fixture) -> None:
    made.indexes = list(range(1, MAX_INDEXES + 1))
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    assert made.shield.up
    made.send(1)
    made.send(MAX_INDEXES)
    made.send(MAX_INDEXES + 1)
    assert made.received() == 2


def test_with_more_sessions_than_that_all_goes_on_without(made: Fixture) -> None:
    made.indexes = list(range(1, MAX_INDEXES + 2))
    assert filter_for([(index, "127.0.0.1") for index in made.indexes], socket.AF_INET) is None
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    assert not made.shield.up
    made.send(NOBODYS)
    assert made.received() == 1

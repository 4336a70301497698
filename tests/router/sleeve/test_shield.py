"""The filter, on real sockets of this machine's loopback."""

import socket
from collections.abc import Iterator

import pytest

from router.sleeve.shield import (
    CALM_S,
    CHECK_S,
    FLOOD_PER_S,
    MAX_INDEXES,
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
        self.now = 1000.0
        self.unknown = 0
        self.shield = Shield(
            lambda: [self.udp], lambda: queue_drops(self.udp), lambda: self.indexes
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


def test_a_new_epoch_is_let_in_at_once_and_an_old_one_no_more(made: Fixture) -> None:
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    made.indexes = [NEW]
    made.shield.handle_indexes_changed()
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
    assert filter_for(made.indexes) is None
    made.pass_time(CHECK_S, unknown_per_s=2 * FLOOD_PER_S)
    assert not made.shield.up
    made.send(NOBODYS)
    assert made.received() == 1

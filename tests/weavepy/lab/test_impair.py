import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.base.errors import UsageError
from weavepy.lab import impair
from weavepy.lab.echo import ping_series
from weavepy.lab.impair import parse_delay, parse_loss, parse_rate
from weavepy.lab.plan import Plan
from weavepy.lab.state import Impairment, ProcessRecord
from weavepy.lab.system import in_namespace, run

UDP_SEGMENT = 103


def test_operators_write_loss_delay_and_rate_as_they_are_used_to() -> None:
    assert [parse_loss(text) for text in ("1%", "0.01", "0", "100%")] == [0.01, 0.01, 0, 1]
    assert [parse_delay(text) for text in ("20ms", "0.5s", "20", "0")] == [20, 500, 20, 0]
    assert [parse_rate(text) for text in ("100mbit", "1gbit", "64kbit", "64000", "0")] == [
        100_000_000,
        1_000_000_000,
        64_000,
        64_000,
        0,
    ]


@pytest.mark.parametrize("text", ["", "x", "-1%", "101%", "1.5", "nan", "1%%"])
def test_a_loss_that_is_no_probability_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_loss(text)


@pytest.mark.parametrize("text", ["", "x", "-1", "3s", "10m", "1h"])
def test_a_delay_that_is_no_time_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_delay(text)


@pytest.mark.parametrize("text", ["", "fast", "1", "63kbit", "-1mbit", "1mbyte"])
def test_a_rate_that_is_none_or_too_low_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


class Line:
    """A link between two hosts without routers, to be spoiled."""

    def __init__(self, plan: Plan, log: Path) -> None:
        self.plan = plan
        self._log = log
        self._relay: ProcessRecord | None = None

    def spoil(self, **wrong: float) -> None:
        wanted = Impairment(**wrong)  # type: ignore[arg-type]  # numbers and booleans by name
        impair.apply(self.plan, self.plan.links[0], wanted)
        impair.stop_relay(self._relay)
        self._relay = None
        if impair.needs_relay(wanted):
            self._relay = impair.start_relay(self.plan, self.plan.links[0], wanted, self._log)

    def stop_relay(self) -> None:
        impair.stop_relay(self._relay)

    def namespace(self, host: int) -> str:
        return self.plan.namespace(self.plan.host_nodes[host - 1])

    def answered(self, count: int = 5) -> int:
        times = ping_series(self.namespace(1), "10.99.0.2", count, 0.002)
        return sum(time is not None for time in times)

    def rtt_ms(self) -> float:
        times = [t for t in ping_series(self.namespace(1), "10.99.0.2", 5, 0.05) if t is not None]
        return min(times)

    def datagrams_arriving(self, size: int, count: int, per_call: int = 1) -> int:
        """Send UDP datagrams, `per_call` of them in one call with UDP_SEGMENT, and count."""
        receiver = in_namespace(self.namespace(2), udp)
        sender = in_namespace(self.namespace(1), udp)
        with receiver, sender:
            receiver.bind(("10.99.0.2", 9))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
            receiver.settimeout(0.5)
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
            for _ in range(count // per_call):
                sender.sendto(bytes(size * per_call), ("10.99.0.2", 9))
            arrived = 0
            try:
                while arrived < count:
                    receiver.recv(65536)
                    arrived += 1
            except TimeoutError:
                pass
            return arrived


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.fixture
def line(built: Callable[..., Plan], tmp_path: Path) -> Iterator[Line]:
    made = Line(built(hosts=2, containers=0), tmp_path / "relay.log")
    yield made
    made.stop_relay()


@needs_root
def test_a_cut_is_silent_and_heals(line: Line) -> None:
    assert line.answered() == 5
    line.spoil(down=True)
    assert line.answered() == 0
    state = run(["ip", "-n", line.namespace(1), "-o", "link", "show", "dev", "u2"])
    assert "LOWER_UP" in state, "the host must not notice"
    line.spoil()
    assert line.answered() == 5


@needs_root
def test_loss_drops_about_its_share_in_each_direction(line: Line) -> None:
    line.spoil(loss=0.5)
    answered = line.answered(400)
    assert 60 <= answered <= 140, "a quarter of 400 there and back: 100, deviation 9"
    line.spoil(loss=0.0)
    assert line.answered(50) == 50


@needs_root
def test_datagrams_of_one_large_send_are_lost_one_by_one(line: Line) -> None:
    assert line.datagrams_arriving(1000, 1000, per_call=50) <= 1000
    line.spoil(loss=0.2)
    arrived = line.datagrams_arriving(1000, 1000, per_call=50)
    assert 730 <= arrived <= 870, "800 expected, deviation 13; whole sends would come by 50"
    assert arrived % 50 != 0 or line.datagrams_arriving(1000, 1000, per_call=50) % 50 != 0


@needs_root
def test_an_mtu_is_a_black_hole_for_what_is_larger_only(line: Line) -> None:
    line.spoil(mtu_bytes=1400)
    assert line.datagrams_arriving(1400 - 28, 20) == 20
    assert line.datagrams_arriving(1401 - 28, 20) == 0
    assert line.datagrams_arriving(1401 - 28, 20, per_call=10) == 0
    line.spoil()
    assert line.datagrams_arriving(1401 - 28, 20) == 20


@needs_root
def test_a_delay_is_added_each_way_and_ends(line: Line) -> None:
    line.spoil(delay_ms=30)
    assert 60 <= line.rtt_ms() < 90
    line.spoil(delay_ms=10)
    assert 20 <= line.rtt_ms() < 50
    line.spoil()
    assert line.rtt_ms() < 10


@needs_root
def test_the_relay_carries_large_sends_whole(line: Line) -> None:
    line.spoil(delay_ms=5)
    assert line.datagrams_arriving(1000, 40, per_call=40) == 40


@needs_root
def test_a_rate_holds_back_what_is_more(line: Line) -> None:
    line.spoil(rate_bits=1_000_000)
    arrived = line.datagrams_arriving(1400 - 28, 400)
    assert arrived < 200, "400 datagrams are 4.5 Mbit; some 40 fit the bucket and its queue"
    line.spoil()
    assert line.datagrams_arriving(1400 - 28, 200) == 200


@needs_root
def test_impairments_combine_with_the_relay_too(line: Line) -> None:
    line.spoil(delay_ms=10, loss=0.5, mtu_bytes=1400)
    assert 60 <= line.answered(400) <= 140
    assert line.datagrams_arriving(1401 - 28, 20) == 0
    line.spoil(delay_ms=10, down=True)
    assert line.answered() == 0
    line.spoil(delay_ms=10)
    assert line.rtt_ms() >= 20


@needs_root
def test_some_packets_come_twice_and_all_of_them_in_another_order(line: Line) -> None:
    line.spoil(duplicate=0.5, reorder=0.5)
    receiver = in_namespace(line.namespace(2), udp)
    sender = in_namespace(line.namespace(1), udp)
    with receiver, sender:
        receiver.bind(("10.99.0.2", 9))
        receiver.settimeout(2.0)
        for number in range(400):
            sender.sendto(number.to_bytes(4, "big"), ("10.99.0.2", 9))
        arrived = []
        try:
            while True:
                arrived.append(int.from_bytes(receiver.recv(100), "big"))
        except TimeoutError:
            pass
    assert set(arrived) == set(range(400))
    assert 540 <= len(arrived) <= 660, "600 expected, deviation 10"
    assert arrived != sorted(arrived)
    line.spoil()
    assert line.answered() == 5

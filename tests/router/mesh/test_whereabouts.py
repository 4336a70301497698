"""Where we say that we can be dialled: the newest first, and not every moment another place."""

from router.mesh.messages import Hello
from router.mesh.records import MAX_ADDRESSES
from router.mesh.targets import Address
from router.mesh.whereabouts import CHANGE_INTERVAL_S, Whereabouts
from weavepy.base.deadline import NEVER
from weavepy.base.names import PeerName

PEERS = [PeerName(f"00:00:00:00:00:0{number}") for number in range(1, 5)]


def host_with(*hosts: str, now: float = 100.0) -> Whereabouts:
    whereabouts = Whereabouts(6783, [])
    whereabouts.handle_own(hosts, now)
    assert whereabouts.take_change(now)
    return whereabouts


def test_what_came_last_is_first_and_then_where_we_were_found() -> None:
    whereabouts = host_with("192.168.0.2")
    whereabouts.handle_hello(PEERS[0], Hello("203.0.113.1", ""))
    whereabouts.handle_hello(PEERS[1], Hello("203.0.113.1", "198.51.100.7:7000"))
    whereabouts.handle_own(["192.168.0.2", "192.0.2.1"], 200.0)
    assert whereabouts.take_change(200.0)
    whereabouts.handle_own(["192.168.0.2", "192.0.2.1", "fd01::1"], 300.0)
    assert whereabouts.take_change(300.0)
    assert whereabouts.addresses() == [
        "[fd01::1]:6783",
        "192.0.2.1:6783",
        "198.51.100.7:7000",
        "192.168.0.2:6783",
        "203.0.113.1:6783",
    ]
    whereabouts.keep(PEERS[:1])
    whereabouts.handle_own(["192.168.0.2"], 400.0)
    assert whereabouts.take_change(400.0)
    assert whereabouts.addresses() == ["192.168.0.2:6783", "203.0.113.1:6783"]


def test_the_first_change_counts_at_once_and_the_next_one_only_after_a_while() -> None:
    whereabouts = host_with("192.0.2.1", now=100.0)
    whereabouts.handle_own(["192.0.2.2"], 101.0)
    assert whereabouts.next_deadline().at == 100.0 + CHANGE_INTERVAL_S
    assert not whereabouts.take_change(101.0)
    assert whereabouts.addresses() == ["192.0.2.1:6783"]

    whereabouts.handle_own(["192.0.2.1"], 102.0)
    assert whereabouts.next_deadline().at == NEVER.at, "it is as it was"

    whereabouts.handle_own(["192.0.2.3"], 103.0)
    assert whereabouts.take_change(105.0)
    assert whereabouts.addresses() == ["192.0.2.3:6783"]
    assert list(whereabouts.own) == [Address("192.0.2.3", 6783)]
    whereabouts.handle_own(["192.0.2.4"], 200.0)
    assert whereabouts.take_change(200.0), "after a quiet time at once again"


def test_addresses_that_lead_nowhere_else_are_not_told_and_the_others_are_bounded() -> None:
    assert host_with("127.0.0.1", "169.254.1.1", "::1", "fe80::1", "224.0.0.1").addresses() == []
    many = host_with(*(f"192.0.2.{number}" for number in range(1, 30)))
    assert len(many.addresses()) == MAX_ADDRESSES
    many.handle_own([*(f"192.0.2.{number}" for number in range(1, 30)), "fd01::1"], 200.0)
    many.take_change(200.0)
    assert many.addresses()[0] == "[fd01::1]:6783"
    assert len(many.addresses()) == MAX_ADDRESSES


def test_what_is_advertised_is_all_that_is_told() -> None:
    whereabouts = Whereabouts(6783, [Address("gateway.example", 7000)])
    whereabouts.handle_own(["192.168.0.2"], 1.0)
    assert whereabouts.take_change(1.0)
    whereabouts.handle_hello(PEERS[0], Hello("203.0.113.1", "203.0.113.1:6783"))
    assert whereabouts.addresses() == ["gateway.example:7000"]
    assert list(whereabouts.own) == [Address("192.168.0.2", 6783)]

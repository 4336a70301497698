"""Addresses to dial: what they may look like, and when their turn comes."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.effects import LinkId
from router.mesh.targets import (
    FIRST_DELAY_S,
    JITTER,
    MAX_DELAY_S,
    MAX_DIALS,
    MAX_REMEMBERED,
    RESET_AFTER_S,
    Address,
    Targets,
    parse_address,
)
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName

US = PeerName("00:00:00:00:00:02")
LOW = PeerName("00:00:00:00:00:01")
HIGH = PeerName("00:00:00:00:00:03")
HOST = Address("host", 1)


def make(connection_limit: int = 10) -> Targets:
    return Targets(US, connection_limit, Random(1))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host", "host", 6783),
        (" Host.Example:7 ", "host.example", 7),
        ("10.0.0.1", "10.0.0.1", 6783),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("::1", "::1", 6783),
        ("[::1]", "::1", 6783),
        ("[fe80::1%eth0]:7", "fe80::1%eth0", 7),
    ],
)
def test_addresses_that_make_sense(text: str, host: str, port: int) -> None:
    assert parse_address(text, 6783) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", " ", ":1", "host:", "host:0", "host:65536", "host:x", "[::1", "::1]", "[host]:1",
     "a b", "host:1:", "[::1]7", "-rf", "http://host", "host:²", "x" * 254],
)  # fmt: skip
def test_addresses_that_make_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text, 6783)


@given(st.text(max_size=30))
def test_any_text_is_an_address_that_reads_back_or_a_usage_error(text: str) -> None:
    try:
        address = parse_address(text, 6783)
    except UsageError:
        return
    assert parse_address(str(address), 1) == address


def test_the_first_attempt_is_at_once_and_the_next_ones_ever_later() -> None:
    targets = make()
    targets.give([HOST], 0.0)
    now, expected = 0.0, FIRST_DELAY_S
    waits = []
    for attempt in range(30):
        assert [target.address for target in targets.due(now)] == [HOST]
        targets.dialling(HOST, LinkId(attempt))
        assert targets.due(now + 1e6) == []
        targets.closed(LinkId(attempt), "refused", now)
        wait = targets.next_deadline().at - now
        assert expected * (1 - JITTER) <= wait <= expected
        waits.append(wait)
        expected = min(MAX_DELAY_S, expected * 1.5)
        assert targets.due(now + wait - 0.001) == []
        now += wait
    assert max(waits) > MAX_DELAY_S * (1 - JITTER)


@pytest.mark.parametrize(("up_s", "at_most"), [(RESET_AFTER_S, 2.0), (1.0, 7.0)])
def test_a_connection_that_lasted_resets_the_delay(up_s: float, at_most: float) -> None:
    targets = make()
    targets.give([HOST], 0.0)
    for attempt in range(3):
        targets.dialling(HOST, LinkId(attempt))
        targets.closed(LinkId(attempt), "refused", 0.0)
    targets.dialling(HOST, LinkId(9))
    targets.connected(LinkId(9), LOW, 0.0)
    targets.closed(LinkId(9), "gone", up_s)
    wait = targets.next_deadline().at - up_s
    assert at_most * (1 - JITTER) <= wait <= at_most


def test_a_target_rests_while_its_peer_is_connected_the_other_way_round() -> None:
    targets = make()
    targets.discover({LOW: [HOST]}, (), 0.0)
    targets.peer_up(LOW)
    assert targets.due(1e6) == []
    assert targets.next_deadline().at == float("inf")
    targets.peer_down(LOW)
    assert len(targets.due(1e6)) == 1


def test_of_two_that_discover_each_other_the_lower_name_dials_first() -> None:
    targets = make()
    targets.discover({LOW: [Address("low", 1)], HIGH: [Address("high", 1)]}, (), 0.0)
    assert [target.address.host for target in targets.due(0.0)] == ["high"]
    assert [target.address.host for target in targets.due(1.0)] == ["low", "high"]


def test_only_one_address_of_a_discovered_peer_is_dialled_at_a_time() -> None:
    targets = make()
    targets.discover({HIGH: [Address("one", 1), Address("two", 1)]}, (), 0.0)
    (first,) = targets.due(0.0)
    targets.dialling(first.address, LinkId(1))
    assert targets.due(100.0) == []
    assert targets.next_deadline().at == float("inf")
    targets.closed(LinkId(1), "refused", 0.0)
    assert len(targets.due(0.0)) == 1


def test_the_connection_limit_holds_back_discovered_targets_only() -> None:
    targets = make(connection_limit=1)
    targets.peer_up(LOW)
    targets.discover({HIGH: [Address("found", 1)]}, (), 0.0)
    targets.give([Address("given", 1)], 0.0)
    assert [target.address.host for target in targets.due(0.0)] == ["given"]
    assert [target.address.host for target in targets if targets.is_suspended(target)] == ["found"]


def test_a_peer_with_enough_connections_of_its_own_is_not_dialled() -> None:
    targets = make()
    targets.discover({HIGH: [HOST]}, (HIGH,), 0.0)
    assert targets.due(10.0) == []
    assert targets.next_deadline().at == float("inf")


def test_dials_under_way_are_bounded() -> None:
    targets = make(connection_limit=1000)
    targets.give([Address(f"h{number}", 1) for number in range(100)], 0.0)
    due = targets.due(0.0)
    assert len(due) == MAX_DIALS
    for number, target in enumerate(due):
        targets.dialling(target.address, LinkId(number))
    assert targets.due(0.0) == []
    assert targets.next_deadline().at == float("inf")


def test_what_worked_is_remembered_when_it_goes_out_of_sight_and_the_rest_dropped() -> None:
    targets = make()
    targets.discover({LOW: [Address("low", 1)], HIGH: [Address("high", 1)]}, (), 0.0)
    targets.peer_up(LOW)
    targets.peer_down(LOW)
    targets.discover({}, (), 1.0)
    assert [(target.address.host, target.origin.value) for target in targets] == [
        ("low", "remembered")
    ]
    assert targets.remembered() == (Address("low", 1),)


def test_what_is_remembered_is_bounded() -> None:
    targets = make()
    targets.remember([Address(f"h{number}", 1) for number in range(1000)], 0.0)
    targets.discover({}, (), 0.0)
    assert len(targets) == MAX_REMEMBERED
    assert len(targets.remembered()) == MAX_REMEMBERED


def test_an_address_of_ourself_is_not_discovered_again_but_may_be_given() -> None:
    targets = make()
    targets.give([HOST], 0.0)
    targets.is_ourself(HOST)
    targets.discover({LOW: [HOST]}, (), 0.0)
    assert len(targets) == 0
    targets.give([HOST], 0.0)
    assert len(targets) == 1


def test_forgetting_returns_the_attempt_under_way_but_no_connection() -> None:
    targets = make()
    targets.give([HOST, Address("up", 1)], 0.0)
    targets.dialling(HOST, LinkId(1))
    targets.dialling(Address("up", 1), LinkId(2))
    targets.connected(LinkId(2), LOW, 0.0)
    assert targets.forget([HOST, Address("up", 1), Address("unknown", 1)]) == [LinkId(1)]


def attempt(targets: Targets, address: Address, link: int, now: float) -> None:
    """One that fails."""
    targets.dialling(address, LinkId(link))
    targets.closed(LinkId(link), "refused", now)


def test_a_peer_that_says_a_new_address_is_dialled_there_first_and_at_once() -> None:
    old, new = Address("old", 1), Address("new", 1)
    targets = make()
    targets.discover({HIGH: [old]}, [], 0.0)
    for number in range(10):
        attempt(targets, old, number + 1, 100.0)
    assert targets.next_deadline().at > 100.0 + 10 * FIRST_DELAY_S

    targets.discover({HIGH: [old, new]}, [], 1000.0)
    assert [target.address for target in targets.due(1000.0)] == [new]
    targets.discover({HIGH: [new]}, [], 1000.0)
    attempt(targets, new, 20, 1000.0)
    targets.discover({HIGH: [old, new]}, [], 1001.0)
    assert [target.address for target in targets.due(1001.0)] == [old], "it is new again"


def test_when_our_host_gains_an_address_what_failed_is_tried_again_at_once() -> None:
    targets = make()
    targets.give([HOST], 0.0)
    for number in range(10):
        attempt(targets, HOST, number + 1, 100.0)
    ours = Address("192.0.2.1", 1)
    targets.host_has([ours], 101.0)
    assert [target.address for target in targets.due(101.0)] == [HOST]
    attempt(targets, HOST, 20, 101.0)
    targets.host_has([ours], 101.0)
    assert targets.due(101.0) == [], "nothing is new"


def test_a_peer_behind_another_gateway_may_have_our_own_address_and_is_not_dialled_there() -> None:
    ours = Address("192.168.0.2", 1)
    targets = make()
    targets.host_has([ours], 0.0)
    targets.discover({HIGH: [ours, HOST]}, [], 0.0)
    assert [target.address for target in targets] == [HOST]


def test_an_address_that_two_peers_say_is_dialled_for_the_one_that_is_not_connected() -> None:
    targets = make()
    targets.peer_up(LOW)
    targets.discover({LOW: [HOST], HIGH: [HOST]}, [], 0.0)
    (target,) = targets.due(10.0)
    assert target.peer == HIGH

    # The connected one answers: it is there, so there is nothing to be had for the other.
    targets.dialling(HOST, LinkId(1))
    targets.connected(LinkId(1), LOW, 10.0)
    targets.closed(LinkId(1), "has another connection to us", 10.0)
    targets.discover({LOW: [HOST], HIGH: [HOST]}, [], 20.0)
    assert targets.due(1000.0) == []

    # It moves away, and the address may be the other's.
    targets.discover({HIGH: [HOST]}, [], 1000.0)
    assert [target.peer for target in targets.due(1010.0)] == [HIGH]

"""Where frames go."""

import pytest

from router.overlay.mac_table import MacTable
from router.overlay.switch import (
    DELIVER,
    DROP_HOPS,
    DROP_LOCAL,
    DROP_LOOPED,
    DROP_NO_ROUTE,
    DROP_RUNT,
    REASONS,
    Switch,
)
from router.sleeve.format import BROADCAST_SHORT_ID

OURS = bytes.fromhex("020000000001")
OTHERS = bytes.fromhex("020000000002")
THEIRS = bytes.fromhex("020000000009")
EVERYONE = b"\xff" * 6


@pytest.fixture
def switch() -> Switch:
    switch = Switch(MacTable())
    switch.install_routes(1, {2: 2, 9: 2}, {1: [2], 9: [3], 2: []})
    return switch


def test_a_known_address_belongs_to_its_peer(switch: Switch) -> None:
    switch.learn_behind(THEIRS, 9, 0.0)
    assert switch.from_bridge(THEIRS, OURS, 0.0) == 9


def test_groups_and_unknown_addresses_go_to_everyone(switch: Switch) -> None:
    assert switch.from_bridge(EVERYONE, OURS, 0.0) == BROADCAST_SHORT_ID
    assert switch.from_bridge(bytes.fromhex("333300000001"), OURS, 0.0) == BROADCAST_SHORT_ID
    assert switch.from_bridge(THEIRS, OURS, 0.0) == BROADCAST_SHORT_ID


def test_a_frame_between_two_local_addresses_is_dropped(switch: Switch) -> None:
    switch.from_bridge(EVERYONE, OTHERS, 0.0)
    assert switch.from_bridge(OTHERS, OURS, 0.0) == DROP_LOCAL


def test_a_container_that_moves_is_found_at_its_new_host(switch: Switch) -> None:
    switch.from_bridge(EVERYONE, OTHERS, 0.0)
    switch.learn_behind(OTHERS, 9, 1.0)
    assert switch.from_bridge(OTHERS, OURS, 1.0) == 9
    switch.from_bridge(EVERYONE, OTHERS, 2.0)
    assert switch.from_bridge(OTHERS, OURS, 2.0) == DROP_LOCAL
    assert switch.macs.moves == 2


def test_before_the_router_has_spoken_nothing_goes_anywhere() -> None:
    switch = Switch(MacTable())
    assert switch.from_bridge(EVERYONE, OURS, 0.0) == DROP_NO_ROUTE
    assert switch.from_peer(2, 1, 5) == DROP_NO_ROUTE
    assert len(switch.macs) == 0


def test_a_runt_is_dropped_and_teaches_nothing(switch: Switch) -> None:
    assert switch.from_bridge(b"\x02", b"", 0.0) == DROP_RUNT
    switch.learn_behind(b"\x02\x02", 9, 0.0)
    assert len(switch.macs) == 0


def test_a_record_of_a_peer_is_delivered_relayed_or_dropped(switch: Switch) -> None:
    assert switch.from_peer(9, 1, 0) == DELIVER
    assert switch.from_peer(2, 9, 4) == 2
    assert switch.from_peer(2, 9, 0) == DROP_HOPS
    assert switch.from_peer(2, 77, 4) == DROP_NO_ROUTE
    assert switch.from_peer(1, 9, 4) == DROP_LOOPED
    assert switch.from_peer(1, 1, 4) == DROP_LOOPED


def test_a_broadcast_goes_on_along_the_tree_of_its_source_while_it_has_hops(
    switch: Switch,
) -> None:
    assert switch.broadcast_from(9, 3) == (3,)
    assert switch.broadcast_from(2, 3) == ()
    assert switch.broadcast_from(9, 0) == ()
    assert switch.broadcast_from(77, 3) == ()


def test_a_new_short_id_of_ours_forgets_what_was_local_under_the_old_one(switch: Switch) -> None:
    switch.from_bridge(EVERYONE, OTHERS, 0.0)
    switch.install_routes(5, {}, {})
    assert switch.from_bridge(OTHERS, OURS, 0.0) == BROADCAST_SHORT_ID


def test_each_drop_has_a_reason_to_count_it_by() -> None:
    codes = {DROP_LOCAL, DROP_RUNT, DROP_LOOPED, DROP_NO_ROUTE, DROP_HOPS}
    assert set(REASONS) == codes
    assert len(set(REASONS.values())) == len(codes)
    assert all(code < 0 for code in codes)

"""Two ends agree on a tunnel, use it while it works, and give it up without sending twice."""

from random import Random

import pytest

from fastdp.core.choice import MAX_TUNNELS
from fastdp.core.effects import Arrange, SetFast, TellPeer
from fastdp.core.messages import Offer, encode_message
from fastdp.core.paths import FastPaths
from fastdp.core.policy import Policy
from tests.fastdp.core.virtual import CLEAR, HOSTS, NAMES, SECRET, TRUSTING, World
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName

UP_WITHIN_S = 6.0
DOWN_WITHIN_S = 4.5
"""Of the first heartbeat that is lost, with the time a driver needs."""


def running(seed: int = 1, policies: tuple[Policy, Policy] = (CLEAR, CLEAR)) -> World:
    world = World(seed, policies)
    world.up()
    world.advance(UP_WITHIN_S)
    return world


def test_a_healthy_pair_carries_frames_by_tunnel_after_three_heartbeats() -> None:
    world = World()
    world.up()
    world.advance(1.5)
    assert world.row(0)[0] == "trying"
    assert not world.is_carrying(0), "nothing is proven yet"
    world.advance(UP_WITHIN_S - 1.5)
    assert world.both_carry()
    assert world.row(0) == ("fastdp", "")
    assert world.hosts[0].fast == (22,)
    assert world.hosts[0].tunnels[NAMES[1]].network_id == 11 << 12 | 22
    assert world.hosts[1].tunnels[NAMES[0]].network_id == 11 << 12 | 22


@pytest.mark.parametrize("directions", [(0,), (1,), (0, 1)], ids=["out", "in", "both"])
def test_a_block_in_any_direction_is_over_on_sleeve_in_time_at_both_ends(
    directions: tuple[int, ...],
) -> None:
    world = running()
    world.advance(70)
    for direction in directions:
        world.blocked[direction] = True
    world.advance(DOWN_WITHIN_S)
    assert not world.is_carrying(0)
    assert not world.is_carrying(1)
    state, reason = world.row(0)
    assert state == "trying"
    assert "UDP 6784 blocked?" in reason
    assert world.hosts[0].fast == ()
    for direction in directions:
        world.blocked[direction] = False
    world.advance(10)
    assert world.both_carry(), world.hosts[0].log


def test_what_lay_behind_a_peer_is_told_to_the_datapath_before_the_tunnel_retires() -> None:
    world = running()
    world.blocked = [True, True]
    world.advance(DOWN_WITHIN_S)
    assert len(world.hosts[0].known_behind) == 1
    assert world.hosts[0].mac_owner == "tap"


def test_a_path_that_flaps_is_held_down_longer_each_time() -> None:
    world = running()
    held = []
    for _ in range(5):
        world.blocked = [True, True]
        world.advance(5)
        world.blocked = [False, False]
        began = world.now
        while not world.both_carry():
            world.advance(0.5)
        held.append(world.now - began)
        world.advance(1)
    assert held[0] < 6
    assert held[3] < held[4]
    assert held[4] > 10
    world.advance(301)
    world.blocked = [True, True]
    world.advance(5)
    world.blocked = [False, False]
    world.advance(6)
    assert world.both_carry(), "long health makes good for all of it"


def test_a_killed_router_that_comes_back_soon_changes_nothing() -> None:
    world = running()
    before = dict(world.hosts[0].tunnels)
    for _ in range(20):
        world.kill_router(0)
        world.advance(1)
        world.start_router(0)
        world.advance(0.5)
        world.connect()
        for _ in range(40):
            world.advance(0.1)
            assert world.both_carry(), [host.log for host in world.hosts]
    assert world.hosts[0].tunnels == before
    assert world.hosts[0].fast == (22,)


def test_a_router_that_stays_away_is_given_up_and_found_again() -> None:
    world = running()
    world.kill_router(0)
    world.advance(6)
    assert world.is_carrying(0), "nobody is there to change it"
    assert not world.is_carrying(1)
    world.start_router(0)
    world.connect()
    world.advance(8)
    assert world.both_carry()


def test_a_tunnel_whose_peer_does_not_come_back_is_removed() -> None:
    world = running()
    world.kill_router(0)
    world.hosts[0].session = False
    world.start_router(0)
    world.advance(3)
    assert world.is_carrying(0), "it may still come"
    world.advance(2)
    assert world.hosts[0].tunnels == {}
    assert world.hosts[0].fast == ()
    assert world.row(0) == ("", "")


def test_nothing_is_left_of_a_peer_that_leaves() -> None:
    world = running()
    world.disconnect(left=True)
    world.session_down()
    world.advance(1)
    for host in world.hosts:
        assert host.tunnels == {}
        assert host.fast == ()
        assert host.paths is not None
        assert host.paths.rows(world.now) == []


def test_a_datapath_that_dies_takes_no_tunnel_along() -> None:
    world = running()
    world.lose_datapath(0)
    world.advance(1)
    assert world.both_carry()
    world.new_datapath(0)
    carried = world.hosts[0].carries
    world.advance(1)
    assert world.both_carry()
    assert world.hosts[0].fast == (22,)
    assert world.hosts[0].carries == carried + 1, "the new one is shown when the tunnel takes over"
    world.advance(10)
    assert world.hosts[0].carries == carried + 1


def test_a_tunnel_carries_on_without_sleeve_until_frames_are_relayed() -> None:
    world = running()
    world.session_down()
    paths = world.hosts[0].paths
    assert paths is not None
    world.run(0, paths.handle_short_ids(11, {NAMES[0]: 11}, [], [], world.now))
    world.advance(5)
    assert world.both_carry(), "nobody else reaches it"
    world.run(0, paths.handle_short_ids(11, {NAMES[0]: 11, NAMES[1]: 22}, [], [], world.now))
    world.advance(1)
    assert not world.is_carrying(0)
    assert world.hosts[0].tunnels == {}


def test_a_block_while_the_datapath_is_away_still_retires_the_tunnel() -> None:
    world = running()
    world.lose_datapath(0)
    world.blocked = [True, True]
    world.advance(DOWN_WITHIN_S)
    assert not world.is_carrying(0)
    world.new_datapath(0)
    world.advance(1)
    assert world.hosts[0].fast == ()


def test_a_datapath_that_does_not_answer_does_not_keep_a_dead_tunnel_up() -> None:
    world = running()
    world.hosts[0].datapath = False
    world.blocked = [True, True]
    world.advance(DOWN_WITHIN_S + 1.5)
    assert not world.is_carrying(0)


def test_a_device_that_cannot_be_made_leaves_the_pair_on_sleeve_and_says_why() -> None:
    world = World()
    world.hosts[0].device_error = "Operation not supported"
    world.up()
    world.advance(10)
    assert not world.is_carrying(0)
    assert world.row(0) == ("trying", "no VXLAN device: Operation not supported")
    world.hosts[0].device_error = ""
    world.advance(12)
    assert world.both_carry(), "the next repair makes it"


def test_tunnels_are_looked_at_at_once_when_others_changed_the_bridge() -> None:
    world = running()
    paths = world.hosts[0].paths
    assert paths is not None
    world.advance(0.1)
    assert not any(isinstance(it, Arrange) for it in paths.handle_timeout(world.now))
    effects = paths.handle_ports_changed(world.now)
    assert [len(it.tunnels) for it in effects if isinstance(it, Arrange)] == [1]


def test_a_tunnel_that_cannot_carry_is_put_back_and_tried_again() -> None:
    world = World()
    world.up()
    world.advance(2)
    world.hosts[0].device_error = "No buffer space available"
    world.advance(6)
    assert not world.is_carrying(0)
    assert world.hosts[0].fast == ()
    world.hosts[0].device_error = ""
    world.advance(90)
    assert world.both_carry()


def test_a_peer_with_another_address_gets_another_tunnel() -> None:
    world = running()
    paths = world.hosts[0].paths
    assert paths is not None
    world.run(0, paths.handle_session(NAMES[1], "10.9.9.9", world.now))
    world.advance(0.5)
    assert not world.is_carrying(0)
    assert world.hosts[0].tunnels[NAMES[1]].remote_host == "10.9.9.9"
    assert world.hosts[0].fast == ()


def test_an_encrypted_mesh_stays_on_sleeve_unless_both_ends_trust() -> None:
    wary = Policy(mode="auto", encrypted=True)
    world = running(policies=(wary, TRUSTING))
    world.advance(5)
    assert world.hosts[0].tunnels == world.hosts[1].tunnels == {}
    assert world.row(0) == (
        "sleeve",
        (
            f"encrypted mesh: VXLAN is clear text, this kernel has no ESP, and {HOSTS[1]} is not in"
            " --trusted-subnets"
        ),
    )
    assert world.row(1)[1].startswith("the other end does not want a fast path: encrypted mesh")

    world = running(policies=(TRUSTING, TRUSTING))
    assert world.both_carry()


def test_switched_off_it_says_so_to_the_other_end_and_touches_nothing() -> None:
    off = Policy(mode="off", encrypted=False)
    world = running(policies=(off, CLEAR))
    assert world.hosts[1].tunnels == {}
    assert world.row(1) == (
        "sleeve",
        "the other end does not want a fast path: --fastdp is off",
    )
    paths = FastPaths(Random(7), 0.0, policy=off, mtu_bytes=1400, ourself=NAMES[0])
    effects = [
        *paths.handle_datapath_back((), 0.0),
        *paths.handle_connected(NAMES[1], SECRET, 0.0),
        *paths.handle_session(NAMES[1], HOSTS[1], 0.0),
        *paths.handle_short_ids(11, {NAMES[1]: 22}, [NAMES[1]], [], 0.0),
        *paths.handle_timeout(100.0),
    ]
    assert [type(effect) for effect in effects] == [TellPeer]
    assert paths.next_deadline().at == float("inf")
    assert paths.handle_datapath_back([22], 0.0) == [SetFast(1, (), (), {})], "from a run before"


def test_a_neighbour_that_has_to_relay_is_named_to_the_datapath() -> None:
    world = running()
    paths = world.hosts[0].paths
    assert paths is not None
    effects = paths.handle_short_ids(
        11, {NAMES[1]: 22, NAMES[0]: 11}, [NAMES[1]], [NAMES[1]], world.now
    )
    assert [e for e in effects if isinstance(e, SetFast)] == [SetFast(3, (22,), (22,), {}, (22,))]


def test_the_datapath_hears_of_a_tunnel_before_it_can_bring_frames_and_until_it_cannot() -> None:
    world = World()
    world.up()
    world.advance(0.5)
    assert (world.hosts[0].told_of, world.is_carrying(1)) == ((22,), False)
    world.advance(10)
    assert world.is_carrying(1)
    world.blocked = [True, True]
    world.advance(10)
    assert world.hosts[0].told_of == (22,)
    world.disconnect(left=True)
    world.advance(1)
    assert list(world.hosts[0].told_of) == []


def test_a_heartbeat_with_a_wrong_token_is_no_sign_of_life() -> None:
    world = running()
    world.blocked = [True, True]
    for _ in range(10):
        paths = world.hosts[0].paths
        assert paths is not None
        forged = bytes(8) + world.rng.randbytes(4) + b"\0\0"
        assert paths.handle_heartbeat(NAMES[1], forged, world.now) == []
        assert paths.handle_heartbeat(NAMES[1], b"", world.now) == []
        world.advance(0.5)
    assert not world.is_carrying(0)


def test_nonsense_from_a_peer_is_its_fault() -> None:
    world = running()
    paths = world.hosts[0].paths
    assert paths is not None
    for payload in (b"\0", b"\0\x80", b"\0\xff\xff", b"\0" * 100):
        with pytest.raises(ProtocolError):
            paths.handle_message(NAMES[1], payload, world.now)


def test_more_peers_than_a_bridge_has_ports_stay_on_sleeve() -> None:
    paths = FastPaths(Random(7), 0.0, policy=CLEAR, mtu_bytes=1400, ourself=NAMES[0])
    offer = an_offer()
    peers = [PeerName(f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}") for n in range(MAX_TUNNELS + 5)]
    short_ids = {peer: number + 100 for number, peer in enumerate(peers)}
    paths.handle_short_ids(11, short_ids, peers, [], 0.0)
    for number, peer in enumerate(peers):
        paths.handle_connected(peer, SECRET, 0.0)
        paths.handle_session(peer, f"10.0.{number >> 8}.{number & 255}", 0.0)
        paths.handle_message(peer, offer, 0.0)
    rows = paths.rows(0.0)
    assert sum(row.state == "trying" for row in rows) == MAX_TUNNELS
    assert [row.reason for row in rows if row.state == "sleeve"] == ["behind 900 others"] * 5
    effects = [
        *paths.handle_arranged({}, "", 1.0),
        *paths.handle_disconnected(peers[0], True, 1.0),
        *paths.handle_arranged({}, "", 1.0),
        *paths.handle_timeout(2.0),
        *paths.handle_arranged({}, "", 2.0),
    ]
    last = [effect for effect in effects if isinstance(effect, Arrange)][-1]
    assert len(last.tunnels) == MAX_TUNNELS, "one has moved up"


def an_offer() -> bytes:
    paths = FastPaths(Random(7), 0.0, policy=CLEAR, mtu_bytes=1400, ourself=NAMES[0])
    paths.handle_connected(NAMES[0], SECRET, 0.0)
    effects = paths.handle_session(NAMES[0], HOSTS[0], 0.0)
    return next(effect.payload for effect in effects if isinstance(effect, TellPeer))


def test_a_tunnel_that_others_broke_carries_again_when_the_bridge_was_told_what_lies_behind() -> (
    None
):
    world = running()
    host, paths = world.hosts[0], world.hosts[0].paths
    assert paths is not None
    carried = host.carries
    world.run(0, paths.handle_ports_changed(world.now))

    host.carrying.clear()
    world.run(0, paths.handle_arranged({}, "", world.now, silent=[NAMES[1]]))

    assert world.row(0) == ("trying", "the datapath has not agreed yet")
    world.advance(1)
    assert world.both_carry()
    assert host.carries == carried + 1


def test_a_peer_that_changes_its_short_id_is_fast_under_both_until_its_tunnel_has_ended() -> None:
    world = running()
    paths = world.hosts[0].paths
    assert paths is not None
    ids = {NAMES[0]: 11, NAMES[1]: 33}
    effects = paths.handle_short_ids(11, ids, [NAMES[1]], [], world.now)
    assert [it.fast for it in effects if isinstance(it, SetFast)] == [(22, 33)]


def test_a_tunnel_waits_until_no_other_peer_has_one_of_its_short_id() -> None:
    world = running()
    paths, third = world.hosts[0].paths, PeerName("00:00:00:00:00:0c")
    assert paths is not None
    now = world.now
    willing = encode_message(Offer(True, "", bytes(8), 1400, 6784, HOSTS[0]))
    for effects in (
        paths.handle_connected(third, bytes(32), now),
        paths.handle_session(third, "10.0.0.3", now),
        paths.handle_message(third, willing, now),
    ):
        assert not any(isinstance(effect, Arrange) for effect in effects)

    # NAMES[1] had it, and has lost the dispute.
    ids = {NAMES[0]: 11, NAMES[1]: 33, third: 22}
    paths.handle_short_ids(11, ids, [NAMES[1], third], [], now)

    rows = {row.peer: row for row in paths.rows(now)}
    assert rows[third].reason == "another peer had its short id, and that tunnel is not gone yet"


def test_a_router_that_adopted_a_tunnel_does_not_say_that_it_heard_the_peer() -> None:
    world = running()
    world.advance(70)
    world.blocked[1] = True
    world.kill_router(0)
    world.advance(1)
    world.start_router(0)
    world.connect()
    for _ in range(40):
        world.advance(0.5)
        if not world.is_carrying(1):
            break
    world.advance(20)
    assert world.hosts[1].carries == 1, "nobody confirmed what did not arrive"


def test_ends_of_different_mtus_stay_on_sleeve_and_say_how_to_change_that() -> None:
    world = running()
    world.advance(70)
    host = world.hosts[1]
    assert host.paths is not None
    host.mtu_bytes = 8900
    world.run(1, host.paths.handle_mtu(8900, 9000, world.now))
    world.advance(2)

    assert not world.is_carrying(0)
    assert not world.is_carrying(1)
    reason = (
        "the other end's overlay MTU is 8900, and ours 1400: --mtu 1400 on both makes them equal"
    )
    assert world.row(0) == ("sleeve", reason)

    world.hosts[0].mtu_bytes = 8900
    assert world.hosts[0].paths is not None
    world.run(0, world.hosts[0].paths.handle_mtu(8900, 9000, world.now))
    world.advance(UP_WITHIN_S)
    assert world.both_carry()

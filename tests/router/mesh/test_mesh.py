"""Whole meshes in memory: what the parts promise together."""

from random import Random

import pytest

from router.mesh import mesh
from router.mesh.connection import DIAL_TIMEOUT_S, address_text
from router.mesh.effects import (
    CloseLink,
    Dial,
    LogLine,
    OverlayMessageReceived,
    PeerAdded,
    PeerConnected,
    PeerDisconnected,
    PeerRemoved,
    ReachableChanged,
    RoutesChanged,
    SendBytes,
    UnicastReceived,
)
from router.mesh.links import MAX_HALF_OPEN
from router.mesh.messages import UnicastMessage
from router.mesh.records import MAX_VERSION, Record, Roster
from router.mesh.updates import encode_update
from tests.router.mesh.harness import (
    Host,
    World,
    chain_of,
    deliveries,
    is_full,
    mesh_of,
    path,
)
from weavepy.base.errors import UsageError
from weavepy.base.gossip import Announce, Unicast
from weavepy.base.names import PeerName, PeerUid, ShortId


def everyone_once(hosts: list[Host]) -> bool:
    names = {host.name for host in hosts}
    return all(deliveries(hosts, source) == dict.fromkeys(names, 1) for source in hosts)


def settled(world: World, hosts: list[Host]) -> None:
    world.run_until(lambda: is_full(hosts), 10.0)


def row(host: Host, index: int = 0) -> tuple[str, str]:
    first = host.core.connection_rows(host.world.now)[index]
    return first.state, first.info


# --- finding each other ------------------------------------------------------------------------


def test_five_peers_that_know_one_seed_become_a_full_mesh() -> None:
    world, hosts = mesh_of("a", "b", "c", "d", "e")

    assert world.run_until(lambda: is_full(hosts), 10.0) < 3.0
    assert everyone_once(hosts)
    for host in hosts:
        assert len(host.core.established_peers) == 4
        assert len(host.pipes) == 4, "one connection per pair"
        assert {effect.peer for effect in host.seen(PeerAdded)} == {
            other.peer for other in hosts if other is not host
        }


def test_an_address_that_a_host_gains_is_dialled_by_those_that_have_no_link_with_it() -> None:
    world, hosts = mesh_of("a", "b", "c")
    a, b, c = hosts
    world.cut(b, c)
    world.run(10.0)
    assert path(hosts, b, c) == ["a", "c"]

    b.do(b.core.handle_own_addresses(["192.0.2.1", "192.0.2.2"], world.now))
    world.run(0.5)
    c.effects.clear()
    b.do(b.core.handle_own_addresses(["192.0.2.1", "192.0.2.2", "192.0.2.3"], world.now))
    world.run(DIAL_TIMEOUT_S + 6.0)
    dialled = [effect.host for effect in c.seen(Dial) if isinstance(effect, Dial)]
    assert "192.0.2.3" in dialled
    rows = {row.target: row.nickname for row in c.core.target_rows(world.now)}
    assert rows["192.0.2.3:6783"] == "b"
    assert c.core.records[b.peer].addresses[0] == "192.0.2.3:6783"
    assert not any(
        "192.0.2" in row.target for row in a.core.target_rows(world.now) if row.state != "connected"
    ), "who has a link with it needs no other"


def test_a_chain_without_discovery_relays_unicast_and_broadcast() -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    world.run(3.0)

    a, b, _, d = hosts
    assert path(hosts, a, d) == ["b", "c", "d"]
    assert everyone_once(hosts)
    assert a.core.connected_peers == [b.peer]
    route = {row.nickname: row.route for row in a.core.peer_rows()}
    assert route == {
        "a": "ourself",
        "b": "direct",
        "c": "relayed via b",
        "d": "relayed via b",
    }


def test_a_unicast_does_not_go_back_to_whom_it_came_from() -> None:
    world, hosts = chain_of("a", "b", "c")
    world.run(3.0)
    a, b, c = hosts

    def passed_on(by: Host, came_from: Host, destination: Host) -> int:
        message = UnicastMessage("words", came_from.peer, destination.peer, 10, b"hello")
        by.core.message_came(came_from.peer, message, world.now)
        effects = by.core.forget([], world.now)
        return sum(isinstance(one, SendBytes) for one in effects)

    assert passed_on(b, a, destination=c) == 1
    assert passed_on(c, b, destination=a) == 0, "its own way to a is by b"


def test_a_unicast_is_relayed_over_connections_that_are_not_established() -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    world.overlay = False
    world.run(3.0)

    hosts[0].do([Unicast("words", hosts[3].peer, b"hello")])
    world.run(0.1)

    assert hosts[3].seen(UnicastReceived) == [UnicastReceived("words", hosts[0].peer, b"hello")]
    assert hosts[0].routes is not None
    assert hosts[0].routes.unicast == {}


def test_news_on_a_channel_reaches_all() -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    world.run(3.0)
    hosts[1].announce(b"word")
    world.run(0.1)
    assert all(host.channel.words == {b"word"} for host in hosts)


def test_the_connection_limit_stops_discovery_and_the_mesh_stays_whole() -> None:
    world, hosts = mesh_of(*"abcdefghij", connection_limit=3)
    world.run(30.0)

    everyone = {host.peer for host in hosts}
    assert all(set(host.core.routes.unicast) == everyone - {host.peer} for host in hosts)
    assert everyone_once(hosts)
    assert sum(len(host.core.connected_peers) for host in hosts) < 10 * 9
    for host in hosts[1:]:
        dialled = [
            effect
            for effect in host.seen(PeerConnected)
            if effect.dialled_by_us  # type: ignore[union-attr]
        ]
        assert len(dialled) <= 3
    rows = [row for host in hosts for row in host.core.target_rows(world.now)]
    assert any(row.state == "suspended" for row in rows)


def test_in_a_mesh_that_cannot_be_full_discovery_makes_only_a_few_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mesh, "LARGE_MESH_CONNECTIONS", 2)
    world, hosts = mesh_of(*"abcdefghij", connection_limit=6)
    world.run(30.0)
    everyone = {host.peer for host in hosts}
    assert all(set(host.core.routes.unicast) == everyone - {host.peer} for host in hosts)
    assert hosts[-1].core.connection_limit == 6
    assert len(hosts[-1].core.connected_peers) <= 4


def test_a_target_that_is_ourself_is_dropped_without_a_warning() -> None:
    world = World()
    a, b = world.host("a"), world.host("b")
    a.start("a", "b")
    b.start("a", "b")
    world.run(5.0)
    assert is_full([a, b])
    assert [row.target for row in a.core.target_rows(world.now)] == ["b:6783"]
    assert a.core.warnings(world.now) == []


def test_two_that_dial_each_other_at_once_keep_one_and_the_same_connection() -> None:
    world = World()
    a, b = world.host("a"), world.host("b")
    a.start("b")
    b.start("a")
    world.run(5.0)
    assert is_full([a, b])
    assert len(a.pipes) == len(b.pipes) == 1
    lower, higher = sorted((a, b), key=lambda host: host.peer)
    assert lower.core.connection_rows(world.now)[0].outbound
    assert not higher.core.connection_rows(world.now)[0].outbound


def test_two_addresses_of_one_peer_end_in_one_connection() -> None:
    world = World()
    a, b = world.host("a"), world.host("b")
    world.hosts["b-too"] = b
    a.start("b", "b-too")
    b.start()
    world.hosts["b-too"] = b
    world.run(10.0)
    assert len(a.core.connected_peers) == 1
    assert len(a.pipes) == len(b.pipes) == 1
    assert len(a.seen(PeerConnected)) <= 2
    assert {row.state for row in a.core.target_rows(world.now)} == {"connected"}


# --- losing each other -------------------------------------------------------------------------


def test_a_dead_link_is_seen_within_five_seconds_and_traffic_goes_round_it() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, _ = hosts

    world.cut(a, b)
    took = world.run_until(lambda: b.peer not in a.core.connected_peers, 5.0)

    assert took > 3.0
    world.run(5.0)
    assert path(hosts, a, b) == ["c", "b"]
    assert everyone_once(hosts)
    world.heal(a, b)
    world.run_until(lambda: is_full(hosts), 10.0)


def test_the_sides_of_a_partition_forget_each_other_and_join_again() -> None:
    world, hosts = mesh_of(*"abcdef")
    settled(world, hosts)
    left, right = hosts[:3], hosts[3:]

    world.partition(left, right)
    world.run(30.0)
    assert is_full(left)
    assert is_full(right)
    assert len(left[0].core.peers) == 3
    assert {effect.peer for effect in left[0].seen(PeerRemoved)} == {h.peer for h in right}
    left[0].announce(b"left")
    right[0].announce(b"right")
    world.run(20.0)

    world.heal_partition(left, right)
    world.run_until(lambda: is_full(hosts), 60.0)
    world.run(1.0)
    assert all(host.channel.words == {b"left", b"right"} for host in hosts)


def test_a_peer_that_did_not_change_while_it_was_forgotten_is_told_of_at_once() -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    a, b, c, d = hosts
    world.run(3.0)
    unchanged = a.core.records[d.peer].version
    world.cut(b, c)
    world.run(30.0)
    assert d.peer not in a.core.peers

    world.heal(b, c)
    world.run_until(lambda: c.peer in b.core.connected_peers, 60.0)
    world.run_until(lambda: d.peer in a.core.reachable_peers, 0.5)
    assert a.core.records[d.peer].version == unchanged


def test_a_ring_of_hosts_survives_a_cut_anywhere() -> None:
    world, hosts = chain_of(*"abcde")
    hosts[0].do(hosts[0].core.connect(["e"], False, world.now))
    world.run(5.0)
    assert path(hosts, hosts[0], hosts[4]) == ["e"]
    for one, other in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
        world.cut(one, other)
        world.run(8.0)
        assert everyone_once(hosts)
        assert len(path(hosts, one, other)) == 4
        world.heal(one, other)
        world.run_until(lambda one=one, other=other: path(hosts, one, other) == [other.name], 30.0)


def test_a_peer_that_is_gone_is_forgotten_everywhere_within_fifteen_seconds() -> None:
    world, hosts = mesh_of("a", "b", "c", "d")
    settled(world, hosts)
    dead, others = hosts[0], hosts[1:]

    world.kill(dead, datapath=True)
    world.run(15.0)

    assert is_full(others)
    for host in others:
        assert dead.peer not in host.core.peers
        assert host.seen(PeerRemoved) == [PeerRemoved(dead.peer)]
    world.run(60.0)
    assert all(len(host.seen(PeerRemoved)) == 1 for host in others), "it must not come back"


def test_a_goodbye_drops_the_link_at_once() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, _ = hosts
    a.do(a.core.leave(world.now))
    world.run(0.1)
    assert a.peer not in b.core.established_peers
    assert b.routes is not None
    assert a.peer not in b.routes.unicast
    assert b.seen(PeerDisconnected)[-1] == PeerDisconnected(
        a.peer, b.seen(PeerDisconnected)[-1].reason, left=True
    )
    assert "leaves the mesh" in b.seen(PeerDisconnected)[-1].reason
    assert a.core.next_deadline().at == float("inf")
    assert a.core.handle_timeout(world.now) == []


def test_a_goodbye_that_keeps_the_overlay_keeps_the_routes() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, c = hosts
    before = [b.routes, c.routes]
    a.do(a.core.leave(world.now, keep_overlay=True))
    world.run(20.0)
    assert [b.routes, c.routes] == before
    assert any(row.state == "orphaned" for row in b.core.connection_rows(world.now))


@pytest.mark.parametrize("pause_s", [0.5, 3.0, 25.0])
def test_a_killed_relay_keeps_its_routes_and_nobodys_change_when_it_is_back(
    pause_s: float,
) -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    world.run(3.0)
    relay = hosts[1]
    told = [(host.routes, len(host.seen(RoutesChanged))) for host in hosts]

    world.kill(relay)
    world.run(pause_s)
    relay.start("a", adopt=True, discovery=False)
    world.run(20.0)

    assert [(host.routes, len(host.seen(RoutesChanged))) for host in hosts[:1]] == told[:1]
    for host, (before, times) in zip(hosts, told, strict=True):
        assert host.routes == before, host.name
        assert len(host.seen(RoutesChanged)) <= times + (host is relay), host.name
    assert hosts[3].seen(PeerRemoved) == []
    world.run(10.0)
    assert all(row.state == "established" for row in relay.core.connection_rows(world.now))
    assert relay.core.records[relay.peer].version > 1
    added = [effect for effect in hosts[3].seen(PeerAdded) if effect.peer == relay.peer]
    assert len({effect.uid for effect in added}) == 2


def test_all_routers_of_a_mesh_can_be_killed_at_once_without_a_change_of_routes() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    before = [host.routes for host in hosts]
    for host in hosts:
        world.kill(host)
    world.run(5.0)
    for host in hosts:
        host.start(adopt=True)
        world.run(1.0)
    world.run(30.0)
    assert [host.routes for host in hosts] == before
    assert all(len(host.core.connected_peers) == 2 for host in hosts)


def test_adopted_peers_are_dialled_even_if_no_target_is_known() -> None:
    world, hosts = mesh_of("a", "b", "c", discovery=False)
    world.run(3.0)
    a, b, c = hosts
    before = [host.routes for host in hosts]
    world.kill(a)
    world.kill(b)
    world.run(1.0)
    a.remembered = b.remembered = ()
    a.start(adopt=True)
    b.start(adopt=True)
    world.run_until(lambda: b.peer in a.core.connected_peers, 5.0)
    world.run(20.0)
    assert [host.routes for host in hosts] == before
    assert a.core.connected_peers == sorted([b.peer, c.peer])


def test_an_orphan_whose_overlay_dies_is_dropped() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    world.kill(hosts[0])
    world.run(30.0)
    assert hosts[0].peer in hosts[1].core.routes.unicast
    world.kill(hosts[0], datapath=True)
    world.run(15.0)
    assert hosts[0].peer not in hosts[1].core.peers
    assert hosts[0].peer not in hosts[2].core.peers


def test_an_overlay_that_fails_takes_the_link_out_of_the_routes_and_says_why() -> None:
    world, hosts = chain_of("a", "b")
    world.run(2.0)
    a, b = hosts
    a.do(a.core.handle_overlay_down(b.peer, "no UDP answer", world.now))
    world.run(0.1)
    assert row(a) == ("connected", "no UDP answer")
    assert a.routes is not None
    assert b.routes is not None
    assert a.routes.unicast == b.routes.unicast == {}


def test_a_peer_that_is_out_of_reach_is_told_of_though_the_routes_left_it_out_before() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, dead, _ = hosts
    world.partition([dead], [hosts[0], hosts[2]])
    world.run_until(lambda: dead.peer not in a.core.routes.unicast, 5.0)
    assert dead.peer in a.core.reachable_peers
    assert not a.seen(ReachableChanged)
    world.run_until(lambda: dead.peer not in a.core.reachable_peers, 5.0)
    assert len(a.seen(ReachableChanged)) == 1


# --- strangers ---------------------------------------------------------------------------------


def test_a_wrong_secret_is_refused_and_both_sides_say_so() -> None:
    world = World()
    a, b = world.host("a"), world.host("b")
    a.start()
    b.start("a", secret=b"x" * 32)
    world.run(3.0)

    assert a.core.peers == [a.peer]
    assert a.core.refusals.counts["wrong-secret"] >= 1
    assert a.core.refusals.recent[0].host == "b"
    assert any("secret" in warning and "b" in warning for warning in a.core.warnings(world.now))
    target = b.core.target_rows(world.now)[0]
    assert target.last_error.startswith("a:6783 refused us: ")
    assert "secret" in target.last_error
    state, info = row(b)
    assert state == "retrying"
    assert "secret" in info
    assert info.startswith("retrying in ")


def test_garbage_is_refused_counted_and_logged_sparingly() -> None:
    world, hosts = mesh_of("a", "b")
    settled(world, hosts)
    a = hosts[0].core
    rng = Random(1)
    lines = 0
    for _ in range(500):
        link = a.new_link_id()
        a.handle_link_accepted(link, "6.6.6.6", 1, world.now)
        effects = a.handle_bytes(link, rng.randbytes(rng.randrange(1, 3000)), world.now)
        assert any(isinstance(effect, CloseLink) for effect in effects)
        lines += sum(isinstance(effect, LogLine) for effect in effects)
    assert sum(a.refusals.counts.values()) == 500
    assert len(a.refusals.recent) < 100
    assert lines < 10
    assert len(a.connection_rows(world.now)) == 1
    world.run(5.0)
    assert is_full(hosts)


def test_strangers_at_the_door_are_bounded_and_put_out_after_five_seconds() -> None:
    world, (a,) = mesh_of("a")
    for _ in range(MAX_HALF_OPEN):
        link = a.core.new_link_id()
        assert a.core.handle_link_accepted(link, "6.6.6.6", 1, world.now) == []
    effects = a.core.handle_link_accepted(a.core.new_link_id(), "6.6.6.7", 1, world.now)
    assert any(isinstance(effect, CloseLink) for effect in effects)
    assert a.core.refusals.counts == {"too-many-half-open": 1}
    world.run(5.1)
    assert a.core.refusals.counts["too-slow"] == MAX_HALF_OPEN
    assert a.core.connection_rows(world.now) == []


def test_a_changed_byte_closes_that_connection_with_its_reason_and_no_other() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, c = hosts
    link = next(link for link, pipe in a.pipes.items() if pipe.taker is b)
    a.do(a.core.handle_bytes(link, b"\x00\x00\x20" + bytes(32), world.now))
    assert a.core.connected_peers == [c.peer]
    assert "not authentic" in a.seen(PeerDisconnected)[-1].reason
    world.run(10.0)
    assert is_full(hosts)


def test_a_cloned_identity_is_refused_and_warned_about_within_ten_seconds() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    clone = world.host("clone")
    clone.identity = hosts[1].identity
    clone.start("a")
    world.run(10.0)

    a = hosts[0]
    assert a.core.refusals.counts["cloned-identity"] >= 1
    assert any("identity" in warning for warning in a.core.warnings(world.now))
    assert a.core.records[clone.peer].uid == hosts[1].core.uid
    assert "refuses us" in clone.core.target_rows(world.now)[0].last_error
    assert any("refuses us" in text for text in clone.copies)
    assert is_full(hosts)


def test_a_clone_that_we_dial_is_warned_about() -> None:
    world = World()
    a, clone = world.host("a"), world.host("clone")
    clone.identity = a.identity
    clone.start()
    a.start("clone")
    world.run(10.0)
    assert any("clone:6783" in warning for warning in a.core.warnings(world.now))
    assert [row.target for row in a.core.target_rows(world.now)] == ["clone:6783"]
    assert a.copies != []


def test_two_clones_that_dial_each_other_and_themselves_are_both_warned() -> None:
    world = World()
    one, two = world.host("one"), world.host("two")
    two.identity = one.identity
    for host in (one, two):
        host.start("one", "two")
    world.run(10.0)
    assert any("two:6783" in warning for warning in one.core.warnings(world.now))
    assert any("one:6783" in warning for warning in two.core.warnings(world.now))
    assert [row.target for row in one.core.target_rows(world.now)] == ["two:6783"]
    assert [row.target for row in two.core.target_rows(world.now)] == ["one:6783"]


def test_a_clone_in_a_far_part_of_the_mesh_is_warned_about_and_does_not_flood_it() -> None:
    world, hosts = chain_of("a", "b", "c", "d")
    world.run(3.0)
    clone = world.host("clone", discovery=False)
    clone.identity = hosts[0].identity
    clone.start("d")
    world.run(10.0)
    assert any("identity" in warning for warning in hosts[0].core.warnings(world.now))
    assert hosts[1].core.records[clone.peer].version < 40


# --- records, short ids ------------------------------------------------------------------------


def record_of(name: PeerName, **changes: object) -> Record:
    values: dict[str, object] = {
        "name": name,
        "uid": PeerUid(7),
        "version": 1,
        "nickname": "liar",
        "short_id": ShortId(7),
        "router_version": "",
        "addresses": (),
        "control": 0,
        "established": 0,
        "outbound": 0,
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


def test_everyone_hears_which_peers_take_smaller_packets_than_its_own() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, c = hosts
    for host, mtu_bytes in ((a, 8900), (b, 1400), (c, 1450)):
        host.do(host.core.set_mtu(mtu_bytes, world.now))
    world.run(world.now + 2.0)

    assert a.routes.mtus_bytes == {b.peer: 1400, c.peer: 1450}
    assert b.routes.mtus_bytes == {}
    assert c.routes.mtus_bytes == {b.peer: 1400}


def test_a_lie_about_ourself_is_outbid_and_one_without_limit_does_no_harm() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a, b, _ = hosts
    for version in (1000, MAX_VERSION):
        lie = record_of(a.peer, version=version)
        b.do([Announce("topology", encode_update([lie], Roster()))])
        world.run(3.0)
        assert a.core.records[a.peer].uid == a.core.uid
        assert a.core.records[a.peer].version >= version
    assert is_full(hosts[1:]) is False
    assert len(a.pipes) == 2


def test_a_malformed_topology_update_is_counted_and_closes_nothing() -> None:
    world, hosts = mesh_of("a", "b")
    settled(world, hosts)
    hosts[1].do([Announce("topology", b"\xff\xff")])
    world.run(1.0)
    assert hosts[0].core.refusals.counts == {"senseless-topology": 1}
    assert is_full(hosts)


def test_equal_short_ids_are_not_used_until_the_higher_name_has_another() -> None:
    world = World()
    a, b = world.host("a"), world.host("b")
    lower, higher = sorted((a, b), key=lambda host: host.peer)
    lower.start(short_id=ShortId(5))
    higher.start(lower.name, short_id=ShortId(5))
    both = {lower.peer, higher.peer}
    world.run_until(lambda: a.routes is not None and set(a.routes.short_ids) == both, 5.0)
    assert a.routes is not None
    assert a.routes.short_ids[higher.peer] != 5
    for host in (a, b):
        for effect in host.seen(RoutesChanged):
            ids = list(effect.short_ids.values())
            assert len(ids) == len(set(ids))
    world.run(1.0)
    assert a.routes.short_ids == b.routes.short_ids  # type: ignore[union-attr]


# --- anti-entropy, back-pressure ---------------------------------------------------------------


def test_a_lost_update_is_found_by_comparing_digests() -> None:
    world, hosts = mesh_of("a", "b")
    settled(world, hosts)
    hosts[0].channel.merge(b"never announced")
    world.run(13.0)
    assert hosts[1].channel.words == {b"never announced"}


def test_equal_states_cost_digests_and_heartbeats_only() -> None:
    world, hosts = mesh_of("a", "b")
    settled(world, hosts)
    world.run(15.0)
    before = [host.sent_bytes for host in hosts]
    world.run(60.0)
    for host, sent in zip(hosts, before, strict=True):
        digests = 60 / 8 * (512 + 32 + 200)
        heartbeats = 61 * 40
        assert host.sent_bytes - sent < digests + heartbeats


def test_a_paused_link_gets_combined_updates_and_no_heartbeats() -> None:
    world, hosts = mesh_of("a", "b")
    settled(world, hosts)
    a, b = hosts
    (link,) = a.pipes
    a.do(a.core.handle_link_paused(link, world.now))
    sent = a.sent_bytes
    for number in range(100):
        a.announce(b"word%d" % number)
    a.do(a.core.send_overlay_message(b.peer, b"offer", world.now))
    world.run(2.5)
    assert a.sent_bytes == sent
    a.do(a.core.handle_link_resumed(link, world.now))
    world.run(0.1)
    assert len(b.channel.words) == 100
    assert b.seen(OverlayMessageReceived) == [OverlayMessageReceived(a.peer, b"offer")]
    assert a.sent_bytes - sent < 3000


def test_a_router_that_was_suspended_does_not_blame_its_peers() -> None:
    world, hosts = chain_of("a", "b")
    world.run(2.0)
    a = hosts[0].core
    effects = a.handle_timeout(world.now + 3600.0)
    assert not any(isinstance(effect, CloseLink | PeerDisconnected) for effect in effects)
    assert any(isinstance(effect, SendBytes) for effect in effects)


# --- operator ----------------------------------------------------------------------------------


def test_connect_replace_and_forget_change_the_targets() -> None:
    world, (a, *_) = mesh_of("a", "b", "c", discovery=False)
    a.do(a.core.connect(["x", "y:7000"], False, world.now))
    world.run(1.0)

    def targets() -> list[str]:
        return sorted(row.target for row in a.core.target_rows(world.now))

    assert targets() == ["x:6783", "y:7000"]
    assert a.remembered == ("x:6783", "y:7000")
    a.do(a.core.connect(["z"], True, world.now))
    world.run(1.0)
    assert targets() == ["z:6783"]
    a.do(a.core.forget(["z"], world.now))
    assert targets() == []
    assert a.remembered == ()
    assert len(a.core.connected_peers) == 2
    with pytest.raises(UsageError):
        a.core.connect(["fine", "not fine"], True, world.now)
    assert targets() == []


def test_a_refused_dial_shows_when_it_is_tried_again_and_why() -> None:
    world = World()
    a = world.host("a")
    a.start("nowhere")
    world.run(0.5)
    state, info = row(a)
    assert state == "retrying"
    assert info in ("retrying in 1 s: connection refused", "retrying in 2 s: connection refused")
    (target,) = a.core.target_rows(world.now)
    assert target.state == "waiting"
    assert target.origin == "given"
    assert target.next_attempt_s is not None
    assert 0 < target.next_attempt_s <= 2
    assert target.last_error == "connection refused"


def test_peers_that_were_connected_are_remembered_and_dialled_after_a_restart() -> None:
    world, hosts = mesh_of("a", "b", "c")
    settled(world, hosts)
    a = hosts[0]
    assert set(a.remembered) == {"b:6783", "c:6783"}
    world.kill(a, datapath=True)
    world.run(20.0)
    a.start(remembered=a.remembered)
    world.run(5.0)
    assert is_full(hosts)


def test_a_dial_that_nobody_answers_is_given_up() -> None:
    world, hosts = mesh_of("a", "b")
    world.cut(*hosts)
    world.run(11.0)
    (target,) = hosts[1].core.target_rows(world.now)
    assert target.last_error == "no answer within 10 s"
    assert len(hosts[1].seen(Dial)) == 1
    assert len(hosts[1].seen(CloseLink)) == 1


def test_addresses_are_written_with_brackets_where_needed() -> None:
    assert address_text("::1", 6783) == "[::1]:6783"
    assert address_text("10.0.0.1", 6783) == "10.0.0.1:6783"


@pytest.mark.parametrize("seed", range(4))
def test_after_any_trouble_the_mesh_is_whole_again(seed: int) -> None:
    world, hosts = mesh_of(*"abcdef", seed=seed)
    rng = Random(seed)
    settled(world, hosts)
    for step in range(25):
        one, other = rng.sample(hosts, 2)
        trouble = rng.choice(["cut", "heal", "heal", "kill", "crash", "restart", "restart"])
        if trouble == "cut":
            world.cut(one, other)
        elif trouble == "heal":
            for names in sorted(map(sorted, world.cuts))[:3]:
                world.heal(*(world.hosts[name] for name in names))
        elif trouble == "kill" and one.mesh is not None:
            world.kill(one)
        elif trouble == "crash":
            world.kill(one, datapath=True)
        elif trouble == "restart" and one.mesh is None:
            one.start(other.name, adopt=bool(one.sessions))
        if one.mesh is not None:
            one.announce(b"%s%d" % (one.name.encode(), step))
        world.run(rng.uniform(0.0, 6.0))
    for names in sorted(map(sorted, world.cuts)):
        world.heal(*(world.hosts[name] for name in names))
    for host in hosts:
        if host.mesh is None:
            host.start("a", "b", adopt=bool(host.sessions))

    world.run_until(lambda: is_full(hosts), 120.0)
    world.run(30.0)

    assert everyone_once(hosts)
    assert all(len(host.core.peers) == len(hosts) for host in hosts)
    assert all(host.channel.words == hosts[0].channel.words for host in hosts)
    assert all(host.core.warnings(world.now) == [] for host in hosts)
    assert all(len(host.pipes) == len(hosts) - 1 for host in hosts)

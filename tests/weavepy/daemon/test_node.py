"""What the node promises about the disk, with the real ring and a disk that refuses."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import ip_network
from random import Random
from unittest.mock import patch

from fastdp.core.messages import Offer, encode_message
from fastdp.core.paths import FastPaths
from fastdp.core.policy import Policy
from ipam.core.effects import AnswerRequest, IpamEffect, Persist
from ipam.core.election import Seed
from ipam.core.ipam import Ipam
from router.mesh.effects import (
    OverlayMessageReceived,
    PeerAdded,
    PeerConnected,
    ReachableChanged,
    RoutesChanged,
)
from router.mesh.identity import Identity
from router.mesh.mesh import Mesh
from router.sleeve.messages import SessionUp
from router.sleeve.negotiation import Negotiator
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName, PeerUid, ShortId
from weavepy.daemon.node import PERSIST_RETRY_S, Node, WorldEffect


class FickleWorld:
    def __init__(self) -> None:
        self.refuses = False
        self.done: list[WorldEffect] = []

    def perform(self, effect: WorldEffect, now: float) -> None:
        if isinstance(effect, Persist) and self.refuses:
            raise WeavepyError("no space left on device")
        self.done.append(effect)

    def answers(self) -> list[AnswerRequest]:
        return [effect for effect in self.done if isinstance(effect, AnswerRequest)]


def node_in(world: FickleWorld) -> Node:
    identity = Identity(b"k" * 32)
    ipam = Ipam(
        ourself=identity.name,
        nickname="one",
        universe=ip_network("10.32.0.0/24"),
        default_subnet=None,
        init=Seed((identity.name,)),
        saved=None,
        rng=Random(1),
        now=0.0,
        expects_peers=False,
    )
    mesh = Mesh(
        identity=identity,
        uid=PeerUid(1),
        nickname="one",
        secret=b"s" * 32,
        encrypted=True,
        port=6783,
        udp_port=6783,
        channels={"ring": ipam},
        rng=Random(2),
        now=0.0,
    )
    node = Node(mesh, ipam, Negotiator((), Random(3)), world)
    node.handle_timeout(0.0)
    return node


def test_an_allocation_that_the_disk_refuses_fails_at_once_and_not_after_its_deadline() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    world.refuses = True
    node.run_ring(node.ipam.allocate(1, "c1", None, 5.0, 1.0), 1.0)
    assert [(a.address, a.error, a.kind) for a in world.answers()] == [
        (None, "no space left on device", "disk")
    ]


def test_the_owner_that_was_refused_gets_its_address_when_the_disk_is_back() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    world.refuses = True
    node.run_ring(node.ipam.allocate(1, "c1", None, 5.0, 1.0), 1.0)
    world.refuses = False
    node.handle_timeout(1.0 + PERSIST_RETRY_S)
    assert len(world.answers()) == 1
    node.run_ring(node.ipam.allocate(2, "c1", None, 9.0, 4.0), 4.0)
    assert world.answers()[1].address == int(ip_network("10.32.0.0/24")[1])
    persisted = [effect for effect in world.done if isinstance(effect, Persist)]
    assert [row.owner for effect in persisted for row in effect.allocated] == ["c1"]


def test_a_request_that_could_be_served_while_the_disk_refuses_is_refused_at_once_too() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    world.refuses = True
    node.run_ring(node.ipam.allocate(1, "c1", None, 5.0, 1.0), 1.0)
    granted = AnswerRequest(2, 169869313, None)
    assert node._persisted([granted], 3.0) == [
        AnswerRequest(2, None, "no space left on device", "disk")
    ]


def test_whoever_waits_for_the_ring_hears_at_once_that_the_disk_refuses() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    world.refuses = True
    node.run_ring(node.ipam.allocate(1, "c1", None, 5.0, 1.0), 1.0)
    node.run_ring(node.ipam.prime(2, 9.0, 3.0), 3.0)
    assert world.answers()[1:] == [AnswerRequest(2, None, "no space left on device", "disk")]


def test_what_the_ring_has_to_say_for_the_log_reaches_the_log() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    node.run_ring(node.ipam.handle_gossip(node.mesh.ourself, b"garbage", 1.0), 1.0)
    lines = [effect for effect in world.done if isinstance(effect, LogLine)]
    assert any("ignored what a peer said" in line.message for line in lines)


def test_a_peers_offer_reaches_the_fast_path_and_nonsense_in_its_place_is_a_line_in_the_log() -> (
    None
):
    world = FickleWorld()
    node = node_in(world)
    node.paths = paths = FastPaths(
        Random(4), 0.0, policy=Policy("auto", False), mtu_bytes=1400, ourself=node.mesh.ourself
    )
    peer = PeerName("7a:0c:00:00:00:02")
    node.run([PeerConnected(peer, "10.0.0.2", 6783, b"o" * 32, False)], 1.0)
    offer = Offer(False, "it is off", b"12345678", 1400, 6784, "10.0.0.1")
    node.run([OverlayMessageReceived(peer, encode_message(offer))], 1.0)
    node.handle_datapath(SessionUp(peer, "10.0.0.2", 6783), 1.0)
    node.run(
        [RoutesChanged({peer: ShortId(2), node.mesh.ourself: ShortId(1)}, {peer: peer}, {}, ())],
        1.0,
    )
    assert [row.reason for row in paths.rows(1.0)] == [
        "the other end does not want a fast path: it is off"
    ]
    node.run([OverlayMessageReceived(peer, b"\0nonsense")], 1.0)
    lines = [effect for effect in world.done if isinstance(effect, LogLine)]
    assert "malformed message about the fast path" in lines[-1].message


def test_the_ring_is_told_once_of_all_peers_that_one_look_has_found() -> None:
    world = FickleWorld()
    node = node_in(world)
    assert node.ipam is not None
    told: list[Sequence[PeerName]] = []
    tell = node.ipam.handle_peers_changed

    def counted(
        reachable: Sequence[PeerName],
        now: float,
        sessions: Collection[PeerName],
        neighbours: Collection[PeerName],
    ) -> list[IpamEffect]:
        told.append(reachable)
        return tell(reachable, now, sessions, neighbours)

    with patch.object(node.ipam, "handle_peers_changed", counted):
        found = [PeerAdded(PeerName(f"02:00:00:00:00:{n:02}"), PeerUid(n), "") for n in range(50)]
        node.mesh._view.routes = replace(node.mesh.routes)
        node.run([*found, ReachableChanged()], 1.0)
        assert len(told) == 1
        node.mesh._view.routes = replace(node.mesh.routes)
        node.run([ReachableChanged()], 2.0)
        assert len(told) == 2

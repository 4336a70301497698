"""What is dropped is said, with the pods' names, and as `explain` says it."""

import select
import socket
import time
from collections.abc import Iterator

import pytest

from policy.core.drops import Drop, explained
from policy.core.explain import Service, explain
from policy.core.packets import read_packet
from policy.shell import script
from tests.policy.nodes import Node
from tests.policy.objects import OPEN, labels, pod, policy
from tests.policy.reach import Cell
from tests.policy.shell.conftest import Cluster, ReachMaker
from weavepy.kernel.nflog import NoPacketLog, PacketLog
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
A6, B6 = "fd00:1::1", "fd00:1::2"
PODS = [
    pod("a", A, A6, node="one", app="client"),
    pod("b", B, B6, node="one", app="web"),
    pod("c", C, node="two", app="web"),
]
HEARD_S = 5.0


class Listener:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.log = in_namespace(node.namespace, lambda: PacketLog(script.LOG_GROUP))
        self.raw = 0

    def until(self, *wanted: str) -> dict[str, Drop]:
        """Drops as lines, until all these are there."""
        found: dict[str, Drop] = {}
        deadline = time.monotonic() + HEARD_S
        while not set(wanted) <= found.keys() and time.monotonic() < deadline:
            select.select([self.log], [], [], 0.2)
            for one in self.log.read():
                packet = read_packet(one.packet)
                assert packet is not None
                receivers = self.node.filter.addresses(one.mark)
                drop = explained(self.node.policies, one.prefix, packet, receivers)
                assert drop is not None
                found[str(drop)] = drop
                self.raw += 1
        assert set(wanted) <= found.keys(), "\n".join(found)
        return found


@pytest.fixture
def listener(cluster: Cluster) -> Iterator[Listener]:
    made = Listener(cluster.nodes["one"])
    yield made
    made.log.close()


def test_drops_are_told_with_names_directions_and_policies(
    cluster: Cluster, reach: ReachMaker, listener: Listener
) -> None:
    a, b, c = cluster.place(*PODS)
    cluster.tell(
        policy("closed", labels(app="web")),
        policy("also", {}, ingress=[{"ports": [{"port": 81}]}]),
        policy("quiet", labels(app="web"), policyTypes=["Egress"]),
    )
    cells = [
        Cell(a, B, "TCP", 80),
        Cell(a, B6, "UDP", 80),
        Cell(c, A, "ICMP"),
        Cell(b, C, "TCP", 80),
    ]
    assert reach.among(a, b, c).table(cells) == set()
    into_b = "ingress of x/b ({}), isolated by x/also, x/closed"
    drops = listener.until(
        f"x/a ({A}) -> x/b ({B}) 80/tcp: " + into_b.format(B),
        f"x/a ({A6}) -> x/b ({B6}) 80/udp: " + into_b.format(B6),
        f"x/b ({B}) -> x/c ({C}) 80/tcp: egress of x/b ({B}), isolated by x/quiet",
    )
    for drop in drops.values():
        number, _, protocol = drop.service.partition("/")
        service = Service(protocol, int(number)) if protocol else Service()  # type: ignore[arg-type]
        answer = explain(
            listener.node.policies, drop.source.address, drop.destination.address, service
        )
        (side,) = (one for one in answer.sides if one.direction == drop.direction)
        assert not side.allowed
        assert drop.policies == tuple(f"{one.namespace}/{one.name}" for one in side.isolating)


def test_a_reply_that_is_dropped_is_told_as_the_connection_that_it_belongs_to(
    cluster: Cluster, listener: Listener
) -> None:
    a, b, _ = cluster.place(*PODS)
    cluster.tell(policy("open", labels(app="web"), ingress=OPEN))
    with _datagrams(a) as client, _datagrams(b) as server:
        client.sendto(b"ask", (B, server.getsockname()[1]))
        _, sender = server.recvfrom(10)
        cluster.tell(policy("open", labels(app="web")))
        server.sendto(b"late", sender)
        listener.until(
            f"x/a ({A}) -> x/b ({B}) {server.getsockname()[1]}/udp (a packet that goes back):"
            f" ingress of x/b ({B}), isolated by x/open"
        )


def test_a_pod_under_fire_does_not_keep_another_from_being_heard(
    cluster: Cluster, listener: Listener
) -> None:
    a, *_ = cluster.place(*PODS)
    cluster.tell(policy("closed", {}, policyTypes=["Ingress"]))
    with _datagrams(a) as gun:
        for _ in range(2000):
            gun.sendto(b"x", (B, 9))
    with _datagrams(cluster.pods[C].name) as other:
        other.sendto(b"x", (A, 9))
    listener.until(
        f"x/a ({A}) -> x/b ({B}) 9/udp: ingress of x/b ({B}), isolated by x/closed",
        f"x/c ({C}) -> x/a ({A}) 9/udp: ingress of x/a ({A}), isolated by x/closed",
    )
    assert listener.raw < 100
    assert listener.node.drops()["ingress", B] >= 2000


def test_a_second_reader_of_the_log_is_refused_in_words(listener: Listener) -> None:
    with pytest.raises(NoPacketLog, match="another program"):
        in_namespace(listener.node.namespace, lambda: PacketLog(script.LOG_GROUP))


def _datagrams(namespace: str) -> socket.socket:
    made = in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.settimeout(HEARD_S)
    made.bind(("0.0.0.0", 0))
    return made

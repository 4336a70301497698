"""Connections that are there already when policies change, numbered so that a loss would show."""

import select
import socket
import time
from collections.abc import Iterator

import pytest

from tests.policy.objects import OPEN, labels, pod, policy
from tests.policy.shell.conftest import Cluster
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
PODS = [
    pod("a", A, node="one", app="client"),
    pod("b", B, node="one", app="web"),
    pod("c", C, node="two", app="web"),
]
CUT_S = 1.0
HEARD_S = 5.0
FROM_CLIENT = [{"from": [{"podSelector": labels(app="client")}]}]


class Stream:
    """A TCP connection into a pod."""

    def __init__(self, source: str, destination: str, address: str) -> None:
        with in_namespace(destination, lambda: socket.create_server(("0.0.0.0", 0))) as listener:
            port = listener.getsockname()[1]
            self.client = in_namespace(source, lambda: socket.socket())
            self.client.settimeout(HEARD_S)
            self.client.connect((address, port))
            self.server, _ = listener.accept()
        self.server.settimeout(HEARD_S)
        self._number = 0

    def passes(self, within_s: float = HEARD_S, backwards: bool = False) -> bool:
        """Whether the next number arrives, and is the next one."""
        giver, taker = (self.client, self.server)[:: -1 if backwards else 1]
        self._number += 1
        giver.sendall(self._number.to_bytes(4, "big"))
        if not select.select([taker], [], [], within_s)[0]:
            return False
        assert taker.recv(4) == self._number.to_bytes(4, "big")
        return True

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def streams() -> Iterator[list[Stream]]:
    made: list[Stream] = []
    yield made
    for stream in made:
        stream.close()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.checklist(23)
def test_a_connection_that_a_change_forbids_is_cut_in_both_directions(
    cluster: Cluster, streams: list[Stream], far: bool, backwards: bool
) -> None:
    """Also when the next packet comes from the side that is free to open connections."""
    a, b, c = cluster.place(*PODS)
    streams.append(Stream(a, c if far else b, C if far else B))
    cluster.tell(policy("p", labels(app="web"), ingress=FROM_CLIENT))
    assert streams[0].passes()
    assert streams[0].passes(backwards=True)
    cluster.tell(policy("p", labels(app="web"), ingress=[]))
    assert not streams[0].passes(CUT_S, backwards)


@pytest.mark.checklist(23)
def test_a_cut_connection_does_not_come_back_by_itself_as_another_one(
    cluster: Cluster, streams: list[Stream]
) -> None:
    """Retransmissions go on for minutes, and meet changes that have nothing to do with them."""
    a, b, _ = cluster.place(*PODS)
    streams.append(Stream(a, b, B))
    cluster.tell(policy("p", labels(app="web"), ingress=[]))
    assert not streams[0].passes(0.5)
    assert not streams[0].passes(0.5, backwards=True)
    cluster.nodes["one"].run("conntrack", "-F")
    cluster.tell(policy("other", labels(app="nobody"), ingress=OPEN))
    assert not streams[0].passes(0.5)
    assert not streams[0].passes(0.5, backwards=True)


def test_allowed_connections_outlive_all_other_changes(
    cluster: Cluster, streams: list[Stream]
) -> None:
    a, b, c = cluster.place(*PODS)
    streams += [Stream(a, b, B), Stream(a, c, C), Stream(b, c, C)]
    web_too = [{"from": [{"podSelector": {}}]}]
    for number in range(5):
        cluster.tell(policy("p", labels(app="web"), ingress=FROM_CLIENT + web_too))
        cluster.tell(policy(f"more-{number}", {}, policyTypes=["Egress"], egress=OPEN))
        cluster.tell(policy("p", labels(app="web"), ingress=web_too))
        for stream in streams:
            assert stream.passes()
            assert stream.passes(backwards=True)


@pytest.mark.checklist(27)
def test_a_pod_that_gets_the_label_back_goes_on_with_its_connection(
    cluster: Cluster, streams: list[Stream]
) -> None:
    a, b, _ = cluster.place(*PODS)
    cluster.tell(policy("p", labels(app="web"), ingress=FROM_CLIENT))
    streams.append(Stream(a, b, B))
    cluster.tell(pod("a", A, node="one", app="other"))
    assert not streams[0].passes(0.5)
    cluster.tell(PODS[0])
    (answered, _, _) = select.select([streams[0].server], [], [], HEARD_S)
    assert answered, "TCP sends again what was lost meanwhile"


@pytest.mark.checklist(22)
def test_replies_to_a_datagram_pass_though_the_sender_is_isolated(cluster: Cluster) -> None:
    a, b, _ = cluster.place(*PODS)
    cluster.tell(
        policy("in", labels(app="web"), ingress=FROM_CLIENT),
        policy(
            "out", {}, policyTypes=["Egress"], egress=[{"to": [{"podSelector": labels(app="web")}]}]
        ),
        policy("nothing-into-clients", labels(app="client")),
    )
    server, client = _datagrams(b), _datagrams(a)
    with server, client:
        client.sendto(b"ask", (B, server.getsockname()[1]))
        _, sender = server.recvfrom(10)
        for number in range(3):
            server.sendto(b"%d" % number, sender)
            assert client.recv(10) == b"%d" % number
        # And what was only ever allowed as a reply ends with what it replies to.
        cluster.tell(policy("in", labels(app="web")))
        server.sendto(b"still", sender)
        client.settimeout(CUT_S)
        with pytest.raises(TimeoutError):
            client.recv(10)


@pytest.mark.checklist(23)
def test_datagrams_that_a_change_forbids_are_cut_though_they_were_answered(
    cluster: Cluster,
) -> None:
    a, b, _ = cluster.place(*PODS)
    cluster.tell(policy("in", labels(app="web"), ingress=FROM_CLIENT))
    with _datagrams(a) as client, _datagrams(b) as server:
        client.sendto(b"one", (B, server.getsockname()[1]))
        _, sender = server.recvfrom(10)
        server.sendto(b"two", sender)
        assert client.recv(10) == b"two"
        cluster.tell(policy("in", labels(app="web")))
        client.sendto(b"three", (B, server.getsockname()[1]))
        server.settimeout(CUT_S)
        with pytest.raises(TimeoutError):
            server.recv(10)


@pytest.mark.checklist(22)
def test_errors_about_an_allowed_connection_come_through(cluster: Cluster) -> None:
    """Nobody listens on that port, and an isolated client is told so."""
    a, *_ = cluster.place(*PODS)
    cluster.tell(policy("closed", labels(app="client"), policyTypes=["Ingress"]))
    with _datagrams(a) as client:
        client.connect((B, 9))
        deadline = time.monotonic() + HEARD_S
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                client.send(b"?")
                client.settimeout(0.2)
                try:
                    client.recv(1)
                except TimeoutError:
                    continue


def test_what_belongs_to_no_connection_does_not_reach_an_isolated_pod(
    cluster: Cluster, streams: list[Stream]
) -> None:
    """A connection from before, of which the filter never saw the beginning."""
    a, b, _ = cluster.place(*PODS)
    streams.append(Stream(a, b, B))
    cluster.nodes["one"].run("conntrack", "-F")
    assert streams[0].passes()
    cluster.tell(policy("p", labels(app="web"), ingress=FROM_CLIENT))
    cluster.nodes["one"].run("conntrack", "-F")
    assert not streams[0].passes(0.5)
    assert not streams[0].passes(0.5, backwards=True)


def _datagrams(namespace: str) -> socket.socket:
    made = in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.settimeout(HEARD_S)
    made.bind(("0.0.0.0", 0))
    return made

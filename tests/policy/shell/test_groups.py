"""What goes to everybody or to a group reaches an isolated pod only if its policies let it in."""

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest

from policy.core.drops import explained
from policy.core.packets import read_packet
from policy.shell import script
from tests.policy.objects import OPEN, labels, pod, policy
from tests.policy.reach import Cell
from tests.policy.shell.conftest import BRIDGE, Cluster, ReachMaker
from weavepy.kernel.nflog import PacketLog
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root

A, B, C, D = (f"10.1.0.{number}" for number in (1, 2, 3, 4))
A6, B6, C6 = (f"fd00:1::{number}" for number in (1, 2, 3))
PODS = [
    pod("a", A, A6, node="one", app="client"),
    pod("b", B, B6, node="one", app="web"),
    pod("c", C, C6, node="two", app="web"),
    pod("d", D, node="one", app="other"),
]
ADDRESSES = {"b": B, "c": C, "d": D, "late": "10.1.0.9"}
DENY = policy("deny", labels(app="web"))
TO_ALL = ("10.1.255.255", "255.255.255.255", "239.1.2.3", "ff02::1")
PORT, OTHER_PORT = 9000, 9001
HEARD_S, QUIET_S = 5.0, 0.5
ETH_P_IP = 0x0800


class Ears:
    """A socket in each pod, of each family and port, that belongs to the group."""

    def __init__(self, stack: ExitStack, namespaces: dict[str, str]) -> None:
        self._names: dict[socket.socket, tuple[str, int]] = {}
        for name, namespace in namespaces.items():
            for port in (PORT, OTHER_PORT):
                for family in (socket.AF_INET, socket.AF_INET6):
                    made = stack.enter_context(_datagrams(namespace, family))
                    made.bind(("", port))
                    self._names[made] = name, port
            join = socket.inet_aton("239.1.2.3") + socket.inet_aton(ADDRESSES[name])
            first = next(one for one, key in self._names.items() if key[0] == name)
            first.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)

    def heard(self, expected: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Who hears something; those who should are waited for."""
        found: set[tuple[str, int]] = set()
        while True:
            complete = found >= set(expected)
            ready = select.select([*self._names], [], [], QUIET_S if complete else HEARD_S)[0]
            if not ready:
                return found
            for one in ready:
                one.recv(100)
                found.add(self._names[one])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def shout(namespace: str, address: str, *ports: int) -> None:
    six = ":" in address
    with _datagrams(namespace, socket.AF_INET6 if six else socket.AF_INET) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        for port in ports:
            made.sendto(b"all", (address, port))


def test_what_goes_to_all_reaches_none_that_is_isolated_and_all_others(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, c, d = cluster.place(*PODS)
    ears = Ears(stack, {"b": b, "c": c, "d": d})
    for address in TO_ALL:
        shout(a, address, PORT)
        everybody = {("b", PORT), ("c", PORT), ("d", PORT)}
        assert ears.heard(everybody) == everybody, address
    cluster.tell(DENY)
    for address in TO_ALL:
        shout(a, address, PORT)
        assert ears.heard({("d", PORT)}) == {("d", PORT)}, address


def test_what_goes_to_all_comes_in_where_sender_and_port_are_allowed(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, c, d = cluster.place(*PODS)
    ears = Ears(stack, {"b": b, "c": c})
    rule = {
        "from": [{"podSelector": labels(app="client")}],
        "ports": [{"protocol": "UDP", "port": PORT}],
    }
    cluster.tell(policy("some", labels(app="web"), ingress=[rule]))
    for _ in range(2):  # the second is of a connection that is known
        shout(d, TO_ALL[0], PORT, OTHER_PORT)
        shout(a, TO_ALL[0], PORT, OTHER_PORT)
        allowed = {("b", PORT), ("c", PORT)}
        assert ears.heard(allowed) == allowed
    cluster.tell(policy("some", labels(app="web"), ingress=[]))
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()


def test_what_goes_to_all_leaves_only_who_may_send_there(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, _, d = cluster.place(*PODS)
    ears = Ears(stack, {"b": b, "d": d})
    cluster.tell(
        policy("out", labels(app="client"), policyTypes=["Egress"]),
        policy("in", labels(app="web"), ingress=OPEN),
    )
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()


@pytest.mark.parametrize("closed", [False, True])
def test_a_broadcast_in_a_frame_for_one_pod_is_a_broadcast(
    cluster: Cluster, stack: ExitStack, closed: bool
) -> None:
    a, b, *_ = cluster.place(*PODS)
    ears = Ears(stack, {"b": b})
    if closed:
        cluster.tell(DENY)
    raw = stack.enter_context(
        in_namespace(a, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    )
    raw.bind(("eth0", 0))
    for target in (b"\xff" * 6, _mac(cluster, b)):  # the second is of a connection that is known
        raw.send(_frame(_mac(cluster, a), target, A, TO_ALL[0], PORT))
        expected = set() if closed else {("b", PORT)}
        assert ears.heard(expected) == expected


def test_a_packet_for_one_pod_in_a_frame_for_all_is_not_seen_by_others_that_are_isolated(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, _, d = cluster.place(*PODS)
    ears = Ears(stack, {"d": d})
    cluster.tell(DENY)
    shout(d, A, PORT)  # the bridge learns where it is
    raw, sniffer = (
        stack.enter_context(
            in_namespace(one, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        )
        for one in (a, b)
    )
    raw.bind(("eth0", 0))
    sniffer.bind(("eth0", ETH_P_IP))
    for target in (_mac(cluster, d), b"\xff" * 6):  # the second is of a connection that is known
        raw.send(_frame(_mac(cluster, a), target, A, D, PORT))
        assert ears.heard({("d", PORT)}) == {("d", PORT)}
    cluster.tell(policy("deny", labels(app="web"), ingress=OPEN))
    shout(a, TO_ALL[0], PORT)
    seen = set()
    while TO_ALL[0] not in seen and select.select([sniffer], [], [], HEARD_S)[0]:
        seen.add(socket.inet_ntoa(sniffer.recv(100)[30:34]))
    assert TO_ALL[0] in seen
    assert D not in seen


def test_a_forged_sender_opens_no_way_by_which_a_reply_reaches_all(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, _, d = cluster.place(*PODS)
    ears = Ears(stack, {"b": b})
    cluster.tell(DENY)
    for address in TO_ALL[:3]:
        for sender, frame in (
            (a, _frame(_mac(cluster, a), _mac(cluster, d), address, D, 4000, source_port=PORT)),
            (d, _frame(_mac(cluster, d), b"\xff" * 6, D, address, PORT)),
        ):
            raw = in_namespace(sender, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            with raw:
                raw.bind(("eth0", 0))
                raw.send(frame)
        assert ears.heard(()) == set(), address


def test_neighbours_are_found_and_nobody_meets_our_marks(
    cluster: Cluster, reach: ReachMaker, stack: ExitStack
) -> None:
    a, b, c, _ = cluster.place(*PODS)
    node = cluster.nodes["one"]
    node.run(
        "nft",
        "table inet others {\n counter marked { }\n chain c {\n"
        " type filter hook postrouting priority 0\n"
        f" meta mark & {script.MARK_MASK} == {script.MARK} counter name marked\n }}\n }}",
    )
    cluster.tell(
        policy("p", labels(app="web"), ingress=[{"from": [{"podSelector": labels(app="client")}]}])
    )
    for namespace in (a, b):
        cluster.run_in(namespace, "ip", "neigh", "flush", "dev", "eth0")
    cells = [Cell(a, B, "TCP", 80), Cell(a, B6, "ICMP"), Cell(a, C6, "TCP", 80)]
    assert reach.among(a, b, c).table(cells, cells) == set(cells)
    ears = Ears(stack, {"b": b})
    shout(a, TO_ALL[0], PORT)
    assert ears.heard({("b", PORT)}) == {("b", PORT)}
    assert "packets 0 " in node.run("nft", "list", "counter", "inet", "others", "marked")


def test_such_drops_are_counted_and_told_for_the_pod_that_did_not_get_it(cluster: Cluster) -> None:
    a, *_ = cluster.place(*PODS)
    node = cluster.nodes["one"]
    with_log = in_namespace(node.namespace, lambda: PacketLog(script.LOG_GROUP))
    try:
        cluster.tell(DENY)
        shout(a, TO_ALL[0], PORT)
        select.select([with_log], [], [], HEARD_S)
        (one,) = with_log.read()
        packet = read_packet(one.packet)
        assert packet is not None
        drop = explained(node.policies, one.prefix, packet, node.filter.addresses(one.mark))
        assert drop is not None
        assert (str(drop.source), str(drop.destination)) == (f"x/a ({A})", f"x/b ({TO_ALL[0]})")
        assert drop.policies == ("x/deny",)
        assert node.drops()["ingress", B] == 1
    finally:
        with_log.close()


def test_a_pod_that_comes_later_is_closed_to_it_and_a_restart_leaves_it_so(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, *_ = cluster.place(*PODS[:3])
    cluster.tell(DENY)
    (late,) = cluster.place(pod("late", "10.1.0.9", node="one", app="web"))
    node = cluster.nodes["one"]
    ears = Ears(stack, {"b": b, "late": late})
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()
    known = [*PODS[:3], pod("late", "10.1.0.9", node="one", app="web"), DENY]
    node.restart()
    for document in known:
        node.tell(document)
    assert not node.restore()
    node.restart()
    node.run("nft", "flush map bridge weavepy_policy marks")
    for document in known:
        node.tell(document)
    assert node.restore()
    assert not node.restore()
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()
    assert f'"{BRIDGE}"' not in node.run("nft", "list", "table", "bridge", "weavepy_policy")


def test_a_filter_that_does_not_know_all_closes_what_comes_and_leaves_the_rest_closed(
    cluster: Cluster, stack: ExitStack
) -> None:
    a, b, *_ = cluster.place(*PODS[:3])
    cluster.tell(DENY)
    node = cluster.nodes["one"]
    node.restart()
    late = pod("late", "10.1.0.9", node="one", app="web")
    for document in (late, DENY):
        node.tell(document)
    changes = node.policies.settle()
    in_namespace(node.namespace, lambda: node.filter.add(changes))
    namespace = cluster.add_pod("one", "10.1.0.9")
    cluster.await_carrier([namespace])
    ears = Ears(stack, {"b": b, "late": namespace})
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()
    for document in PODS[:3]:
        node.tell(document)
    node.restore()
    assert not node.restore()
    shout(a, TO_ALL[0], PORT)
    assert ears.heard(()) == set()


def _datagrams(namespace: str, family: int) -> socket.socket:
    made = in_namespace(namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _mac(cluster: Cluster, namespace: str) -> bytes:
    shown = cluster.run_in(namespace, "cat", "/sys/class/net/eth0/address")
    return bytes.fromhex(shown.strip().replace(":", ""))


def _frame(
    source: bytes, target: bytes, address: str, other: str, port: int, source_port: int = 4000
) -> bytes:
    udp = struct.pack(">HHHH", source_port, port, 11, 0) + b"all"
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    head += socket.inet_aton(address) + socket.inet_aton(other)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return target + source + b"\x08\x00" + head + udp

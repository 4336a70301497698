"""Real datapath processes between real namespaces: the kernel has the last word."""

import hashlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.sleeve.messages import InstallRoutes, RemoveSession, SessionUp, SetMtu
from router.sleeve.parts import packets
from tests.router.sleeve.world import PORT, Host, World, inside, needs_kernel, run, wait_for

pytestmark = [needs_kernel, pytest.mark.root, pytest.mark.timeout(120)]

OFFLOAD: tuple[str, ...] = ()
PORTABLE = ("--no-offload",)
ETHERTYPE = 0x88B5


@pytest.fixture(scope="module")
def offloading() -> Iterator[World]:
    """Two hosts, joined, for tests that leave them as they were."""
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        yield world


def transfer(one: Host, other: Host, size: int, *, ipv6: bool = False) -> bytes:
    """Send that much over TCP between the containers; the digest of what arrived."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with inside(other.container):
        server = socket.create_server(("::" if ipv6 else "0.0.0.0", 0), family=family)
    with inside(one.container):
        client = socket.socket(family)
    with server, client:
        client.settimeout(20.0)
        client.connect((other.overlay6 if ipv6 else other.overlay, server.getsockname()[1]))
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20.0)
            sender = threading.Thread(target=_send_all, args=(client, size))
            sender.start()
            digest = hashlib.sha256()
            while data := connection.recv(1 << 20):
                digest.update(data)
            sender.join()
            return digest.digest()


def _send_all(client: socket.socket, size: int) -> None:
    client.sendall(payload(size))
    client.shutdown(socket.SHUT_WR)


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def digest_of(size: int) -> bytes:
    return hashlib.sha256(payload(size)).digest()


class Stream:
    """Numbered UDP datagrams from one container to another."""

    def __init__(self, one: Host, other: Host) -> None:
        with inside(other.container):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.receiver.bind(("0.0.0.0", 0))
        self.receiver.settimeout(2.0)
        with inside(one.container):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect((other.overlay, self.receiver.getsockname()[1]))
        self.sent = 0
        self.heard: list[int] = []

    def send(self, count: int, size: int = 200) -> None:
        for _ in range(count):
            self.sender.send(struct.pack("!I", self.sent).ljust(size, b"u"))
            self.sent += 1

    def hear(self) -> None:
        """Read until all that was sent is here, or nothing comes for two seconds."""
        while len(self.heard) < self.sent:
            try:
                data = self.receiver.recv(65536)
            except TimeoutError:
                return
            self.heard.append(struct.unpack_from("!I", data)[0])

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


def packet_socket(namespace: str, device: str, ethertype: int) -> socket.socket:
    with inside(namespace):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        packets.bind((device, ethertype))
    packets.settimeout(5.0)
    return packets


# --- frames ----------------------------------------------------------------------------------


def test_containers_reach_each_other_over_ipv4_and_ipv6(offloading: World) -> None:
    one, two = offloading.hosts
    for ipv6 in (False, True):
        for size in (56, 1300, 8000):
            assert offloading.ping(one, two, size=size, ipv6=ipv6)
            assert offloading.ping(two, one, size=size, ipv6=ipv6)


@pytest.mark.parametrize("ipv6", [False, True])
def test_tcp_carries_every_byte(offloading: World, ipv6: bool) -> None:
    one, two = offloading.hosts
    size = 30_000_000
    assert transfer(one, two, size, ipv6=ipv6) == digest_of(size)
    assert transfer(two, one, size, ipv6=ipv6) == digest_of(size)
    assert set(one.report().offloads) >= {"tap-tso", "udp-gso", "udp-gro"}


def test_on_a_clean_path_records_come_to_span_datagrams_and_one_loss_ends_that() -> None:
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        size = 60_000_000
        for _ in range(10):
            assert transfer(one, two, size) == digest_of(size)
            if one.session(two).span >= 16:
                break
        assert one.session(two).span >= 16
        assert one.session(two).losses == 0
        segments = two.session(one).records_received
        assert segments < two.session(one).bytes_received / 1500, "many datagrams per record"
        lossy(world, 0.01)
        size = 2_000_000
        assert transfer(one, two, size) == digest_of(size)
        assert one.session(two).losses > 0
        wait_for("the span of a lossy path", lambda: transfer_and_span(one, two) == 1)


def transfer_and_span(one: Host, two: Host) -> int:
    assert transfer(one, two, 500_000) == digest_of(500_000)
    return one.session(two).span


@pytest.mark.parametrize("loss", [0.001, 0.01])
def test_tcp_carries_every_byte_over_a_lossy_path(loss: float) -> None:
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        lossy(world, loss)
        for size in (3_000_000, 5_000_000):
            assert transfer(one, two, size) == digest_of(size)
            assert transfer(two, one, size) == digest_of(size)
        assert one.session(two).losses > 0


@pytest.mark.parametrize("options", [("--max-span", "1"), PORTABLE])
def test_who_takes_no_spanning_records_is_sent_none(options: tuple[str, ...]) -> None:
    with World(OFFLOAD, options) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        size = 20_000_000
        for _ in range(3):
            assert transfer(one, two, size) == digest_of(size)
        if options == PORTABLE:
            assert one.session(two).span >= 1, "it takes them, and TCP found every byte right"
        else:
            assert one.session(two).span == 1


def test_small_udp_packets_of_a_flow_come_together_and_leave_apart() -> None:
    """What `router.shell.coalescing` does to a container's packets costs none of them."""
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        if not coalesce_in(one):
            pytest.skip("this kernel does not coalesce forwarded UDP on a veth")
        stream = Stream(one, two)
        before = frames_read(one)
        for turn in range(40):
            for size in (64, 64, 4, 1372, 65, 700):
                stream.send(20 + turn % 3, size)
            stream.hear()
        stream.close()
        assert stream.heard == list(range(stream.sent))
        assert frames_read(one) - before < stream.sent / 2
        assert world.ping(one, two)


def coalesce_in(host: Host) -> bool:
    script = "import socket, sys; from router.shell.coalescing import coalesce; "
    script += "sys.exit(not coalesce('c', socket.if_nametoindex('c')))"
    command = ["ip", "netns", "exec", host.namespace, sys.executable, "-c", script]
    return subprocess.run(command, timeout=20).returncode == 0


def frames_read(host: Host) -> int:
    """How many frames the TAP has handed to the datapath, whole or coalesced."""
    statistics = "/sys/class/net/weavetap/statistics/tx_packets"
    return int(run("ip", "netns", "exec", host.namespace, "cat", statistics))


def lossy(world: World, loss: float) -> None:
    """Each datagram on its own is lost by lot, on the way to either host."""
    rules = ["add table netdev lossy"]
    for host in world.hosts:
        for feature in ("tso", "gso", "tx-udp-segmentation"):
            run("ip", "netns", "exec", host.namespace, "ethtool", "-K", "under", feature, "off")
        port = f"h{host.number}"
        run("ip", "netns", "exec", world.wire, "ethtool", "-K", port, "gro", "off")
        chain = f"netdev lossy {port}"
        hook = f'type filter hook egress device "{port}" priority 0;'
        rules.append(f"add chain {chain} {{ {hook} }}")
        rules.append(
            f"add rule {chain} numgen random mod 1000000 < {round(loss * 1e6)} counter drop"
        )
    rules_file = Path(world.hosts[0].directory) / "lossy.nft"
    rules_file.write_text("\n".join(rules) + "\n")
    run("ip", "netns", "exec", world.wire, "nft", "-f", str(rules_file))


def test_udp_arrives_complete_and_in_order(offloading: World) -> None:
    one, two = offloading.hosts
    stream = Stream(one, two)
    for size in (4, 100, 700, 1372, 5000):
        stream.send(200, size)
        stream.hear()
    stream.close()
    assert stream.heard == list(range(stream.sent))


def test_keys_are_replaced_under_traffic_without_a_loss(offloading: World) -> None:
    one, two = offloading.hosts
    before = one.session(two).epoch
    stream = Stream(one, two)
    for turn in range(40):
        if turn in (10, 20, 30):
            offloading.join(one, two)
        stream.send(20)
        stream.hear()
    wait_for("the new epochs in use", lambda: one.session(two).epoch == before + 3)
    stream.close()
    assert stream.heard == list(range(stream.sent))


def test_an_underlay_of_ipv6_works_as_well() -> None:
    with World(OFFLOAD, OFFLOAD, ipv6=True) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert one.session(two).endpoint_host == two.underlay
        assert one.session(two).overlay_mtu_bytes == 1400
        assert transfer(one, two, 5_000_000) == digest_of(5_000_000)


@pytest.mark.parametrize(
    ("first", "second"), [(OFFLOAD, PORTABLE), (PORTABLE, OFFLOAD), (PORTABLE, PORTABLE)]
)
def test_the_portable_path_interoperates(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    with World(first, second) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert (one.report().offloads == []) == (first == PORTABLE)
        assert world.ping(one, two, size=3000)
        for ipv6 in (False, True):
            assert transfer(one, two, 3_000_000, ipv6=ipv6) == digest_of(3_000_000)
        stream = Stream(two, one)
        for _ in range(20):
            stream.send(20, 1000)
            stream.hear()
        stream.close()
        assert stream.heard == list(range(stream.sent))


# --- several hosts ---------------------------------------------------------------------------


def test_a_relay_carries_frames_without_touching_its_bridge() -> None:
    with World(OFFLOAD, OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2), (2, 3))
        one, two, three = world.hosts
        assert world.ping(one, three)
        assert world.ping(one, two)
        counter = "/sys/class/net/weavetap/statistics/rx_bytes"
        before = int(run("ip", "netns", "exec", two.namespace, "cat", counter))
        size = 10_000_000
        assert transfer(one, three, size) == digest_of(size)
        after = int(run("ip", "netns", "exec", two.namespace, "cat", counter))
        assert after - before < size / 100


def test_a_broadcast_arrives_exactly_once_in_a_triangle_with_a_tail() -> None:
    with World(OFFLOAD, OFFLOAD, OFFLOAD, PORTABLE) as world:
        world.join_all((1, 2), (2, 3), (1, 3), (3, 4))
        ears = [packet_socket(host.container, "eth0", ETHERTYPE) for host in world.hosts]
        frame = b"\xff" * 6 + bytes.fromhex("0200000000aa") + struct.pack("!H", ETHERTYPE)
        for source, mouth in enumerate(ears):
            for number in range(20):
                mouth.send(frame + struct.pack("!II", source, number).ljust(60, b"b"))
        for listener, ear in enumerate(ears):
            heard = []
            while len(heard) < 60:
                data = ear.recv(2048)
                heard.append(struct.unpack_from("!II", data, 14))
            ear.settimeout(0.3)
            with pytest.raises(TimeoutError):
                ear.recv(2048)
            sources = [source for source in range(4) if source != listener]
            assert sorted(heard) == [(s, n) for s in sources for n in range(20)]
            ear.close()


# --- sizes -----------------------------------------------------------------------------------


def test_a_narrow_path_is_found_and_containers_are_told() -> None:
    with World(OFFLOAD, OFFLOAD) as world:
        for device in ("h1", "h2"):
            run("ip", "-n", world.wire, "link", "set", device, "mtu", "1300")
        one, two = world.hosts
        world.join_all((1, 2))
        wait_for("the path MTU", lambda: one.session(two).path_mtu_bytes == 1300)
        wait_for("the path MTU back", lambda: two.session(one).path_mtu_bytes == 1300)
        assert one.session(two).overlay_mtu_bytes == 1200
        ping = ("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1300", two.overlay)
        output = run("ip", "netns", "exec", one.container, *ping, check=False)
        assert "mtu = 1200" in output or "mtu=1200" in output
        assert world.ping(one, two, size=1400)
        assert transfer(one, two, 2_000_000) == digest_of(2_000_000)
        assert transfer(two, one, 2_000_000, ipv6=True) == digest_of(2_000_000)


def test_the_router_sets_the_mtu(offloading: World) -> None:
    one, _ = offloading.hosts
    one.send(SetMtu(1350))
    assert one.report().mtu_bytes == 1350
    assert "mtu 1350" in run("ip", "-n", one.namespace, "link", "show", "weavetap")
    one.send(SetMtu(1))
    assert one.report().mtu_bytes == 1350
    one.send(SetMtu(1400))
    assert one.report().mtu_bytes == 1400


@pytest.mark.parametrize("options", [OFFLOAD, PORTABLE])
def test_what_overflows_while_it_stands_still_is_counted(options: tuple[str, ...]) -> None:
    with World(options, OFFLOAD) as world:
        one, two = world.hosts
        with inside(two.namespace):
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mouth = packet_socket(one.container, "eth0", ETHERTYPE)
        frame = b"\xff" * 6 + bytes.fromhex("0200000000aa") + struct.pack("!H", ETHERTYPE)
        os.kill(one.pid(), signal.SIGSTOP)
        try:
            for _ in range(5_000):
                mouth.send(frame + bytes(60))
            for _ in range(40_000):
                stranger.sendto(bytes(1400), (one.underlay, PORT))
        finally:
            os.kill(one.pid(), signal.SIGCONT)
        mouth.close()
        stranger.close()
        drops = one.drops()
        assert drops["tap-queue-full"] >= 1_000
        assert drops["udp-queue-full"] >= 1_000


# --- strangers -------------------------------------------------------------------------------


def test_garbage_is_counted_answered_by_nothing_and_costs_no_memory(offloading: World) -> None:
    one, two = offloading.hosts
    with inside(two.namespace):
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reasons = ("unknown-index", "flood-filtered", "runt-datagram")
    before = sum(one.drops().get(reason, 0) for reason in reasons)
    rng = random.Random(7)
    memory_bytes = 0
    total = 20_000
    for number in range(total):
        stranger.sendto(rng.randbytes(rng.randrange(1, 300)), (one.underlay, PORT))
        if number % 200 == 199:
            one.report()
        if number == total // 4:
            memory_bytes = one.memory_bytes()

    def counted() -> int:
        drops = one.drops()
        return sum(drops.get(reason, 0) for reason in reasons) - before

    # The filter counts datagrams that the kernel coalesced as one.
    wait_for("all garbage counted", lambda: 0.97 * total <= counted() <= total)
    assert one.memory_bytes() - memory_bytes < 1 << 20
    stranger.setblocking(False)
    with pytest.raises(BlockingIOError):
        stranger.recv(2048)
    stranger.close()
    assert offloading.ping(one, two)


@pytest.mark.parametrize("insecure", [False, True])
def test_what_containers_say_shows_on_the_wire_only_without_encryption(insecure: bool) -> None:
    options = ("--insecure",) if insecure else ()
    with World(options, options) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        marker = os.urandom(16).hex().encode()
        ear = packet_socket(one.namespace, "under", 0x0003)
        stream = Stream(one, two)
        stream.sender.send(b"\0\0\0\0" + marker * 10)
        stream.sent = 1
        stream.hear()
        assert stream.heard == [0]
        stream.close()
        seen = b""
        while select.select([ear], [], [], 0.2)[0]:
            seen += ear.recv(65536)
        ear.close()
        assert len(seen) > len(marker)
        assert (marker in seen) == insecure


# --- routers that come and go ----------------------------------------------------------------


def test_frames_go_on_while_there_is_no_router(offloading: World) -> None:
    one, two = offloading.hosts
    stream = Stream(one, two)
    stream.send(50)
    stream.hear()
    one.disconnect()
    two.disconnect()
    for _ in range(20):
        stream.send(50)
        stream.hear()
    one.connect()
    two.connect()
    assert one.snapshot is not None
    (session,) = one.snapshot.sessions
    assert (session.peer, session.up) == (two.peer, True)
    assert one.snapshot.routes.unicast == {2: 2}
    assert one.snapshot.ourself == 1
    stream.send(50)
    stream.hear()
    stream.close()
    assert stream.heard == list(range(stream.sent))


def test_a_newer_router_replaces_the_older_one(offloading: World) -> None:
    one, _ = offloading.hosts
    assert one.link is not None
    older, one.link = one.link, None
    one.connect()
    assert older.recv(65536) == b""
    older.close()
    assert one.report().pid == one.pid()


def test_routes_that_fit_no_packet_replace_the_old_ones_whole(offloading: World) -> None:
    one, two = offloading.hosts
    before = one.report().routes
    leaves = range(2, 700)
    broadcast = {leaf: [other for other in leaves if other != leaf] for leaf in leaves}
    broadcast[1] = [2]
    *first, last = packets(InstallRoutes(1, {2: 2}, broadcast, {2: two.peer}))
    assert len(first) > 3
    assert one.link is not None
    for packet in first:
        one.link.send(packet)
    assert offloading.ping(one, two)
    one.connect()
    assert one.snapshot is not None
    assert one.snapshot.routes == before, "half of a message is nothing"
    for packet in (*first, last):
        one.link.send(packet)
    assert one.report().routes.broadcast == broadcast
    one.connect()
    assert one.snapshot.routes.broadcast == broadcast
    assert offloading.ping(one, two)
    one.send(before)
    assert one.report().routes == before


def test_what_is_no_message_is_ignored(offloading: World) -> None:
    one, _ = offloading.hosts
    assert one.link is not None
    for data in (b"x", b"\xff" * 1000, b"\x81\xa4type\xa6Report", os.urandom(60_000)):
        one.link.send(data)
    assert one.report().ourself == 1


def test_a_session_comes_up_goes_down_and_says_so() -> None:
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        assert any(isinstance(event, SessionUp) for event in one.events)
        run("ip", "-n", two.namespace, "link", "set", "under", "down")
        wait_for("the session to be down", lambda: not one.session(two).up, 8.0)
        assert "SessionDown" in [type(event).__name__ for event in one.events]
        run("ip", "-n", two.namespace, "link", "set", "under", "up")
        wait_for("the session to be up again", lambda: one.session(two).up, 8.0)
        one.send(RemoveSession(two.peer))
        assert one.report().sessions == []


def test_a_peer_that_changes_its_address_is_followed() -> None:
    with World(OFFLOAD, OFFLOAD) as world:
        world.join_all((1, 2))
        one, two = world.hosts
        run("ip", "-n", two.namespace, "addr", "add", "10.99.0.99/24", "dev", "under")
        run("ip", "-n", two.namespace, "addr", "del", "10.99.0.2/24", "dev", "under")
        run("ip", "-n", two.namespace, "addr", "add", "10.99.0.98/24", "dev", "under", check=False)
        wait_for(
            "the new address",
            lambda: one.session(two).endpoint_host in ("10.99.0.98", "10.99.0.99"),
        )
        wait_for("an answer over it", lambda: world.ping(one, two))


# --- the process -----------------------------------------------------------------------------


def test_a_second_datapath_on_the_same_socket_refuses_and_harms_nothing(
    offloading: World,
) -> None:
    one, _ = offloading.hosts
    second = subprocess.run(
        [
            *("ip", "netns", "exec", one.namespace),
            *(sys.executable, "-m", "router.sleeve.process", "--tap", "weavetap2"),
            *("--socket", str(one.socket_path), "--pid-file", str(one.directory / "second.pid")),
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert second.returncode == 1
    assert "another datapath is running" in second.stderr
    assert not (one.directory / "second.pid").exists()
    assert one.report().ourself == 1


def test_interrupts_do_not_end_it(offloading: World) -> None:
    one, two = offloading.hosts
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(one.pid(), number)
    assert os.getsid(one.pid()) == one.pid()
    assert offloading.ping(one, two)


@pytest.mark.parametrize("options", [OFFLOAD, PORTABLE])
@pytest.mark.parametrize("how", ["shutdown", "sigterm"])
def test_it_ends_cleanly_and_starts_over_what_is_stale(options: tuple[str, ...], how: str) -> None:
    with World(options) as world:
        (host,) = world.hosts
        if how == "shutdown":
            assert host.shut_down() == 0
        else:
            os.kill(host.pid(), signal.SIGTERM)
            assert host.process is not None
            assert host.process.wait(10.0) == 0
        assert not host.socket_path.exists()
        assert not (host.directory / "datapath.pid").exists()
        assert "weavetap" not in run("ip", "-n", host.namespace, "link")
        host.start()
        os.kill(host.pid(), signal.SIGKILL)
        assert host.process is not None
        host.process.wait(10.0)
        assert host.socket_path.exists()
        host.socket_path.chmod(0o600)
        host.start()
        assert host.report().tap == "weavetap"


@pytest.mark.parametrize("options", [OFFLOAD, PORTABLE])
def test_it_ends_when_its_tap_is_deleted_and_does_not_spin(options: tuple[str, ...]) -> None:
    with World(options) as world:
        (host,) = world.hosts
        run("ip", "-n", host.namespace, "link", "set", "weavetap", "down")
        assert host.report().tap == "weavetap"
        run("ip", "-n", host.namespace, "link", "del", "weavetap")
        assert host.process is not None
        assert host.process.wait(10.0) == 1
        assert "was deleted" in (host.directory / "log").read_text()
        assert not host.socket_path.exists()


def test_only_root_may_speak_to_it(offloading: World) -> None:
    assert offloading.hosts[0].socket_path.stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_an_error_that_says_so() -> None:
    with World(OFFLOAD) as world:
        (host,) = world.hosts
        second = subprocess.run(
            [
                *("ip", "netns", "exec", host.namespace),
                *(sys.executable, "-m", "router.sleeve.process", "--tap", "weavetap2"),
                *("--socket", str(host.directory / "2.sock")),
                *("--pid-file", str(host.directory / "2.pid")),
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert second.returncode == 1
        assert "port 6783 is taken" in second.stderr
        assert not (host.directory / "2.sock").exists()


def test_an_idle_datapath_is_idle(offloading: World) -> None:
    one, _ = offloading.hosts
    before, started_at = one.cpu_s(), time.monotonic()
    wait_for("a second to pass", lambda: time.monotonic() > started_at + 1.0)
    assert one.cpu_s() - before < 0.1

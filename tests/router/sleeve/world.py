"""Hosts made of network namespaces, each with a real datapath process, driven by test routers.

    host namespace  "weavepy-dp-..a":   bridge br0 = { TAP of the datapath, veth of the container }
    container namespace "weavepy-dp-..ac": eth0 = 10.32.0.N/24, fd32::N/64
    hosts share one bridged underlay of veths, 10.99.0.N/24 and fd99::N/64

A `World` removes every namespace and every process it made, also when a test fails.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router.sleeve.hello import PROTOCOL, hello_decoder
from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    Epoch,
    InstallEpoch,
    InstallRoutes,
    Report,
    SessionReport,
    Shutdown,
    Snapshot,
    ToDatapath,
    from_datapath_decoder,
)
from router.sleeve.parts import Joiner, packets

PORT = 6783
_CLONE_NEWNET = 0x40000000
_serial = itertools.count()


def why_not() -> str:
    """Why there can be no world here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    name = f"weavepy-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"needs network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


needs_kernel = pytest.mark.skipif(bool(why_not()), reason=why_not() or "fine")


def run(*command: str, check: bool = True, timeout_s: float = 30.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_for(what: str, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets that are opened in here belong to that namespace, and stay in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


@dataclass
class Host:
    """One host: its namespaces, its datapath process, and a router's end of the socket."""

    world: "World"
    number: int
    namespace: str
    container: str
    directory: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    link: socket.socket | None = None
    events: list[object] = field(default_factory=list)
    snapshots: int = 0
    snapshot: Snapshot | None = None

    @property
    def peer(self) -> str:
        return f"00:00:00:00:00:{self.number:02x}"

    @property
    def underlay(self) -> str:
        return f"fd99::{self.number}" if self.world.ipv6 else f"10.99.0.{self.number}"

    @property
    def overlay(self) -> str:
        return f"10.32.0.{self.number}"

    @property
    def overlay6(self) -> str:
        return f"fd32::{self.number}"

    @property
    def socket_path(self) -> Path:
        return self.directory / "datapath.sock"

    def start(self) -> None:
        command = [
            *("ip", "netns", "exec", self.namespace),
            *(sys.executable, "-m", "router.sleeve.process"),
            *("--socket", str(self.socket_path)),
            *("--pid-file", str(self.directory / "datapath.pid")),
            *("--tap", "weavetap", "--port", str(PORT), "--mtu", str(self.world.mtu_bytes)),
            *("--underlay-mtu", str(self.world.underlay_mtu_bytes)),
            *self.options,
        ]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_for("the datapath's TAP", self._has_tap)
        run("ip", "-n", self.namespace, "link", "set", "weavetap", "master", "br0")
        self.connect()

    def _has_tap(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "log").read_text()
        up = run("ip", "-n", self.namespace, "link", "show", "weavetap", check=False)
        return "LOWER_UP" in up and self.socket_path.exists()

    def connect(self) -> None:
        """Be its router. The snapshot that it greets us with is read."""
        self.disconnect()
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.joiner = Joiner(from_datapath_decoder)
        self.link.connect(str(self.socket_path))
        self.link.settimeout(10.0)
        assert hello_decoder.decode(self.link.recv(MAX_MESSAGE_BYTES)).protocol == PROTOCOL
        self.read_until_snapshot()

    def disconnect(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def send(self, message: ToDatapath) -> None:
        assert self.link is not None
        for packet in packets(message):
            self.link.send(packet)

    def read_until_snapshot(self) -> Snapshot:
        assert self.link is not None
        while True:
            data = self.link.recv(MAX_MESSAGE_BYTES)
            assert data, "the datapath closed the connection"
            message = self.joiner.take(data)
            if isinstance(message, Snapshot):
                self.snapshot = message
                return message
            if message is not None:
                self.events.append(message)

    def report(self) -> Snapshot:
        self.send(Report())
        return self.read_until_snapshot()

    def session(self, other: "Host") -> SessionReport:
        (found,) = [one for one in self.report().sessions if one.peer == other.peer]
        return found

    def drops(self) -> dict[str, int]:
        """All drops, those of sessions included."""
        report = self.report()
        total: dict[str, int] = {}
        for drops in (report.drops, *(one.drops for one in report.sessions)):
            for drop in drops:
                total[drop.reason] = total.get(drop.reason, 0) + drop.count
        return total

    def route(self, unicast: dict[int, int], broadcast: dict[int, list[int]], count: int) -> None:
        self.send(
            InstallRoutes(
                ourself=self.number,
                unicast=unicast,
                broadcast=broadcast,
                short_ids={n: f"00:00:00:00:00:{n:02x}" for n in range(1, count + 1)},
            )
        )

    def stop(self) -> None:
        self.disconnect()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5.0)
        self.process = None

    def shut_down(self) -> int:
        assert self.process is not None
        self.send(Shutdown())
        return self.process.wait(10.0)

    def memory_bytes(self) -> int:
        assert self.process is not None
        resident = Path(f"/proc/{self.pid()}/statm").read_text().split()[1]
        return int(resident) * os.sysconf("SC_PAGE_SIZE")

    def pid(self) -> int:
        return int((self.directory / "datapath.pid").read_text())

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class World:
    """Some hosts on one underlay. Use as a context manager."""

    def __init__(
        self,
        *options: tuple[str, ...],
        mtu_bytes: int = 1400,
        underlay_mtu_bytes: int = 1500,
        ipv6: bool = False,
    ) -> None:
        """One host per tuple of options for its datapath."""
        self.mtu_bytes = mtu_bytes
        self.underlay_mtu_bytes = underlay_mtu_bytes
        self.ipv6 = ipv6
        self._name = f"weavepy-dp-{os.getpid()}-{next(_serial)}"
        self._stack = contextlib.ExitStack()
        self._options = options
        self.hosts: list[Host] = []
        self.children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "World":
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _namespace(self, name: str) -> str:
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "del", name, check=False)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def _build(self) -> None:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="weavepy")))
        self.wire = self._namespace(f"{self._name}-wire")
        run("ip", "-n", self.wire, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self.wire, "link", "set", "br0", "up")
        self._stack.callback(self._end_children)
        for number, options in enumerate(self._options, start=1):
            host = Host(
                self,
                number,
                self._namespace(f"{self._name}-h{number}"),
                self._namespace(f"{self._name}-c{number}"),
                directory / f"h{number}",
                options,
            )
            host.directory.mkdir()
            self._wire_up(host)
            self.hosts.append(host)
            self._stack.callback(host.stop)
            host.start()

    def _wire_up(self, host: Host) -> None:
        n, ns, container = host.number, host.namespace, host.container
        ip = functools.partial(run, "ip")
        ip("-n", ns, "link", "add", "under", "type", "veth", "peer", f"h{n}", "netns", self.wire)
        ip("-n", self.wire, "link", "set", f"h{n}", "master", "br0", "up")
        ip("-n", ns, "addr", "add", f"10.99.0.{n}/24", "dev", "under")
        ip("-n", ns, "addr", "add", f"fd99::{n}/64", "dev", "under", "nodad")
        mtu = str(self.underlay_mtu_bytes)
        ip("-n", self.wire, "link", "set", f"h{n}", "mtu", mtu)
        ip("-n", ns, "link", "set", "under", "mtu", mtu, "up")
        ip("-n", ns, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", ns, "link", "set", "br0", "up")
        ip("-n", ns, "link", "add", "c", "type", "veth", "peer", "eth0", "netns", container)
        ip("-n", ns, "link", "set", "c", "mtu", str(self.mtu_bytes), "master", "br0", "up")
        ip("-n", container, "link", "set", "eth0", "mtu", str(self.mtu_bytes), "up")
        ip("-n", container, "addr", "add", f"{host.overlay}/24", "dev", "eth0")
        ip("-n", container, "addr", "add", f"{host.overlay6}/64", "dev", "eth0", "nodad")

    # --- what a router would do ----------------------------------------------------------

    def join(self, one: Host, other: Host) -> None:
        """Give both ends of a pair the same new epoch."""
        secret = secrets.token_bytes(32)
        one_index, other_index = secrets.randbits(32), secrets.randbits(32)
        for ours, theirs, initiator, local, remote in (
            (one, other, True, one_index, other_index),
            (other, one, False, other_index, one_index),
        ):
            ours.send(
                InstallEpoch(
                    peer=theirs.peer,
                    short_id=theirs.number,
                    endpoint_host=theirs.underlay,
                    endpoint_port=PORT,
                    epoch=Epoch(secret, initiator, local, remote),
                )
            )

    def join_all(self, *pairs: tuple[int, int]) -> None:
        """Join these pairs of hosts and install the routes that follow; wait for all sessions."""
        numbers = range(1, len(self.hosts) + 1)
        neighbours = {
            n: sorted({b for a, b in pairs if a == n} | {a for a, b in pairs if b == n})
            for n in numbers
        }
        for a, b in pairs:
            self.join(self.hosts[a - 1], self.hosts[b - 1])
        trees = {n: _tree(n, neighbours) for n in numbers}
        for host in self.hosts:
            n = host.number
            host.route(
                unicast={to: _first_hop(trees[n], n, to) for to in numbers if to != n},
                broadcast={
                    source: [child for child, parent in trees[source].items() if parent == n]
                    for source in numbers
                },
                count=len(self.hosts),
            )
        for a, b in pairs:
            self.wait_up(self.hosts[a - 1], self.hosts[b - 1])

    def wait_up(self, one: Host, other: Host) -> None:
        wait_for(
            f"a session between {one.number} and {other.number}, with its path MTU",
            lambda: all(
                ours.session(theirs).up and ours.session(theirs).path_mtu_bytes
                for ours, theirs in ((one, other), (other, one))
            ),
        )

    def spawn(self, namespace: str, *command: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.children.append(child)
        return child

    def ping(self, one: Host, other: Host, *, size: int = 56, ipv6: bool = False) -> bool:
        address = other.overlay6 if ipv6 else other.overlay
        command = ("ping", "-c", "1", "-W", "2", "-s", str(size), "-M", "dont", address)
        out = run("ip", "netns", "exec", one.container, *command, check=False)
        return "1 received" in out

    def _end_children(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait(5.0)
            if child.stdout is not None:
                child.stdout.close()


def _tree(root: int, neighbours: dict[int, list[int]]) -> dict[int, int]:
    """Each other host's parent in a breadth-first tree."""
    parents: dict[int, int] = {}
    layer = [root]
    while layer:
        following = []
        for parent in layer:
            for child in neighbours[parent]:
                if child != root and child not in parents:
                    parents[child] = parent
                    following.append(child)
        layer = following
    return parents


def _first_hop(parents: dict[int, int], root: int, to: int) -> int:
    while parents[to] != root:
        to = parents[to]
    return to

"""`weavepy doctor`: what this host offers, what is missing, and what each missing thing costs.

Features are tried, not looked up: a kernel's configuration says little about what a container
may do in it. The trying happens in a nameless network namespace of a thread's own, which
vanishes with the thread, whatever becomes of it.
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from router.shell import probes
from router.shell.namespaces import run_in_new
from router.shell.underlay import NoUnderlay, interfaces, overlay_mtu, underlay_mtu
from weavepy.base.settings import DEFAULT_PORT, HTTP_PORT
from weavepy.kernel.netlink import HostError, get_sysctl, links, netlink
from weavepy.kernel.nftables import chain_policy

FAST_PATH_PORT = 6784
OLDEST_PYTHON = (3, 11)
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
NEEDED_CAPABILITIES = {CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}
MAX_PROCESSES_LOOKED_AT = 20_000

OK = "ok"
MISSING = "missing"
WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    state: str
    """ "ok", "missing" or "warn"."""
    detail: str
    cost: str
    """What it costs that this is not better; empty where all is well."""


@dataclass(frozen=True, slots=True)
class Experiment:
    subject: str
    probe: Callable[[], str]
    cost: str
    anywhere: bool = False
    """Needs neither root nor a namespace of its own, and leaves nothing behind."""


NO_VXLAN = "no fast path by the kernel's VXLAN: all frames travel by sleeve"

NO_FAST_PATH = "all frames travel by sleeve"

OPEN_VSWITCH = ("Open vSwitch datapath", "Open vSwitch daemon")
VXLAN = ("VXLAN device", "isolated bridge ports", "nftables, VXLAN network ids")
"""What each way needs."""

EXPERIMENTS = (
    Experiment("veth pairs", probes.veth, "no container can be attached"),
    Experiment("Linux bridge", probes.bridge, "no container can be attached"),
    Experiment("TAP device", probes.tap, "no sleeve, so no overlay at all: load the module tun"),
    Experiment("TAP vnet header", probes.tap_vnet_header, "sleeve works frame by frame: slower"),
    Experiment(
        "TAP TSO", probes.tap_tso, "sleeve reads TCP packet by packet: several times slower"
    ),
    Experiment("TAP USO", probes.tap_uso, "large UDP sends of containers are cut up: UDP slower"),
    Experiment(
        "TAP queues by container",
        probes.tap_fair,
        "a container that floods may take frames of others on its host with it (needs BPF)",
    ),
    Experiment("UDP GSO", probes.udp_gso, "one system call per datagram sent: slower", True),
    Experiment("UDP GRO", probes.udp_gro, "one system call per datagram received: slower", True),
    Experiment("VXLAN device", probes.vxlan, NO_VXLAN),
    Experiment("isolated bridge ports", probes.isolated_ports, NO_VXLAN),
    Experiment("nftables, VXLAN network ids", probes.nft_vxlan, NO_VXLAN),
    Experiment(
        "Open vSwitch datapath", probes.openvswitch, "no fast path by OVS in the kernel", True
    ),
    Experiment(
        "Open vSwitch daemon", probes.openvswitch_daemon, "no fast path by Open vSwitch", True
    ),
    Experiment("ESP (IPsec)", probes.esp, "no ESP: an encrypted mesh stays on sleeve"),
    Experiment("WireGuard", probes.wireguard, "nothing: weavepy does not use it"),
    Experiment(
        "nftables, bridge family",
        probes.nft_bridge,
        "attach refuses: containers could pose as each other",
    ),
    Experiment(
        "nftables, masquerade",
        probes.nft_masquerade,
        "containers get no way out through `expose`",
    ),
    Experiment(
        "nftables, storm limit",
        probes.nft_storm_limit,
        "a container's storm reaches all containers of its host; to other hosts it is limited",
    ),
    Experiment(
        "nftables, packet log",
        probes.nft_log,
        "what network policies drop is counted, but neither traced nor logged: load nfnetlink_log",
    ),
    Experiment(
        "nftables, tables of one's own",
        probes.nft_owned,
        "who flushes the packet filter opens isolated pods until that is repaired, some 50 ms",
    ),
    Experiment("ipset", probes.ipset, "nothing: weavepy uses nftables' own sets"),
    Experiment("tc netem", probes.netem, "nothing: `weavepy lab` brings its own loss and delay"),
    Experiment("tc tbf", probes.tbf, "`lab link --rate` is refused"),
    Experiment("IPv6", probes.ipv6, "no IPv6 addresses in the overlay or the underlay", True),
)

PROGRAMS = {
    "nft": "attach and expose refuse: `apt-get install nftables`",
    "ip": "`weavepy lab` does not run: `apt-get install iproute2`",
    "iperf3": "`weavepy lab bench` does not run: `apt-get install iperf3`",
    "ovs-vsctl": "no fast path by Open vSwitch: `apt-get install openvswitch-switch`",
    "containerd": "containers of containerd cannot be attached by id (a PID will do)",
}

PACKAGES = (
    "uvloop",
    "asyncio-dgram",
    "cryptography",
    "pyroute2",
    "msgspec",
    "aiohttp",
    "click",
    "rich",
    "prometheus-client",
)


def examine(port: int = DEFAULT_PORT, http_port: int = HTTP_PORT) -> list[Finding]:
    """Blocks for about a second. Changes nothing on the host."""
    return [
        *_rights(),
        *(features := _features()),
        _fast_path(features),
        *_bridge_netfilter(),
        *_mtu(),
        *_ports(port, http_port),
        *_settings(),
        *_programs(),
        *_python(),
    ]


# --- kernel --------------------------------------------------------------------------------------


def _rights() -> Iterator[Finding]:
    effective = _effective_capabilities()
    lacking = [name for bit, name in NEEDED_CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        yield Finding(
            "rights",
            MISSING,
            f"user {os.geteuid()} without {' and '.join(lacking)}",
            "the router does not start: run it as root",
        )
    else:
        detail = "root" if os.geteuid() == 0 else "not root, but all capabilities needed"
        yield Finding("rights", OK, detail, "")


def _features() -> list[Finding]:
    namespaced = True
    findings = [Finding("network namespaces", OK, "", "")]
    try:
        run_in_new(lambda: None)
    except HostError as error:
        namespaced = False
        findings = [Finding("network namespaces", WARN, f"could not be tried: {error}", "")]
    for experiment in EXPERIMENTS:
        if namespaced:
            present, note = run_in_new(partial(probes.attempt, experiment.probe))
        elif experiment.anywhere:
            present, note = probes.attempt(experiment.probe)
        else:
            present, note = None, "needs root"
        findings.append(_finding(experiment, present, note))
    return findings


def _finding(experiment: Experiment, present: bool | None, note: str) -> Finding:
    if present is None:
        return Finding(experiment.subject, WARN, f"could not be tried: {note}", "")
    if present:
        return Finding(experiment.subject, OK, note, "")
    return Finding(experiment.subject, MISSING, note, experiment.cost)


def _fast_path(features: list[Finding]) -> Finding:
    """What a router would take, and why not a better way."""
    details = {it.subject: it.detail for it in features if it.state != OK}
    subject = "fast path (auto)"
    missing = [f"{name}: {details[name]}" for name in OPEN_VSWITCH if name in details]
    if not missing:
        return Finding(subject, OK, "by Open vSwitch's kernel datapath", "")
    why_not = f"not by Open vSwitch: {'; '.join(missing)}"
    missing = [name for name in VXLAN if name in details]
    if not missing:
        return Finding(subject, OK, f"by the kernel's VXLAN; {why_not}", "")
    return Finding(subject, WARN, f"none; no {', '.join(missing)}; {why_not}", NO_FAST_PATH)


def _bridge_netfilter() -> Iterator[Finding]:
    """Docker sets the FORWARD policy to DROP, and with br_netfilter that covers bridges too."""
    subject = "br_netfilter"
    if not get_sysctl("bridge/bridge-nf-call-iptables"):
        yield Finding(subject, OK, "not there or off: bridged packets skip iptables", "")
        return
    detail = "on: bridged packets pass iptables' FORWARD chain"
    if chain_policy("ip", "filter", "FORWARD") != "drop":
        yield Finding(subject, OK, detail, "some throughput between containers")
        return
    yield Finding(
        subject,
        WARN,
        f"{detail}, whose policy is DROP",
        "containers cannot reach each other until you "
        "`iptables -I FORWARD -i weave -o weave -j ACCEPT`",
    )


# --- network -------------------------------------------------------------------------------------


def _mtu() -> Iterator[Finding]:
    for interface in interfaces():
        if interface.up and interface.name != "lo":
            addresses = ", ".join(interface.addresses) or "no address"
            yield Finding(
                f"interface {interface.name}", OK, f"MTU {interface.mtu_bytes}, {addresses}", ""
            )
    try:
        underlay = underlay_mtu(ours=("weave",))
    except NoUnderlay as error:
        yield Finding("overlay MTU", WARN, str(error), "no peer can be reached")
        return
    overlay = overlay_mtu(underlay)
    yield Finding(
        "overlay MTU",
        WARN if overlay.warning else OK,
        f"{overlay.mtu_bytes}, from the underlay's {underlay}",
        overlay.warning,
    )


def _ports(port: int, http_port: int) -> Iterator[Finding]:
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    yield _port("TCP", tcp, "", port, "the mesh cannot be joined: choose another with --port")
    yield _port("UDP", udp, "", port, "sleeve cannot run: choose another with --port")
    yield _fast_path_port()
    yield _port("TCP", tcp, "127.0.0.1", http_port, "no metrics: choose another with --http-addr")


def _fast_path_port() -> Finding:
    """The kernel's VXLAN devices hold the port themselves: no process has it open."""
    with netlink() as route:
        tunnels = [
            link.name
            for link in links(route)
            if link.kind == "vxlan" and link.alias.startswith("weavepy ")
        ]
    if tunnels:
        by = f"in use by weavepy itself: {len(tunnels)} tunnel(s), such as {tunnels[0]}"
        return Finding(f"UDP port {FAST_PATH_PORT}", OK, by, "")
    return _port("UDP", socket.SOCK_DGRAM, "", FAST_PATH_PORT, NO_VXLAN)


def _port(protocol: str, kind: socket.SocketKind, address: str, port: int, cost: str) -> Finding:
    subject = f"{protocol} port {port}"
    with socket.socket(socket.AF_INET, kind) as trial:
        if kind == socket.SOCK_STREAM:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            user = _user_of(protocol.lower(), port)
            if "weavepy" in user or "router.sleeve" in user:
                return Finding(subject, OK, f"in use by weavepy itself: {user}", "")
            return Finding(subject, WARN, f"{error.strerror}: {user}", cost)
    return Finding(subject, OK, "free", "")


def _user_of(protocol: str, port: int) -> str:
    """Who has the port open: found by the socket's inode among all processes' descriptors."""
    inodes = set()
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listening = protocol == "udp" or fields[3] == "0A"
            if listening and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid in pids[:MAX_PROCESSES_LOOKED_AT]:
        if _has_open(pid, inodes):
            return f"process {pid} ({_command_of(pid)})"
    return "by a process that cannot be seen from here (root sees more)"


def _has_open(pid: int, inodes: set[str]) -> bool:
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(entry.path) in inodes:
                    return True
            except OSError:
                continue
    except OSError:
        pass
    return False


def _command_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (OSError, UnicodeDecodeError):
        return "?"
    return text[:80]


def _settings() -> Iterator[Finding]:
    forward = get_sysctl("ipv4/ip_forward")
    detail = "on" if forward else "off; `expose` switches it on for the interfaces it needs"
    yield Finding("IPv4 forwarding", OK, detail, "")
    strict = get_sysctl("ipv4/conf/all/rp_filter") == 1
    yield Finding(
        "rp_filter",
        WARN if strict else OK,
        "strict" if strict else "off or loose",
        "packets to an exposed host that come back by another interface are dropped"
        if strict
        else "",
    )


# --- programs ------------------------------------------------------------------------------------


def _programs() -> Iterator[Finding]:
    for name, cost in PROGRAMS.items():
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if path is None:
            yield Finding(f"program {name}", MISSING, "not found", cost)
        else:
            yield Finding(f"program {name}", OK, path, "")


def _python() -> Iterator[Finding]:
    old = sys.version_info < OLDEST_PYTHON
    yield Finding(
        "Python",
        WARN if old else OK,
        f"{platform.python_version()} on Linux {platform.release()}",
        "needs 3.11 or newer" if old else "",
    )
    for name in PACKAGES:
        try:
            yield Finding(f"package {name}", OK, importlib.metadata.version(name), "")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"package {name}", MISSING, "not installed", "the router does not start")


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0

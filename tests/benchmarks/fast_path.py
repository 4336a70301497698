"""A tunnel of ours against a VXLAN made by hand, between the same containers of the same hosts.

    sudo python -m tests.benchmarks.fast_path [--rounds N] [--seconds S] [--mtu M] [--ovs KIND]
    script/kernel-lane python -m tests.benchmarks.fast_path --esp --mtu 1400     both in ESP

Each container has two interfaces: one on our bridge, with guard, isolation, port flags, and the
filters and the coalescing that `attach` gives each container; one on a second bridge, with a VXLAN
as `ip link add type vxlan` makes it, and nothing else. Rounds take turns, and the
one that goes first changes, as what else the machine does changes too. Processor time is that of
both ends of iperf3, in which the kernel does its work here: veths hand packets on at once.

With `--ovs netdev` (its userspace datapath) or `--ovs system` (the kernel's), the tunnel is one by
Open vSwitch, and the one by hand a second OVS bridge with the container's interface and a VXLAN
port with a fixed address in it, which learns. Then processor time includes that of ovs-vswitchd.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from router.shell.filters import Filters, Port
from tests.fastdp.shell.conftest import BRIDGE, Host, World, joined
from tests.namespaces import inside
from tests.openvswitch import SWITCH, load_kernel_datapath
from weavepy.lab.system import cpu_seconds

OURS, HAND = "10.32.0", "10.33.0"
UDP_PAYLOAD_BYTES = 64


@dataclass(frozen=True)
class Run:
    gbps: float
    cpu_s_per_gb: float


@dataclass(frozen=True)
class Compared:
    """Medians: of each, and of the rounds' ratios, which other work disturbs least."""

    what: str
    ours: Run
    hand: Run
    throughput: float
    cpu: float


MEASUREMENTS: dict[str, Sequence[str]] = {
    "TCP, one stream": (),
    "TCP, four streams": ("-P", "4"),
    "TCP, reverse": ("-R",),
    "UDP, 64 bytes": ("-u", "-b", "0", "-l", str(UDP_PAYLOAD_BYTES)),
}


def measure(
    rounds: int,
    seconds: int,
    what: Sequence[str] = tuple(MEASUREMENTS),
    mtu_bytes: int = 1450,
    ipv6: bool = False,
    esp: bool = False,
    ovs: str = "",
) -> list[Compared]:
    world = World(mtu_bytes + (70 if ipv6 else 50) + (38 if esp else 0))
    one, two = hosts = world.hosts(2)
    with tempfile.TemporaryDirectory(prefix="weavepy-ovs-") as directory:
        try:
            for host in hosts if ovs else ():
                host.with_open_vswitch(Path(directory, str(host.number)), userspace=ovs == "netdev")
            joined(*hosts, ipv6=ipv6, mtu_bytes=mtu_bytes, esp=esp)
            for host, other in ((one, two), (two, one)):
                _as_attached(host)
                if ovs:
                    _by_hand_in_ovs(host, other.seen_by(ipv6), mtu_bytes, ovs)
                else:
                    _by_hand(host, other.seen_by(ipv6), mtu_bytes)
                if esp:
                    _esp_by_hand(host, host.seen_by(ipv6), other.seen_by(ipv6))
            return [_compare(name, one, two, rounds, seconds) for name in what]
        finally:
            for host in hosts:
                if host.switch is not None:
                    host.switch.stop()
            world.remove()


def _as_attached(host: Host) -> None:
    port = Port(
        "vc",
        host.container_mac().hex(":"),
        frozenset({ip_interface(f"{host.container_address}/24")}),
    )
    host.on(lambda: Filters(BRIDGE).allow(port))
    # In a process of its own: below /sys it must see this namespace.
    index = int(host.run("cat /sys/class/net/vc/ifindex"))
    script = f"from router.shell.coalescing import coalesce; assert coalesce('vc', {index})"
    inside(host.namespace, sys.executable, "-c", script)


def _by_hand(host: Host, remote: str, mtu_bytes: int) -> None:
    """The second bridge, and the interface `hand` of the container on it."""
    _plug_hand(host, mtu_bytes)
    for command in (
        "ip link add hand type bridge mcast_snooping 0",
        f"ip link add vx type vxlan id 77 remote {remote} dstport 4789",
        f"ip link set vx mtu {mtu_bytes} master hand up",
        "ip link set vh master hand",
        "ip link set hand up",
    ):
        host.run(command)


def _by_hand_in_ovs(host: Host, remote: str, mtu_bytes: int, datapath: str) -> None:
    assert host.switch is not None
    _plug_hand(host, mtu_bytes)
    host.switch.vsctl(
        *("add-br", "hand", "--", "set", "bridge", "hand", f"datapath_type={datapath}"),
        *("--", "add-port", "hand", "vh", "--", "add-port", "hand", "vx"),
        *("--", "set", "interface", "vx", "type=vxlan", f"options:remote_ip={remote}"),
        *("options:key=77", "options:dst_port=4789"),
    )
    if datapath == "netdev":
        # It reads frames as they lie in the veth, so without what a network card would do.
        host.in_container("ethtool -K hand tx off")


def _plug_hand(host: Host, mtu_bytes: int) -> None:
    host.run(f"ip link add vh type veth peer name hand netns {host.container.name}")
    host.run(f"ip link set vh mtu {mtu_bytes} up")
    host.in_container(f"ip link set hand mtu {mtu_bytes} up")
    host.in_container(f"ip addr add {HAND}.{host.number}/24 dev hand")


def _esp_by_hand(host: Host, ours: str, theirs: str) -> None:
    for direction, source, destination in (("out", ours, theirs), ("in", theirs, ours)):
        ends = f"src {source} dst {destination}"
        host.run(
            f"ip xfrm state add {ends} proto esp spi 0x77 reqid 1 mode transport"
            f" replay-window 128 flag esn aead rfc4106(gcm(aes)) 0x{'5a' * 36} 128"
        )
        host.run(
            f"ip xfrm policy add {ends} proto udp dport 4789 dir {direction}"
            f" tmpl {ends} proto esp reqid 1 mode transport"
        )


def _compare(what: str, one: Host, two: Host, rounds: int, seconds: int) -> Compared:
    ours: list[Run] = []
    hand: list[Run] = []
    for number in range(rounds):
        for network in (OURS, HAND) if number % 2 else (HAND, OURS):
            address = f"{network}.{two.number}"
            run = _run(one, two, address, seconds, MEASUREMENTS[what])
            (ours if network == OURS else hand).append(run)
    pairs = list(zip(ours, hand, strict=True))
    return Compared(
        what,
        _median(ours),
        _median(hand),
        statistics.median(own.gbps / other.gbps for own, other in pairs),
        statistics.median(own.cpu_s_per_gb / other.cpu_s_per_gb for own, other in pairs),
    )


def _median(runs: Sequence[Run]) -> Run:
    return Run(
        statistics.median(run.gbps for run in runs),
        statistics.median(run.cpu_s_per_gb for run in runs),
    )


def _run(one: Host, two: Host, address: str, seconds: int, options: Sequence[str]) -> Run:
    switched_s = _switches_s(one, two)
    server = subprocess.Popen(
        _in(two, "iperf3", "-s", "-1", "-B", address, "--forceflush"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        assert server.poll() is None
    client = subprocess.Popen(
        _in(one, "iperf3", "-J", "-c", address, "-t", f"{seconds}", *options),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    answer = json.loads(client.stdout.read())
    cpu_s = _reap(client) + _reap(server) + _switches_s(one, two) - switched_s
    end = answer["end"]
    received = end["sum_received"] if "sum_received" in end else end["sum"]
    received_bytes = received["bytes"] * (1 - received.get("lost_percent", 0) / 100)
    return Run(received_bytes * 8 / received["seconds"] / 1e9, cpu_s / (received_bytes / 1e9))


def _switches_s(*hosts: Host) -> float:
    """Processor time of their ovs-vswitchds."""
    switches = [host.switch for host in hosts if host.switch is not None]
    return sum(cpu_seconds(switch.pid(SWITCH)) for switch in switches)


def _in(host: Host, *command: str) -> list[str]:
    return ["ip", "netns", "exec", host.container.name, *command]


def _reap(process: "subprocess.Popen[str]") -> float:
    """The processor time of an `ip netns exec`, which became the command itself."""
    assert process.stdout is not None
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--mtu", type=int, default=1450, help="of the overlay")
    parser.add_argument("--ipv6", action="store_true", help="as the underlay")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--esp", action="store_true", help="encrypt both")
    ways.add_argument("--ovs", choices=["netdev", "system"], default="", help="its datapath")
    parser.add_argument("--only", choices=MEASUREMENTS, nargs="*")
    wanted = parser.parse_args()
    if wanted.ovs == "system":
        load_kernel_datapath()
    started = time.monotonic()
    print("| what | tunnel | by hand | ratio | CPU per GB | by hand | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in wanted.only or MEASUREMENTS:
        (row,) = measure(
            wanted.rounds,
            wanted.seconds,
            (name,),
            wanted.mtu,
            wanted.ipv6,
            wanted.esp,
            wanted.ovs,
        )
        print(
            f"| {row.what} | {row.ours.gbps:.3g} Gbit/s | {row.hand.gbps:.3g} Gbit/s"
            f" | {row.throughput:.2f} | {row.ours.cpu_s_per_gb:.2g} s"
            f" | {row.hand.cpu_s_per_gb:.2g} s | {row.cpu:.2f} |",
            flush=True,
        )
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

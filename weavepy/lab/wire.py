"""Making and unmaking what a lab consists of: namespaces, veth pairs, bridges, addresses.

Two surprises. On many machines bridged packets pass iptables (br_netfilter), so a firewall of
the machine could bite in the wire; that is switched off there. And veth pairs are made with each
end already in its namespace, so no interface ever shows up among the machine's own.

The two hosts of a link know each other's MAC address for good, as hosts behind routers do: no ARP
to be lost on a bad link, and no entry in the kernel's neighbour table, whose size (1,024 by
default) all namespaces of a machine, and the machine itself, share.
"""

import signal
from pathlib import Path

from weavepy.lab import nat
from weavepy.lab.plan import Link, Plan, namespace_pattern
from weavepy.lab.system import (
    LabError,
    ToolFailed,
    in_namespace,
    ip_batch,
    list_namespaces,
    processes_in,
    reap,
    run,
    send_signal,
    wait_until,
)

KILL_TIMEOUT_S = 10.0
"""SIGKILL works at once, except on a process stuck in the kernel."""

_QUIET_BRIDGE = "stp_state 0 mcast_snooping 0"

_WIRE_SETTINGS = {
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}
"""The wire says nothing by itself and filters nothing that it is not told to."""


def existing_namespaces(lab: str) -> list[str]:
    pattern = namespace_pattern(lab)
    return [name for name in list_namespaces() if pattern.fullmatch(name)]


def build(plan: Plan) -> None:
    """Make all namespaces and links of a plan; what exists already makes it fail."""
    for namespace in plan.namespaces:
        run(["ip", "netns", "add", namespace])
        ip_batch(namespace, ["link set lo up"])
    _settle_wire(plan.wire)
    ip_batch(plan.wire, _wire_commands(plan))
    for host in plan.host_nodes:
        ip_batch(plan.outside(host.host), _host_commands(plan, host.host))
    for number in plan.nat:
        nat.build(plan, number)


def _wire_commands(plan: Plan) -> list[str]:
    commands = []
    mtu = plan.mtu_bytes
    for link in plan.links:
        bridge = link.bridge
        commands.append(f"link add {bridge} mtu {mtu} type bridge {_QUIET_BRIDGE}")
        for end in link.ends:
            outside = plan.outside(end.host)
            peer = f"name {end.interface} address {end.mac} mtu {mtu} netns {outside}"
            commands += [
                f"link add {end.port} mtu {mtu} type veth peer {peer}",
                f"link set {end.port} master {bridge}",
                f"link set {end.port} up",
            ]
        commands.append(f"link set {bridge} up")
    return commands


def _host_commands(plan: Plan, host: int) -> list[str]:
    commands = []
    for link in plan.links_of(host):
        end = link.end_at(host)
        other = link.end_at(link.low + link.high - host)
        commands += [
            f"address add {end.address}/{link.prefix_length} dev {end.interface}{_at_once(link)}",
            f"link set {end.interface} up",
        ]
        # The other host may move, and then so may we: each is known at both addresses.
        for address in (other.address, other.moved_address):
            commands += [
                f"route add {address} dev {end.interface}",
                f"neighbour add {address} lladdr {other.mac} nud permanent dev {end.interface}",
            ]
    return commands


def move(plan: Plan, host: int, *, away: bool) -> None:
    """Take the host's addresses from it and give it those that it has elsewhere, or back."""
    commands = []
    for link in plan.links_of(host):
        end = link.end_at(host)
        old, new = end.address, end.moved_address
        if not away:
            old, new = new, old
        length, device = link.prefix_length, end.interface
        # In this order: with the last address of an interface, the kernel drops its routes.
        commands += [
            f"address add {new}/{length} dev {device}{_at_once(link)}",
            f"address delete {old}/{length} dev {device}",
        ]
    ip_batch(plan.outside(host), commands)


def _at_once(link: Link) -> str:
    """IPv6 would use an address only a second after it knows that nobody else has it."""
    return " nodad" if link.family == "ipv6" else ""


def _settle_wire(wire: str) -> None:
    def write() -> None:
        for key, value in _WIRE_SETTINGS.items():
            path = Path("/proc/sys") / key.replace(".", "/")
            if path.exists():  # without br_netfilter there is nothing to switch off
                path.write_text(value)

    in_namespace(wire, write)


def destroy(lab: str) -> list[str]:
    """Kill what lives in the lab's namespaces, delete them, and return what was there.

    Raises `LabError` if something could not be removed; calling again goes on from there.
    """
    namespaces = existing_namespaces(lab)
    kill_processes_in(namespaces)
    failures = []
    for namespace in namespaces:
        try:
            run(["ip", "netns", "delete", namespace])
        except ToolFailed as error:
            failures.append(error.why)
    left = existing_namespaces(lab)
    if left:
        raise LabError(
            f"these namespaces of lab {lab!r} could not be removed: {', '.join(left)}"
            f" ({'; '.join(failures) or 'made anew meanwhile'})"
        )
    return namespaces


def kill_processes_in(namespaces: list[str]) -> None:
    """Everything in a lab is disposable, so this is SIGKILL, repeated until nobody is born."""

    def nobody_left() -> bool:
        left = processes_in(namespaces)
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        return not left

    gone = wait_until(nobody_left, KILL_TIMEOUT_S)
    reap()
    if not gone:
        raise LabError(
            f"processes {processes_in(namespaces)} do not die; are they stuck on a disk?"
        )

"""The fast path as a test sees it: who uses it, how to block it, and what goes past it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.e2e.waiting import connection, wait_for
from weavepy.client import schema
from weavepy.lab.lab import Lab
from weavepy.lab.system import inside, run

VXLAN = ["--fastdp", "vxlan", "--insecure"]
OVS = ["--fastdp", "ovs", "--insecure"]
AUTO = ["--fastdp", "auto", "--insecure"]

FAST_WITHIN_S = 15.0
"""Three heartbeats after the first routes are in force."""

Pair = tuple[str, str]


def both_ways(*pairs: Pair) -> list[Pair]:
    return [*pairs, *((other, one) for one, other in pairs)]


def overlay(lab: Lab, host: str, to: str) -> str:
    found = connection(lab, host, to)
    return "" if found is None else found.overlay


def wait_for_overlay(
    lab: Lab, pairs: Iterable[Pair], wanted: str, timeout_s: float = FAST_WITHIN_S
) -> None:
    """Each a host and another as the first sees it; on failure it shows what both say."""
    listed = list(pairs)
    wait_for(
        lambda: {pair: _shown(connection(lab, *pair)) for pair in listed},
        lambda seen: all(text.split(":")[0] == wanted for text in seen.values()),
        timeout_s,
    )


def _shown(found: schema.ConnectionStatus | None) -> str:
    return "" if found is None else f"{found.overlay}: {found.info}"


def sleeve_frames(lab: Lab, host: str) -> int:
    """Sent and received, by all sessions of the host."""
    sessions = lab.api(host).status().datapath.sessions
    return sum(session.frames_sent + session.frames_received for session in sessions)


@contextmanager
def sleeve_standing_still(lab: Lab, but: int = 20) -> Iterator[None]:
    """While this goes on, sleeve carries no more than so many frames, on any host."""
    hosts = [host.name for host in lab.plan.host_nodes]
    before = {host: sleeve_frames(lab, host) for host in hosts}
    yield
    grown = {host: sleeve_frames(lab, host) - before[host] for host in hosts}
    assert max(grown.values()) < but, grown


def block_vxlan(lab: Lab, one: str, other: str, port: int = 6784) -> None:
    """Drop it on the link between two hosts, both ways, without a word."""
    ports = [end.port for end in lab.plan.link(one, other).ends]
    interfaces = ", ".join(f'"{name}"' for name in ports)
    table = _table(lab, one, other)
    rules = (
        f"add table {table}\n"
        f"add chain {table} forward {{ type filter hook forward priority 0; }}\n"
        f"add rule {table} forward iifname {{ {interfaces} }} udp dport {port} drop\n"
    )
    _nft(lab, rules)


def unblock_vxlan(lab: Lab, one: str, other: str) -> None:
    _nft(lab, f"delete table {_table(lab, one, other)}\n")


def _table(lab: Lab, one: str, other: str) -> str:
    return f"bridge block_{lab.plan.link(one, other).bridge.replace('-', '_')}"


def _nft(lab: Lab, rules: str) -> None:
    run(inside(lab.plan.wire, ["nft", rules]))

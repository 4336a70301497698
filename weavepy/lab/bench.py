"""How fast is the overlay, against the bare underlay between the same two hosts, now.

Absolute numbers say much about the machine and little about weavepy, so each measurement is
made twice in the same run, between two containers and between their hosts, and the ratio is
what counts. All ends share this machine's cores: sender, both datapaths and receiver compete,
so on two cores the overlay looks worse than between two machines.

- `tcp_*`: iperf3, received bytes; `tcp_reverse` sends from the second container to the first.
- `udp_small`: iperf3, 64 bytes of payload, the highest rate by bisection that loses 1 % at most.
- `ping_ms`: ICMP echo each 5 ms from our own loop, which adds 20 to 50 µs to each.
- `cpu_s_per_gb`: processor time of the routers and datapaths of both hosts during `tcp_1`, for
  10^9 bytes received.

Where nothing is lost at iperf3's full rate, `udp_small` is what iperf3 can send here: that is
common for the underlay, whose ratio then flatters the overlay.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from weavepy.lab import routers
from weavepy.lab.echo import ping_series
from weavepy.lab.lab import Lab
from weavepy.lab.plan import Node
from weavepy.lab.system import LabError, cpu_seconds, inside, require_tool

PORT = 5201
PING_INTERVAL_S = 0.005
UDP_PAYLOAD_BYTES = 64
UDP_MAX_LOSS = 0.01
UDP_STEPS = 6
UDP_STEP_S = 1

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ends:
    """From one namespace to an address in another."""

    source: str
    destination: str
    address: str


@dataclass(frozen=True, slots=True)
class TcpRun:
    gbps: float
    bytes_received: int


def bench(lab: Lab, source: str, destination: str, seconds: int, report: Report) -> dict[str, Any]:
    """Measure between two containers of different hosts and return what `--json` prints."""
    require_tool("iperf3")
    plan = lab.plan
    one, other = plan.container(source), plan.container(destination)
    if one.host == other.host:
        raise LabError(f"{source} and {destination} are on one host: no overlay is between them")
    overlay = Ends(plan.namespace(one), plan.namespace(other), lab.address(destination))
    underlay = _underlay(lab, one, other)

    report(f"TCP, one stream, {seconds} s")
    before = _cpu_seconds(lab, one, other)
    single = tcp(overlay, seconds)
    spent = _cpu_seconds(lab, one, other) - before
    result: dict[str, Any] = {"from": source, "to": destination, "seconds": seconds}
    result["tcp_1"] = _compared(
        "gbps", single.gbps, tcp(underlay, seconds).gbps if underlay else None
    )
    for key, title, options in (
        ("tcp_4", "TCP, four streams", ["-P", "4"]),
        ("tcp_reverse", "TCP, one stream, reverse", ["-R"]),
    ):
        report(f"{title}, {seconds} s")
        there = tcp(overlay, seconds, options).gbps
        bare = tcp(underlay, seconds, options).gbps if underlay else None
        result[key] = _compared("gbps", there, bare)
    report("UDP, small packets")
    small = udp_small(overlay)
    result["udp_small"] = _compared("pps", small, udp_small(underlay) if underlay else None)
    report("ping")
    result["ping_ms"] = ping_percentiles(overlay, seconds)
    if underlay:
        bare_ping = ping_percentiles(underlay, seconds)
        result["ping_ms"] |= {f"underlay_{key}": value for key, value in bare_ping.items()}
    result["cpu_s_per_gb"] = _rounded(spent / (single.bytes_received / 1e9))
    if underlay is None:
        result["note"] = f"{one.host_name} and {other.host_name} have no link of their own"
    return result


def _underlay(lab: Lab, one: Node, other: Node) -> Ends | None:
    plan = lab.plan
    if other.host not in plan.neighbours(one.host) or {one.host, other.host} & set(plan.nat):
        return None
    link = plan.link(one.host_name, other.host_name)
    return Ends(
        plan.namespace(Node(one.host)),
        plan.namespace(Node(other.host)),
        link.end_at(other.host).address,
    )


def _compared(unit: str, value: float, bare: float | None) -> dict[str, float | None]:
    ratio = None if not bare else _rounded(value / bare)
    return {
        unit: _rounded(value),
        f"underlay_{unit}": None if bare is None else _rounded(bare),
        "ratio": ratio,
    }


def _rounded(value: float) -> float:
    """Four significant digits: more would pretend."""
    return float(f"{value:.4g}")


# --- the measurements ----------------------------------------------------------------------------


def tcp(ends: Ends, seconds: int, options: Sequence[str] = ()) -> TcpRun:
    answer: dict[str, Any] = _iperf(ends, seconds, options)["end"]["sum_received"]
    if not answer["bytes"]:
        raise LabError(f"iperf3 moved no byte to {ends.address} in {seconds} s")
    return TcpRun(answer["bits_per_second"] / 1e9, answer["bytes"])


def udp_small(ends: Ends) -> float:
    """Packets per second that arrive at the highest rate that loses `UDP_MAX_LOSS` at most."""
    received, loss = _udp_step(ends, None)
    if loss <= UDP_MAX_LOSS:
        return received
    good, low, high = 0.0, 0.0, received * 1.5
    for _ in range(UDP_STEPS):
        rate = (low + high) / 2
        received, loss = _udp_step(ends, rate)
        if loss <= UDP_MAX_LOSS:
            low, good = rate, max(good, received)
        else:
            high = rate
    return good


def _udp_step(ends: Ends, packets_per_second: float | None) -> tuple[float, float]:
    """Packets per second that arrived, and the share that was lost; None: as fast as it can."""
    bits = 0 if packets_per_second is None else round(packets_per_second * UDP_PAYLOAD_BYTES * 8)
    options = ["-u", "-l", str(UDP_PAYLOAD_BYTES), "-b", str(bits), "-w", "2M"]
    answer = _iperf(ends, UDP_STEP_S, options)["end"]["sum"]
    loss = answer["lost_percent"] / 100
    sent_per_second: float = answer["packets"] / answer["seconds"]
    return sent_per_second * (1 - loss), loss


def ping_percentiles(ends: Ends, seconds: int) -> dict[str, float]:
    times = ping_series(
        ends.source, ends.address, round(seconds / PING_INTERVAL_S), PING_INTERVAL_S
    )
    answered = sorted(time for time in times if time is not None)
    if not answered:
        raise LabError(f"no answer to any ping to {ends.address}")
    return {
        "p50": _rounded(answered[len(answered) // 2]),
        "p99": _rounded(answered[len(answered) * 99 // 100]),
        "lost": len(times) - len(answered),
    }


def _cpu_seconds(lab: Lab, *nodes: Node) -> float:
    plan = lab.plan
    total = 0.0
    for node in nodes:
        host = Node(node.host)
        for find in (routers.router_pid, routers.datapath_pid):
            pid = find(lab.store, plan, host)
            total += cpu_seconds(pid) if pid is not None else 0.0
    return total


# --- iperf3 --------------------------------------------------------------------------------------


def _iperf(ends: Ends, seconds: int, options: Sequence[str]) -> Any:
    client = ["iperf3", "--json", "-c", ends.address, "-p", str(PORT), "-t", str(seconds), *options]
    with _server(ends):
        done = subprocess.run(
            inside(ends.source, client), capture_output=True, text=True, timeout=seconds + 30.0
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error": done.stderr.strip() or f"exit status {done.returncode}"}
    if "error" in answer:
        raise LabError(f"iperf3 to {ends.address}: {answer['error']}")
    return answer


@contextmanager
def _server(ends: Ends) -> Iterator[None]:
    """A server for one client, which is gone afterwards, whatever happens."""
    argv = ["iperf3", "-s", "-1", "--forceflush", "-B", ends.address, "-p", str(PORT)]
    server = subprocess.Popen(
        inside(ends.destination, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "listening" in line:
                break
        else:
            raise LabError(f"iperf3's server at {ends.address} did not start")
        yield
    finally:
        server.kill()
        server.wait()
        server.stdout.close()

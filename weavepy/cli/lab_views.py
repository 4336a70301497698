"""How `weavepy lab` shows a lab: what its statuses and measurements look like as blocks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from weavepy.cli.output import Block, Cell, Column, Note, Table
from weavepy.lab.plan import namespace_name

if TYPE_CHECKING:
    from weavepy.lab.lab import PingResult
    from weavepy.lab.survey import HostStatus, LabStatus


def status_blocks(found: "LabStatus") -> list[Block]:
    return [
        _table("Hosts", ("host", "router", "datapath", "peers", "links"), _host_rows(found)),
        _table("Containers", ("container", "namespace", "addresses"), _container_rows(found)),
        _table("Links", ("link", "addresses", "state"), _link_rows(found)),
    ]


def _host_rows(found: "LabStatus") -> list[tuple[str, ...]]:
    return [
        (
            host.name,
            str(host.router_pid) if host.router_pid else "not running",
            str(host.datapath_pid) if host.datapath_pid else "not running",
            _peers_of(host),
            _connections_of(host),
        )
        for host in found.hosts
    ]


def _peers_of(host: "HostStatus") -> str:
    if host.status is None:
        return "?"
    return str(sum(peer.reachable for peer in host.status.peers))


def _connections_of(host: "HostStatus") -> str:
    if host.status is None:
        return host.reason
    return (
        ", ".join(
            f"{connection.nickname or connection.address} {connection.state}"
            for connection in host.status.connections
        )
        or "none"
    )


def _container_rows(found: "LabStatus") -> list[tuple[str, ...]]:
    return [
        (container, namespace_name(found.state.name, container), " ".join(addresses) or "none")
        for host in found.hosts
        for container, addresses in host.containers.items()
    ]


def _link_rows(found: "LabStatus") -> list[tuple[str, ...]]:
    impairments = found.state.impairments
    return [
        (
            link.name,
            " ".join(end.address for end in link.ends),
            str(impairments.get(link.name, "ok")),
        )
        for link in found.state.plan.links
    ]


def status_document(found: "LabStatus") -> dict[str, Any]:
    state, plan = found.state, found.state.plan
    return {
        "name": state.name,
        "topology": state.topology,
        "mtu_bytes": state.mtu_bytes,
        "launch_options": state.launch_options,
        "hosts": [
            {
                "name": host.name,
                "namespace": host.namespace,
                "router_pid": host.router_pid,
                "datapath_pid": host.datapath_pid,
                "containers": [
                    {"name": container, "addresses": addresses}
                    for container, addresses in host.containers.items()
                ],
                "status": msgspec.to_builtins(host.status),
                "reason": host.reason,
            }
            for host in found.hosts
        ],
        "links": [
            {
                "name": link.name,
                "addresses": {f"h{end.host}": end.address for end in link.ends},
                "impairment": msgspec.to_builtins(state.impairments[link.name])
                if link.name in state.impairments
                else {},
            }
            for link in plan.links
        ],
    }


def ping_blocks(result: "PingResult") -> list[Block]:
    names = list(dict.fromkeys(pair.source for pair in result.pairs))
    times = {
        (pair.source, pair.destination): f"{pair.rtt_ms:.2f}" if pair.rtt_ms is not None else "lost"
        for pair in result.pairs
    }
    rows = [(one, *(times.get((one, other), "-") for other in names)) for one in names]
    answered = sum(pair.ok for pair in result.pairs)
    summary = f"{answered} of {len(result.pairs)} pairs answer"
    return [
        _table("Round trip in ms, from row to column", ("from", *names), rows),
        Note(Cell(summary, "good" if result.ok else "bad")),
    ]


def bench_blocks(result: dict[str, Any]) -> list[Block]:
    title = f"From {result['from']} to {result['to']}"
    blocks: list[Block] = [
        _table(title, ("what", "overlay", "underlay", "ratio"), _bench_rows(result))
    ]
    if "note" in result:
        blocks.append(Note(Cell(result["note"], "warn")))
    return blocks


def _bench_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    def row(title: str, unit: str, value: Any, bare: Any, ratio: Any = None) -> tuple[str, ...]:
        measured = (f"{value:g} {unit}", "-" if bare is None else f"{bare:g} {unit}")
        return title, *measured, "-" if ratio is None else f"{ratio:.3f}"

    rows = []
    for key, title in (
        ("tcp_1", "TCP, 1 stream"),
        ("tcp_4", "TCP, 4 streams"),
        ("tcp_reverse", "TCP, reverse"),
    ):
        run = result[key]
        rows.append(row(title, "Gbit/s", run["gbps"], run["underlay_gbps"], run["ratio"]))
    small = result["udp_small"]
    rows.append(
        row("UDP, 64 bytes", "packets/s", small["pps"], small["underlay_pps"], small["ratio"])
    )
    for key in ("p50", "p99"):
        times = result["ping_ms"]
        rows.append(row(f"ping {key}", "ms", times[key], times.get(f"underlay_{key}")))
    rows.append(row("CPU for 1 GB", "s", result["cpu_s_per_gb"], None))
    return rows


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    columns = [Column(header) for header in headers]
    return Table(title, columns, [[Cell(text, _style(text)) for text in row] for row in rows])


def _style(text: str) -> str:
    return "bad" if text in ("lost", "down", "not running") else ""

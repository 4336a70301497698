"""`weavepy_*` metrics for Prometheus, made from one `schema.Status` at each scrape.

Nothing is counted here: what the cores count is what `status` shows is what is scraped. Each
function below turns one part of the status into metric families, so that a reader finds a
metric next to its meaning. Names end in their unit; what only grows is a counter.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from weavepy.client import schema

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CONNECTION_STATES = (
    "dialling",
    "handshake",
    "connected",
    "established",
    "orphaned",
    "retrying",
    "failed",
)
TARGET_STATES = ("connected", "dialling", "waiting", "suspended")
TARGET_ORIGINS = ("given", "remembered", "discovered")
TUNNEL_STATES = ("fastdp", "trying", "sleeve")
IPAM_STATES = ("none", "waiting", "ready")


class StatusCollector(Collector):
    """Asks for the status when it is scraped, and only then."""

    def __init__(self, status: Callable[[], schema.Status]) -> None:
        self._status = status

    def describe(self) -> Iterator[Metric]:
        """Name nothing in advance: a registry would otherwise scrape once to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _router_metrics(status.router)
        yield from _peer_metrics(status.peers)
        yield from _connection_metrics(status.connections)
        yield from _target_metrics(status.targets)
        yield from _ipam_metrics(status.ipam)
        yield from _datapath_metrics(status.datapath)
        yield from _session_metrics(status.datapath.sessions)
        if status.fastdp is not None:
            yield from _fastdp_metrics(status.fastdp)
        if status.policy is not None:
            yield from _policy_metrics(status.policy)


def render_metrics(status: schema.Status) -> bytes:
    """Return the text exposition of one status, to be served as `CONTENT_TYPE`."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: status))
    return generate_latest(registry)


def _router_metrics(router: schema.RouterStatus) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "weavepy_build_info",
        "Always 1; the labels say which router this is.",
        labels=["version", "peer", "nickname"],
    )
    build.add_metric([router.version, router.name, router.nickname], 1)
    yield build
    yield _gauge("weavepy_router_uptime_seconds", "Time since the router started.", router.uptime_s)
    yield _gauge(
        "weavepy_encrypted", "1 if control and data are encrypted, 0 if not.", router.encrypted
    )
    yield _gauge(
        "weavepy_connection_limit",
        "Established connections beyond which no discovered peer is dialled.",
        router.connection_limit,
    )
    yield _gauge(
        "weavepy_warnings", "Warnings that `weavepy status` shows now.", len(router.warnings)
    )
    refused = CounterMetricFamily(
        "weavepy_strangers_refused",
        "Connections refused during the handshake since the router started.",
        labels=["reason"],
    )
    for counter in router.refused:
        refused.add_metric([counter.name], counter.value)
    yield refused


def _peer_metrics(peers: list[schema.PeerStatus]) -> Iterator[Metric]:
    yield _gauge("weavepy_peers", "Peers in the topology, ourself included.", len(peers))
    yield _gauge(
        "weavepy_peers_reachable",
        "Peers that frames can be sent to, ourself included.",
        sum(peer.reachable or peer.ourself for peer in peers),
    )


def _connection_metrics(connections: list[schema.ConnectionStatus]) -> Iterator[Metric]:
    by_state = GaugeMetricFamily(
        "weavepy_connections", "Control connections and attempts by state.", labels=["state"]
    )
    counts = Counter(connection.state for connection in connections)
    for state in dict.fromkeys((*CONNECTION_STATES, *sorted(counts))):
        by_state.add_metric([state], counts[state])
    yield by_state


def _target_metrics(targets: list[schema.TargetStatus]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "weavepy_targets",
        "Addresses that the router tries to stay connected to.",
        labels=["origin", "state"],
    )
    counts = Counter((target.origin, target.state) for target in targets)
    known = [(origin, state) for origin in TARGET_ORIGINS for state in TARGET_STATES]
    for origin, state in dict.fromkeys((*known, *sorted(counts))):
        family.add_metric([origin, state], counts[origin, state])
    yield family


def _ipam_metrics(ipam: schema.IpamStatus) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "weavepy_ipam_state", "1 for the state that address management is in.", labels=["state"]
    )
    for state in dict.fromkeys((*IPAM_STATES, ipam.state)):
        states.add_metric([state], state == ipam.state)
    yield states

    addresses = GaugeMetricFamily(
        "weavepy_ipam_addresses", "Addresses that this host owns, by use.", labels=["use"]
    )
    addresses.add_metric(["allocated"], ipam.allocated)
    addresses.add_metric(["cooling"], ipam.cooling)
    addresses.add_metric(["free"], ipam.free)
    yield addresses

    owned = GaugeMetricFamily(
        "weavepy_ipam_owned_addresses",
        "Addresses of the universe by the peer that owns them.",
        labels=["peer", "nickname"],
    )
    unreachable = 0
    for owner in ipam.owners:
        owned.add_metric([owner.peer, owner.nickname], owner.addresses)
        unreachable += 0 if owner.reachable else owner.addresses
    yield owned
    yield _gauge(
        "weavepy_ipam_unreachable_addresses",
        "Addresses whose owner cannot be reached.",
        unreachable,
    )
    yield _gauge("weavepy_ipam_ring_entries", "Entries of the ring.", ipam.entries)
    yield _gauge(
        "weavepy_ipam_frozen_ranges",
        "Ranges under contradiction, in which nothing is allocated.",
        len(ipam.frozen),
    )
    yield _gauge(
        "weavepy_ipam_waiting_requests", "Requests that wait for an address.", len(ipam.waiting)
    )


def _datapath_metrics(datapath: schema.DatapathStatus) -> Iterator[Metric]:
    yield _gauge("weavepy_datapath_running", "1 if the datapath process runs.", datapath.running)
    yield _gauge(
        "weavepy_datapath_uptime_seconds",
        "Time since the datapath process started.",
        datapath.uptime_s,
    )
    yield _gauge("weavepy_overlay_mtu_bytes", "The overlay's MTU here.", datapath.mtu_bytes)
    yield _gauge("weavepy_datapath_macs", "MAC addresses learnt behind peers.", datapath.macs)
    yield _counter(
        "weavepy_datapath_mac_moves",
        "MAC addresses seen behind another peer than before.",
        datapath.mac_moves,
    )
    yield _counter(
        "weavepy_datapath_refused_messages",
        "Messages of routers that the datapath did not understand.",
        datapath.refused_messages,
    )
    offloads = GaugeMetricFamily(
        "weavepy_datapath_offload", "1 for each kernel offload in use.", labels=["offload"]
    )
    for offload in datapath.offloads:
        offloads.add_metric([offload], 1)
    yield offloads
    drops = CounterMetricFamily(
        "weavepy_datapath_drops",
        "Frames and datagrams dropped that belong to no session.",
        labels=["reason"],
    )
    for counter in datapath.drops:
        drops.add_metric([counter.name], counter.value)
    yield drops
    filtered = CounterMetricFamily(
        "weavepy_container_frames_filtered",
        "Frames of this host's containers that their filters dropped.",
        labels=["reason"],
    )
    for counter in datapath.filtered:
        filtered.add_metric([counter.name], counter.value)
    yield filtered


def _session_metrics(sessions: list[schema.SessionStatus]) -> Iterator[Metric]:
    gauges: tuple[tuple[str, str, Callable[[schema.SessionStatus], float]], ...] = (
        ("up", "1 if frames go both ways.", lambda session: session.up),
        (
            "rtt_seconds",
            "Round trip of the last answered probe.",
            lambda session: session.rtt_ms / 1000,
        ),
        (
            "path_mtu_bytes",
            "Largest underlay packet seen to pass; 0 before the first probe.",
            lambda session: session.path_mtu_bytes,
        ),
        (
            "overlay_mtu_bytes",
            "Largest inner packet that fits one datagram.",
            lambda session: session.overlay_mtu_bytes,
        ),
    )
    counters: tuple[tuple[str, str, Callable[[schema.SessionStatus], int]], ...] = (
        ("epochs", "Replacements of the session's keys.", lambda session: session.epoch),
        ("frames_sent", "Frames sent to the peer.", lambda session: session.frames_sent),
        ("frames_received", "Frames from the peer.", lambda session: session.frames_received),
        ("records_sent", "Records sent to the peer.", lambda session: session.records_sent),
        ("records_received", "Records from the peer.", lambda session: session.records_received),
        (
            "datagrams_mended",
            "Datagrams from the peer that were lost on the way and made good by parity.",
            lambda session: session.mended,
        ),
        (
            "parity_sent",
            "Datagrams of parity sent to the peer.",
            lambda session: session.parity_sent,
        ),
        ("sent_bytes", "Bytes of frames sent to the peer.", lambda session: session.bytes_sent),
        (
            "received_bytes",
            "Bytes of frames from the peer.",
            lambda session: session.bytes_received,
        ),
    )
    labels = ["peer", "nickname"]
    for name, help_text, value in gauges:
        gauge = GaugeMetricFamily(f"weavepy_session_{name}", help_text, labels=labels)
        for session in sessions:
            gauge.add_metric([session.peer, session.nickname], value(session))
        yield gauge
    for name, help_text, count in counters:
        counter = CounterMetricFamily(f"weavepy_session_{name}", help_text, labels=labels)
        for session in sessions:
            counter.add_metric([session.peer, session.nickname], count(session))
        yield counter

    drops = CounterMetricFamily(
        "weavepy_session_drops",
        "Records and frames of a session that were dropped.",
        labels=[*labels, "reason"],
    )
    for session in sessions:
        for drop in session.drops:
            drops.add_metric([session.peer, session.nickname, drop.name], drop.value)
    yield drops


def _fastdp_metrics(fastdp: schema.FastdpStatus) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "weavepy_fastdp_peers", "Connected peers by the way frames take to them.", labels=["state"]
    )
    counts = Counter(tunnel.state for tunnel in fastdp.tunnels)
    for state in dict.fromkeys((*TUNNEL_STATES, *sorted(counts))):
        states.add_metric([state], counts[state])
    yield states

    tunnels = [tunnel for tunnel in fastdp.tunnels if tunnel.state != "sleeve"]
    labels = ["peer", "nickname"]
    up = GaugeMetricFamily(
        "weavepy_tunnel_up", "1 if frames go through the peer's tunnel.", labels=labels
    )
    for tunnel in tunnels:
        up.add_metric([tunnel.peer, tunnel.nickname], tunnel.state == "fastdp")
    yield up
    traffic = CounterMetricFamily(
        "weavepy_tunnel_frames",
        "Frames through the peer's tunnel.",
        labels=[*labels, "direction"],
    )
    volume = CounterMetricFamily(
        "weavepy_tunnel_bytes",
        "Bytes of frames through the peer's tunnel.",
        labels=[*labels, "direction"],
    )
    for tunnel in tunnels:
        sent = [tunnel.peer, tunnel.nickname, "sent"]
        received = [tunnel.peer, tunnel.nickname, "received"]
        traffic.add_metric(sent, tunnel.frames_sent)
        traffic.add_metric(received, tunnel.frames_received)
        volume.add_metric(sent, tunnel.bytes_sent)
        volume.add_metric(received, tunnel.bytes_received)
    yield traffic
    yield volume

    refused = CounterMetricFamily(
        "weavepy_fastdp_refused",
        "VXLAN datagrams dropped because they are no current peer's.",
        labels=["reason"],
    )
    for counter in fastdp.refused:
        refused.add_metric([counter.name], counter.value)
    yield refused


def _policy_metrics(policy: schema.PolicySummary) -> Iterator[Metric]:
    yield _gauge("weavepy_policies", "Network policies in force.", policy.policies)
    yield _gauge(
        "weavepy_policies_faulty", "Those that cannot be compiled, and close.", policy.faulty
    )
    yield _counter(
        "weavepy_policy_repairs", "Times that others' changes were undone.", policy.repairs
    )
    drops = CounterMetricFamily(
        "weavepy_policy_dropped",
        "Packets from or to an isolated pod here that no policy allowed.",
        labels=["namespace", "pod", "direction"],
    )
    for pod in policy.drops:
        drops.add_metric([pod.namespace, pod.name, "ingress"], pod.ingress)
        drops.add_metric([pod.namespace, pod.name, "egress"], pod.egress)
    yield drops
    passed = CounterMetricFamily(
        "weavepy_policy_connections",
        "Connections that a policy let through, counted for each that names the peer.",
        labels=["namespace", "policy", "direction"],
    )
    for one in policy.passed:
        passed.add_metric([one.namespace, one.name, "ingress"], one.ingress)
        passed.add_metric([one.namespace, one.name, "egress"], one.egress)
    yield passed
    yield _gauge(
        "weavepy_policy_rules", "Rules of network policies in the packet filter.", policy.rules
    )
    bounds = [*(str(bound) for bound in policy.enforced.bounds_s), "+Inf"]
    yield HistogramMetricFamily(
        "weavepy_policy_enforcement_seconds",
        "From when a change was heard of to when it was in the packet filter.",
        buckets=[*zip(bounds, accumulate(policy.enforced.counts), strict=True)],
        sum_value=policy.enforced.sum_s,
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)

"""The metrics of a status: every number of it that matters, under a name with its unit."""

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.weavepy.samples import NEAR, OURSELF, sample_status
from weavepy.daemon.metrics import render_metrics

Labels = frozenset[tuple[str, str]]


def scrape() -> dict[tuple[str, Labels], float]:
    text = render_metrics(sample_status()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float:
    return scrape()[name, frozenset(labels.items())]


def test_the_router_is_there() -> None:
    assert value("weavepy_build_info", version="0.1.0", peer=OURSELF, nickname="host1") == 1
    assert value("weavepy_router_uptime_seconds") == 125
    assert value("weavepy_encrypted") == 1
    assert value("weavepy_strangers_refused_total", reason="wrong-secret") == 2
    assert value("weavepy_warnings") == 1


def test_peers_connections_and_targets_are_counted() -> None:
    assert value("weavepy_peers") == 3
    assert value("weavepy_peers_reachable") == 3
    assert value("weavepy_connections", state="established") == 1
    assert value("weavepy_connections", state="retrying") == 1
    assert value("weavepy_connections", state="failed") == 0
    assert value("weavepy_targets", origin="given", state="waiting") == 1


def test_addresses_that_move_and_messages_that_make_no_sense_are_counted() -> None:
    assert value("weavepy_datapath_mac_moves_total") == 3
    assert value("weavepy_datapath_refused_messages_total") == 1


def test_addresses_are_counted() -> None:
    assert value("weavepy_ipam_state", state="ready") == 1
    assert value("weavepy_ipam_state", state="waiting") == 0
    assert value("weavepy_ipam_addresses", use="allocated") == 5
    assert value("weavepy_ipam_owned_addresses", peer=OURSELF, nickname="host1") == 524_288
    assert value("weavepy_ipam_unreachable_addresses") == 524_288
    assert value("weavepy_ipam_waiting_requests") == 1


def test_tunnels_and_what_the_guard_refused_are_counted() -> None:
    assert value("weavepy_fastdp_peers", state="fastdp") == 1
    assert value("weavepy_fastdp_peers", state="trying") == 1
    assert value("weavepy_tunnel_up", peer=NEAR, nickname="host2") == 1
    to_near = {"peer": NEAR, "nickname": "host2", "direction": "sent"}
    assert value("weavepy_tunnel_frames_total", **to_near) == 7
    assert value("weavepy_tunnel_bytes_total", **to_near) == 2048
    assert value("weavepy_fastdp_refused_total", reason="forged_source") == 4
    assert value("weavepy_policies") == 3
    assert value("weavepy_policies_faulty") == 1
    assert value("weavepy_policy_repairs_total") == 2
    pod = {"namespace": "shop", "pod": "web"}
    assert value("weavepy_policy_dropped_total", **pod, direction="ingress") == 7
    allow = {"namespace": "shop", "policy": "allow"}
    assert value("weavepy_policy_connections_total", **allow, direction="ingress") == 5
    assert value("weavepy_policy_rules") == 60
    name = "weavepy_policy_enforcement_seconds"
    buckets = [value(f"{name}_bucket", le=bound) for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [4, 6, 7]
    assert (value(f"{name}_count"), value(f"{name}_sum")) == (7, 3.5)


def test_the_datapath_and_its_sessions_are_counted() -> None:
    assert value("weavepy_datapath_running") == 1
    assert value("weavepy_overlay_mtu_bytes") == 1410
    assert value("weavepy_datapath_drops_total", reason="unknown-index") == 9
    session = {"peer": NEAR, "nickname": "host2"}
    assert value("weavepy_session_up", **session) == 1
    assert value("weavepy_session_rtt_seconds", **session) == 0.0005
    assert value("weavepy_session_sent_bytes_total", **session) == 1500
    assert value("weavepy_session_received_bytes_total", **session) == 2_500_000
    assert value("weavepy_session_frames_received_total", **session) == 12
    assert value("weavepy_session_epochs_total", **session) == 3
    assert value("weavepy_session_drops_total", **session, reason="replayed") == 4


def test_every_metric_is_ours_and_has_help_and_type() -> None:
    text = render_metrics(sample_status()).decode()
    names = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and line[0] != "#"}
    histograms = re.findall(r"^# TYPE (\S+) histogram$", text, re.MULTILINE)
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    names = names - parts | set(histograms)
    assert all(name.startswith("weavepy_") for name in names)
    for name in names:
        assert f"# TYPE {name} " in text
        assert re.search(rf"^# HELP {name} \S", text, re.MULTILINE), name


def test_a_hostile_nickname_stays_inside_its_label() -> None:
    status = sample_status()
    status.datapath.sessions[0].nickname = 'evil"} 1\nweavepy_peers 9'
    families = text_string_to_metric_families(render_metrics(status).decode())
    peers = [
        sample for family in families for sample in family.samples if sample.name == "weavepy_peers"
    ]
    assert [sample.value for sample in peers] == [3]

"""VXLAN that somebody forged: dropped by the kernel before it is a frame, and counted."""

import json
import socket
from urllib.request import urlopen

import pytest

from fastdp.core.effects import network_id
from tests.e2e.conftest import MakeLab
from tests.e2e.tunnels import VXLAN, both_ways, wait_for_overlay
from tests.e2e.waiting import counted, wait_for
from weavepy.client import schema
from weavepy.lab.lab import Lab

ETHERTYPE = 0x88B6
FORGED = b"nobody may see this".ljust(46, b".")
TRUE = b"from a peer with its own id".ljust(46, b".")
TIMES = 5

METRICS = "http://127.0.0.1:6782/metrics"


def frame(payload: bytes) -> bytes:
    """For everyone."""
    return b"\xff" * 6 + b"\2\0\0\0\0\x66" + ETHERTYPE.to_bytes(2, "big") + payload


def forge(lab: Lab, node: str, address: str, pair: int, payload: bytes = FORGED) -> None:
    header = b"\x08\0\0\0" + pair.to_bytes(3, "big") + b"\0"
    sender = lab.inside(node, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sender:
        for _ in range(TIMES):
            sender.sendto(header + frame(payload), (address, 6784))


def refused(lab: Lab) -> dict[str, int]:
    fastdp = lab.api("h1").status().fastdp
    assert fastdp is not None
    return counted(fastdp.refused)


def wait_for_refused(lab: Lab, wanted: dict[str, int]) -> None:
    wait_for(lambda: refused(lab), lambda seen: seen == wanted, 5)


def listening(lab: Lab, container: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        made.bind(("ethwe", ETHERTYPE))
        made.settimeout(5)
        return made

    return lab.inside(container, make)


def test_forged_vxlan_of_strangers_containers_and_peers_is_dropped_and_counted(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=VXLAN)
    wait_for_overlay(lab, both_ways(("h1", "h2"), ("h1", "h3"), ("h2", "h3")), "fastdp")
    to_h2 = lab.plan.link("h1", "h2").end_at(1).address
    to_h3 = lab.plan.link("h1", "h3").end_at(1).address
    ids = {peer.nickname: peer.short_id for peer in lab.api("h1").status().peers}
    assert len(ids) == 3
    one_two, one_three = (network_id(ids["h1"], ids[name]) for name in ("h2", "h3"))
    counts = {"forged_id": 0, "forged_source": 0, "from_container": 0}
    assert refused(lab) == counts

    with listening(lab, "h1c1") as seen:
        forge(lab, "h3", to_h3, one_two)
        counts["forged_id"] += TIMES
        wait_for_refused(lab, counts)

        exposed = lab.api("h1").expose(schema.ExposeRequest(masquerade=True)).addresses
        forge(lab, "h1c1", exposed[0].split("/")[0], one_two)
        counts["from_container"] += TIMES
        wait_for_refused(lab, counts)

        forge(lab, "h2", to_h2, one_two, TRUE)
        assert seen.recv(2000)[14:] == TRUE, "and nothing that was forged before it"
        for _ in range(TIMES - 1):
            seen.recv(2000)

        lab.router("h3", "stop")
        wait_for(
            lambda: [peer.nickname for peer in lab.api("h1").status().peers],
            lambda names: "h3" not in names,
            20,
        )
        forge(lab, "h3", to_h3, one_three)
        forge(lab, "h3", to_h3, one_two)
        counts["forged_source"] += 2 * TIMES
        wait_for_refused(lab, counts)
        seen.setblocking(False)
        with pytest.raises(BlockingIOError):
            seen.recv(2000)

    with lab.inside("h1", lambda: urlopen(METRICS, timeout=5)) as answer:
        shown = answer.read().decode()
    for name, count in counts.items():
        assert f'weavepy_fastdp_refused_total{{reason="{name}"}} {count}.0' in shown
    status = json.loads(lab.exec("h1", ["weavepy", "status", "--json"]).stdout)
    assert {it["name"]: it["value"] for it in status["fastdp"]["refused"]} == counts

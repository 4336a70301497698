"""The underlay may be IPv6, or IPv4 on some links and IPv6 on others."""

import pytest

from tests.e2e.conftest import BOTH_PATHS, MakeLab, path_name
from tests.e2e.test_path_mtu import wait_for_path_mtu
from tests.e2e.traffic import transfer
from tests.e2e.waiting import connection, route, wait_for
from weavepy.lab.lab import LinkChange

TRANSFERRED_BYTES = 20_000_000


@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
def test_a_mesh_over_ipv6_alone_carries_ipv4_between_containers(
    make_lab: MakeLab, options: list[str]
) -> None:
    lab = make_lab(hosts=3, containers=1, family="ipv6", launch_options=options)
    assert lab.ping().ok
    for session in lab.api("h1").status().datapath.sessions:
        assert session.endpoint.startswith("[fd99::")
        assert session.endpoint.endswith("]:6783")
    assert transfer(lab, "h1c1", "h2c1", bytes(TRANSFERRED_BYTES)) == TRANSFERRED_BYTES
    wait_for_path_mtu(lab, 1500, 5)
    lab.link("h1", "h2", LinkChange(mtu_bytes=1400))
    assert transfer(lab, "h1c1", "h2c1", bytes(TRANSFERRED_BYTES)) == TRANSFERRED_BYTES
    wait_for_path_mtu(lab, 1400, 5)


def test_a_chain_whose_links_have_different_families_relays(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1, topology="chain", family="mixed")
    assert lab.ping().ok
    assert route(lab, "h1", "h3") == "relayed via h2"
    addresses = {
        peer: found.address
        for peer in ("h1", "h3")
        if (found := connection(lab, "h2", peer)) is not None
    }
    assert "10.99.0." in addresses["h1"]
    assert "[fd99::" in addresses["h3"]
    assert transfer(lab, "h1c1", "h3c1", bytes(TRANSFERRED_BYTES)) == TRANSFERRED_BYTES


def test_a_host_behind_nat_over_ipv6_is_reached(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1, family="mixed", nat=[2])
    assert lab.ping().ok
    wait_for(
        lambda: [route(lab, "h2", other) for other in ("h1", "h3")],
        lambda seen: seen == ["direct", "direct"],
        10,
    )

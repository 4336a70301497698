"""A kernel without ESP: frames are shown to nobody, unless the operators trust the underlay."""

import secrets

import pytest

from fastdp.shell import xfrm
from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import WireTap, transfer
from tests.e2e.tunnels import both_ways, wait_for_overlay
from tests.e2e.waiting import connection, wait_for

PAIR = both_ways(("h1", "h2"))
REPEATS = 20_000


@pytest.mark.skipif(xfrm.why_not() == "", reason="this kernel has ESP: see tests/kernel")
def test_without_esp_an_encrypted_mesh_stays_on_sleeve_and_says_why(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=["--fastdp", "vxlan"])
    marker = secrets.token_bytes(32)
    with WireTap(lab, marker) as tap:
        for host, other in PAIR:
            found = wait_for(
                lambda host=host, other=other: connection(lab, host, other),
                lambda seen: seen is not None and seen.info != "",
                5,
            )
            assert found is not None
            assert found.overlay == "sleeve"
            assert found.encrypted
            assert found.info.startswith("sleeve: encrypted mesh: VXLAN is clear text")
            assert "ESP" in found.info
            assert "--trusted-subnets" in found.info
        assert transfer(lab, "h1c1", "h2c1", marker * REPEATS) == 32 * REPEATS
    assert tap.dropped == 0
    assert tap.found == {}
    devices = lab.exec("h1", ["ip", "-o", "link", "show", "type", "vxlan"]).stdout
    assert devices == ""


def test_between_trusted_subnets_an_encrypted_mesh_uses_it(make_lab: MakeLab) -> None:
    options = ["--trusted-subnets", "10.99.0.0/16,10.98.0.0/16"]
    lab = make_lab(hosts=2, containers=1, launch_options=options)
    wait_for_overlay(lab, PAIR, "fastdp")
    assert lab.ping().ok
    found = connection(lab, "h1", "h2")
    assert found is not None
    assert not found.encrypted


@pytest.mark.skipif(xfrm.why_not() == "", reason="this kernel has ESP: see tests/kernel")
def test_trust_of_one_end_is_not_enough(make_lab: MakeLab) -> None:
    """Only h1's address is trusted, by both: so h1 does not trust h2's."""
    lab = make_lab(hosts=2, containers=1, launch_options=["--trusted-subnets", "10.99.0.1/32"])
    assert [lab.plan.link("h1", "h2").end_at(host).address for host in (1, 2)] == [
        "10.99.0.1",
        "10.99.0.2",
    ]
    wanted = {
        ("h1", "h2"): "sleeve: encrypted mesh: VXLAN is clear text",
        ("h2", "h1"): "sleeve: the other end does not want a fast path: encrypted mesh",
    }
    wait_for(
        lambda: {pair: getattr(connection(lab, *pair), "info", "") for pair in wanted},
        lambda seen: all(seen[pair].startswith(text) for pair, text in wanted.items()),
        20,
    )

"""What containers say to each other is not on the wire, unless the mesh is insecure."""

import secrets

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import WireTap, transfer

REPEATS = 100_000
"""Of a marker of 32 bytes: 3.2 MB, so that every packet of the transfer holds it whole."""


@pytest.mark.parametrize("insecure", [False, True], ids=["encrypted", "insecure"])
def test_a_marker_in_the_payload_is_on_the_wire_only_if_insecure(
    make_lab: MakeLab, insecure: bool
) -> None:
    options = ["--no-discovery"] + (["--insecure"] if insecure else [])
    lab = make_lab(hosts=4, containers=1, topology="chain", launch_options=options)
    marker = secrets.token_bytes(32)

    with WireTap(lab, marker) as tap:
        assert lab.ping().ok
        assert transfer(lab, "h1c1", "h4c1", marker * REPEATS) == 32 * REPEATS

    assert set(tap.packets) == {"h1-h2", "h2-h3", "h3-h4"}
    assert min(tap.packets.values()) > 30, "the tap must have seen the transfer"
    assert tap.dropped == 0
    if insecure:
        assert set(tap.found) == {"h1-h2", "h2-h3", "h3-h4"}
    else:
        assert tap.found == {}

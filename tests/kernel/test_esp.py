"""An encrypted mesh whose kernels have ESP: they carry the frames, and nobody on the way reads."""

import secrets

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import WireTap, transfer
from tests.e2e.tunnels import both_ways, sleeve_frames, wait_for_overlay

PAIR = both_ways(("h1", "h2"))


def test_frames_go_by_the_fast_path_and_only_esp_is_on_the_wire(make_lab: MakeLab) -> None:
    marker = secrets.token_bytes(32)
    lab = make_lab(hosts=2, containers=1, launch_options=["--esp-rekey", "2"])
    with WireTap(lab, marker) as tap:
        wait_for_overlay(lab, PAIR, "fastdp", 30)
        shown = lab.exec("h1", ["weavepy", "status", "connections"]).stdout
        print(shown)
        print(lab.exec("h1", ["ip", "xfrm", "policy"]).stdout)
        print(lab.exec("h1", ["ip", "-s", "xfrm", "state"]).stdout)
        print(lab.exec("h1", ["nft", "list", "ruleset"]).stdout)
        before = sleeve_frames(lab, "h1")
        assert transfer(lab, "h1c1", "h2c1", marker * 2000) == 32 * 2000
        assert sleeve_frames(lab, "h1") - before < 10
    assert "fastdp (ESP)" in shown
    assert tap.found == {}

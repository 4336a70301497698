"""The lane itself: two routers in it, whose containers talk by its kernel's VXLAN."""

from tests.e2e.conftest import MakeLab
from tests.e2e.tunnels import VXLAN, both_ways, sleeve_frames, wait_for_overlay


def test_two_routers_reach_each_other_by_the_kernels_vxlan(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=VXLAN)
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp", 30)
    before = sleeve_frames(lab, "h1")

    assert lab.ping(count=3).ok

    assert sleeve_frames(lab, "h1") - before < 3

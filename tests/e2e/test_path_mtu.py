"""The path between two hosts gets narrower, or wider, under traffic and without a word of ICMP."""

import time

import pytest

from tests.e2e.conftest import BOTH_PATHS, MakeLab, path_name
from tests.e2e.flow import Flow
from tests.e2e.waiting import wait_for
from weavepy.client import schema
from weavepy.lab.lab import Lab, LinkChange

pytestmark = pytest.mark.alone

ADAPTED_S = 2.0
"""F14."""

SLACK_S = 0.6
"""TCP sends again what was lost meanwhile only when its timer says so."""


@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
def test_a_flow_goes_on_within_two_seconds_when_the_path_becomes_a_black_hole(
    make_lab: MakeLab, options: list[str]
) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=options)
    wait_for_path_mtu(lab, 1500, 5)
    with Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        for mtu_bytes in (1400, 1280):
            began = time.monotonic()
            lab.link("h1", "h2", LinkChange(mtu_bytes=mtu_bytes))
            wait_for_path_mtu(lab, mtu_bytes, 6)
            found_s = time.monotonic() - began
            time.sleep(1.0)
            gap_s = progress.longest_gap_s(began)
            print(f"MTU {mtu_bytes}: known after {found_s:.2f} s, stood still for {gap_s:.2f} s")
            assert gap_s < ADAPTED_S + SLACK_S
        began = time.monotonic()
        lab.link("h1", "h2", LinkChange(mtu_bytes=0))
        wait_for_path_mtu(lab, 1500, 30)
        print(f"back at 1500 after {time.monotonic() - began:.1f} s")
        assert progress.longest_gap_s(began) < 1.0, "a path that grows disturbs nobody"
    assert not progress.damaged
    assert progress.failure == ""


def test_a_packet_that_does_not_fit_is_answered_and_its_sender_learns(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1)
    lab.link("h1", "h2", LinkChange(mtu_bytes=1400))
    wait_for(lambda: session(lab, "h1", "h2").overlay_mtu_bytes, lambda seen: seen == 1300, 10)

    address = lab.address("h2c1")
    shown = lab.exec("h1c1", ["ping", "-M", "do", "-c", "2", "-W", "1", "-s", "1350", address])
    assert "mtu = 1300" in shown.stdout + shown.stderr, shown.stdout
    assert "mtu 1300" in lab.exec("h1c1", ["ip", "route", "get", address]).stdout
    for size, passes in ((1300 - 28, True), (1300 - 27, False)):
        shown = lab.exec(
            "h1c1", ["ping", "-M", "do", "-c", "1", "-W", "1", "-s", str(size), address]
        )
        assert (shown.returncode == 0) == passes, shown.stdout
    shown = lab.exec("h1c1", ["ping", "-M", "dont", "-c", "2", "-s", "1372", address])
    assert shown.returncode == 0, "what may be fragmented passes at any size"

    there = link_local(lab, "h2c1")
    wait_for(
        lambda: lab.exec("h1c1", ["ping", "-c", "1", "-W", "1", there]).returncode,
        lambda code: code == 0,
        10,
    )
    lab.exec("h1c1", ["ping", "-M", "do", "-c", "2", "-W", "1", "-s", "1340", there])
    route = lab.exec("h1c1", ["ip", "-6", "route", "get", *there.replace("%", " dev ").split()])
    assert "mtu 1300" in route.stdout, route.stdout
    shown = lab.exec("h1c1", ["ping", "-M", "do", "-c", "1", "-W", "1", "-s", "1252", there])
    assert shown.returncode == 0, shown.stdout


def test_a_jumbo_underlay_is_used_in_full_and_left_when_it_ends(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1, mtu_bytes=9000)
    wait_for_path_mtu(lab, 9000, 5)
    address = lab.address("h2c1")
    shown = lab.exec(
        "h1c1", ["ping", "-M", "do", "-c", "1", "-W", "1", "-s", str(8900 - 28), address]
    )
    assert shown.returncode == 0, shown.stdout
    with Flow(lab, "h1c1", "h2c1", address) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.link("h1", "h2", LinkChange(mtu_bytes=1500))
        wait_for_path_mtu(lab, 1500, 6)
        time.sleep(1.0)
        print(f"9000 to 1500: stood still for {progress.longest_gap_s(began):.2f} s")
        assert progress.longest_gap_s(began) < ADAPTED_S + SLACK_S
    assert not progress.damaged
    assert progress.failure == ""


def link_local(lab: Lab, container: str) -> str:
    """As seen from another container."""
    shown = lab.exec(container, ["ip", "-6", "-o", "address", "show", "dev", "ethwe"]).stdout
    return next(word for word in shown.split() if word.startswith("fe80:")).split("/")[0] + "%ethwe"


def wait_for_path_mtu(lab: Lab, wanted: int, timeout_s: float) -> None:
    wait_for(
        lambda: [session(lab, one, other).path_mtu_bytes for one, other in (("h1", "h2"),)],
        lambda seen: seen == [wanted],
        timeout_s,
    )


def session(lab: Lab, host: str, peer: str) -> schema.SessionStatus:
    for found in lab.api(host).status().datapath.sessions:
        if found.nickname == peer:
            return found
    raise AssertionError(f"{host} has no session with {peer}")

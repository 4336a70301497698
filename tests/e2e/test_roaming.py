"""A host's underlay addresses change under traffic: frames go on, and the routers find back."""

import time

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.flow import Flow
from tests.e2e.traffic import Stream
from tests.e2e.waiting import connection, wait_for
from weavepy.lab.lab import Lab

ROAMED_S = 2.0
"""F24."""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("host", ["h1", "h2"], ids=["dialled", "dialler"])
def test_sessions_roam_and_routers_reconnect(make_lab: MakeLab, family: str, host: str) -> None:
    lab = make_lab(hosts=2, containers=1, family=family)
    other = "h2" if host == "h1" else "h1"
    with (
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1")) as progress,
        Stream(lab, f"{other}c1", f"{host}c1", rate=200) as arrivals,
    ):
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        began = time.monotonic()
        lab.move(host)
        time.sleep(4.0)
        gap_s = progress.longest_gap_s(began)
        wait_for_established_elsewhere(lab, host, other)
        print(f"reconnected after {time.monotonic() - began:.1f} s")
    print(f"flow stood still for {gap_s:.2f} s, datagrams for {arrivals.longest_gap_s:.2f} s")
    assert gap_s < ROAMED_S
    assert arrivals.longest_gap_s < ROAMED_S
    assert arrivals.duplicated == []
    assert not progress.damaged
    assert progress.failure == ""


def wait_for_established_elsewhere(lab: Lab, moved: str, other: str) -> None:
    """Both routers have a control connection that uses the new address."""
    end = lab.plan.link(moved, other).end_at(int(moved[1:]))
    wait_for(
        lambda: connection(lab, other, moved),
        lambda seen: (
            seen is not None and seen.state == "established" and end.moved_address in seen.address
        ),
        30,
    )

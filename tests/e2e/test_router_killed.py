"""A router is killed and comes back; its datapath carries every frame meanwhile."""

import os
import signal
import time
from functools import partial

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream
from tests.e2e.waiting import connection, wait_for, wait_for_all_pings
from weavepy.lab import routers
from weavepy.lab.lab import Lab

AWAY_S = 5.0
"""Longer than a dead link takes to be noticed."""

ADOPTED_WITHIN_S = 8.0


def datapath_pid(lab: Lab, host: str) -> int | None:
    return routers.datapath_pid(lab.store, lab.plan, lab.plan.node(host))


@pytest.mark.parametrize("topology", ["full", "chain"])
def test_no_datagram_is_lost_while_a_router_is_away_and_when_it_returns(
    make_lab: MakeLab, topology: str
) -> None:
    """In the chain, h2 is the relay between the containers of h1 and h3 as well."""
    lab = make_lab(hosts=3, containers=1, topology=topology)
    assert lab.ping().ok
    before = lab.addresses()
    datapath = datapath_pid(lab, "h2")
    ring = lab.api("h2").ipam().ring_id
    name = lab.api("h2").status().router.name

    with (
        Stream(lab, "h1c1", "h2c1") as into,
        Stream(lab, "h2c1", "h3c1", rate=499.0) as out,
        Stream(lab, "h1c1", "h3c1", rate=498.0) as across,
    ):
        time.sleep(1.0)
        lab.router("h2", "kill")
        time.sleep(AWAY_S)
        lab.router("h2", "start")
        for other in ("h1", "h3"):
            wait_for(
                partial(connection, lab, "h2", other),
                lambda seen: seen is not None and seen.state == "established",
                ADOPTED_WITHIN_S,
            )
        time.sleep(2.0)

    for stream in (into, out, across):
        assert stream.sent > 3000
        assert stream.lost == []
        assert stream.duplicated == []
    assert datapath_pid(lab, "h2") == datapath, "adopted, not started again"
    assert lab.api("h2").status().router.name == name
    assert lab.api("h2").ipam().ring_id == ring
    assert lab.addresses() == before
    assert lab.ping().ok


def test_a_router_that_hangs_is_found_out_and_its_datapath_goes_on(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1)
    with Stream(lab, "h1c1", "h2c1") as stream:
        lab.router("h2", "pause")
        wait_for(
            lambda: connection(lab, "h1", "h2"),
            lambda seen: seen is not None and seen.state == "orphaned",
            8.0,
        )
        lab.router("h2", "resume")
        wait_for(
            lambda: connection(lab, "h1", "h2"),
            lambda seen: seen is not None and seen.state == "established",
            20.0,
        )
    assert stream.lost == []


def test_a_datapath_that_hangs_is_killed_before_another_starts(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1)
    hung = datapath_pid(lab, "h2")
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    wait_for(
        lambda: " ".join(lab.api("h2").status().router.warnings),
        lambda said: "the datapath does not answer" in said,
        10.0,
    )
    lab.router("h2", "kill")
    lab.router("h2", "start")

    wait_for(lambda: datapath_pid(lab, "h2"), lambda pid: pid not in (None, hung), 20.0)

    wait_for_all_pings(lab, 20.0)
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)

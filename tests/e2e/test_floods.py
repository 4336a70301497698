"""One that floods gets its share and no more; memory stays as it is."""

import time

from tests.e2e.conftest import MakeLab
from tests.e2e.floods import broadcasts
from tests.e2e.flow import Flow
from tests.e2e.traffic import Stream
from tests.e2e.waiting import counted, wait_for
from weavepy.lab.lab import Lab

FLOOD_S = 4.0


def test_a_broadcast_storm_of_one_container_does_not_starve_the_others(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=2)
    assert lab.ping().ok
    quiet = rates(lab)
    with broadcasts(lab, "h1c1"):
        time.sleep(1.5)
        stormy = rates(lab)
        drops = counted(lab.api("h1").status().datapath.drops)
    print(f"Mbit/s and loss: quiet {quiet}, in a storm {stormy}; drops {drops}")
    assert drops["storm"] > 1000
    assert stormy[0] > 0.1 * quiet[0]
    assert stormy[1] < 0.25


def rates(lab: Lab) -> tuple[float, float]:
    """Of another pair: Mbit/s of a TCP flow that takes what it gets, and what a stream loses."""
    with (
        Flow(lab, "h1c2", "h2c2", lab.address("h2c2"), bytes_per_s=1e12) as progress,
        Stream(lab, "h1c2", "h2c2", rate=200) as arrivals,
    ):
        wait_for(lambda: progress.bytes_received, bool, 10)
        before, began = progress.bytes_received, time.monotonic()
        time.sleep(FLOOD_S)
        mbit = (progress.bytes_received - before) * 8e-6 / (time.monotonic() - began)
    assert progress.failure == ""
    return round(mbit, 1), round(len(arrivals.lost) / arrivals.sent, 4)

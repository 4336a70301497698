"""A cut link in a full mesh: traffic goes round it, and returns when it heals."""

import time

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream
from tests.e2e.waiting import wait_for_route
from weavepy.lab.lab import LinkChange

ROUND_WITHIN_S = 5.0
BACK_WITHIN_S = 60.0
"""The next attempt to dial may be some backoff away."""


def test_traffic_goes_round_a_cut_within_five_seconds_and_returns(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1)
    assert lab.ping().ok

    with Stream(lab, "h1c1", "h2c1", rate=50.0) as cut:
        time.sleep(1.0)
        lab.link("h1", "h2", LinkChange(down=True))
        wait_for_route(lab, "h1", "h2", "relayed via h3", 10.0)
        wait_for_route(lab, "h2", "h1", "relayed via h3", 10.0)
        time.sleep(1.0)
    assert cut.longest_gap_s < ROUND_WITHIN_S
    assert cut.lost != [], "the cut must have bitten"
    assert cut.duplicated == []
    assert lab.ping().ok

    with Stream(lab, "h1c1", "h2c1", rate=50.0) as healed:
        lab.link("h1", "h2", LinkChange(down=False))
        wait_for_route(lab, "h1", "h2", "direct", BACK_WITHIN_S)
        wait_for_route(lab, "h2", "h1", "direct", BACK_WITHIN_S)
        time.sleep(1.0)
    assert healed.lost == [], "there was a way all the time"
    assert lab.ping().ok

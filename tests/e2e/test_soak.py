"""A minute of what `script/soak` does for an hour."""

from random import Random

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.soak import BEHIND_NAT, HOSTS, Soak

MINUTES = 1.0


@pytest.mark.timeout(240)
def test_under_traffic_kills_and_cuts_nothing_grows_and_everything_comes_back(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=HOSTS, containers=1, nat=[BEHIND_NAT])
    outcome = Soak(lab, Random(1)).go(60 * MINUTES)
    print("\n".join(outcome.lines()))
    assert outcome.faults_found() == []
    assert outcome.faults.total() >= 4
    assert outcome.broadcasts[0] > 0.5 * outcome.broadcasts[1]
    assert outcome.pings[0] > 0.5 * outcome.pings[1]

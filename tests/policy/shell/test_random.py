"""A few of the random policy sets that `tests.policy.real_packets` sends packets through."""

import pytest

from tests.policy.real_packets import cable
from tests.policy.shell.conftest import Cluster

pytestmark = pytest.mark.root

SETS = 6


@pytest.mark.checklist(3, 5, 6, 7, 9, 10, 12, 13, 28)
def test_model_packets_and_explanation_agree_in_every_cell(cluster: Cluster) -> None:
    with cable(cluster) as packets:
        assert [line for seed in range(SETS) for line in packets.differences(seed)] == []
        assert packets.cells == SETS * 81

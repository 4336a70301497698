"""Each deliberate mistake is found: what the simulator says about the real code means something."""

import pytest

from tests.sim.sabotage import SABOTAGES, Sabotage, hunt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: one.what)
def test_a_deliberate_mistake_is_found(sabotage: Sabotage) -> None:
    seeds, seen = hunt(sabotage)
    assert seeds, f"{sabotage.what} went unnoticed"
    print(f"{sabotage.what}: after {seeds} seeds, {seen}")


def test_there_are_at_least_twelve() -> None:
    assert len({sabotage.what for sabotage in SABOTAGES}) >= 12

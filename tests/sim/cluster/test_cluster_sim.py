"""Clusters on a virtual clock: seeds that were never run before, mistakes that must be found, and
two dozen nodes of what `tests.sim.cluster.scale` does with a thousand.

`WEAVEPY_CLUSTER_SEEDS` says how many fresh seeds (6).
"""

import os
import time

import pytest

from tests.sim.cluster.plan import draw_plan
from tests.sim.cluster.run import run_plan
from tests.sim.cluster.sabotage import SABOTAGES, Sabotage, hunt
from tests.sim.cluster.scale import Scale

FRESH = int(os.environ.get("WEAVEPY_CLUSTER_SEEDS", "6"))
FIRST = int(time.time() // 86400) * 10_000


KEPT = {1005: "the first ring gave a share to a peer that died before it was on record"}


@pytest.mark.parametrize("seed", KEPT)
def test_a_seed_that_failed_once_passes(seed: int) -> None:
    assert not run_plan(draw_plan(seed)).failure, KEPT[seed]


def test_fresh_seeds_pass() -> None:
    print(f"fresh seeds from {FIRST} on")
    for seed in range(FIRST, FIRST + FRESH):
        failure = run_plan(draw_plan(seed)).failure
        assert not failure, f"{failure}\nreplay: python -m tests.sim.cluster --seed {seed} --trace"


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.what)
def test_a_deliberate_mistake_is_found(sabotage: Sabotage) -> None:
    tried, seen = hunt(sabotage)
    assert tried, "not found"
    print(f"found after {tried} seeds: {seen}")


def test_two_dozen_nodes_join_and_are_upgraded_without_a_storm() -> None:
    scale = Scale(24, join_s=30.0, connection_limit=10, tell=lambda text: None)
    scale.run(idle_s=30.0)
    join, _, idle, away, back, upgrade, _, after = scale.phases
    nodes = scale.nodes
    assert join.requests["patch register"] <= 2 * nodes
    assert join.requests["list nodes"] == join.requests["watch nodes"] == nodes
    assert upgrade.requests["patch register"] == nodes, "each puts itself on record again"
    assert away.requests["watch nodes"] <= 8 * nodes, "less and less often"
    assert back.requests["watch nodes"] < 2 * nodes, "once, and who asked just before it was there"
    assert join.kilobytes_per_node() < 1000
    assert upgrade.kilobytes_per_node() < 2000
    assert idle.kilobytes_per_node() / idle.seconds < 1.0
    assert after.kilobytes_per_node() / after.seconds < 3.0, "links still come up at first"

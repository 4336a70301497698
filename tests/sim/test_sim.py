"""The simulator itself, the seeds that once failed, and some that were never run before.

`WEAVEPY_SIM_SEEDS` says how many fresh ones (200); `WEAVEPY_SIM_FIRST` which is the first of them
(else it follows from the day, so that every run in CI learns something).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sim.plan import Plan, draw_plan
from tests.sim.run import run_plan

HERE = Path(__file__).parent
FRESH = int(os.environ.get("WEAVEPY_SIM_SEEDS", "200"))
FIRST = int(os.environ.get("WEAVEPY_SIM_FIRST", str(int(time.time() // 86400) * 10_000)))
AT_A_TIME = 20


def kept_seeds() -> list[Plan]:
    lines = (HERE / "seeds.txt").read_text().splitlines()
    fields = [line.split()[:4] for line in lines if line and not line.startswith("#")]
    return [
        draw_plan(int(seed), rare=rare.strip("-"), size=size.strip("-"), overlay=overlay)
        for seed, rare, size, overlay in fields
    ]


def run_or_fail(plan: Plan) -> None:
    failure = run_plan(plan).failure
    assert not failure, f"seed {plan.seed}: {failure}\nreplay: {plan.replay}"


@pytest.mark.parametrize("plan", kept_seeds(), ids=lambda plan: str(plan.seed))
def test_a_seed_that_failed_once_passes(plan: Plan) -> None:
    run_or_fail(plan)


@pytest.mark.parametrize("first", range(FIRST, FIRST + FRESH, AT_A_TIME))
def test_fresh_seeds_pass(first: int) -> None:
    print(f"fresh seeds from {first} on")
    for seed in range(first, min(first + AT_A_TIME, FIRST + FRESH)):
        run_or_fail(draw_plan(seed))


def trace_under(hash_seed: str, seed: int) -> bytes:
    command = [sys.executable, "-m", "tests.sim", "--seed", str(seed), "--trace", "--no-shrink"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        command, env=environment, cwd=HERE.parent.parent, capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("seed", [7, 50, 100])
def test_one_seed_gives_the_same_trace_to_the_byte_under_any_hash_seed(seed: int) -> None:
    first = trace_under("1", seed)
    assert len(first) > 10_000
    assert first == trace_under("2", seed)


def test_nothing_in_a_run_reads_a_clock_or_the_random_numbers_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a simulated host has no such thing")

    for name in ("time", "monotonic", "time_ns", "monotonic_ns"):
        monkeypatch.setattr(time, name, forbidden)
    monkeypatch.setattr(os, "urandom", forbidden)
    try:
        result = run_plan(draw_plan(3))
    finally:
        monkeypatch.undo()
    assert not result.failure

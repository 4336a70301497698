"""A small churn for each run of the suite; the long one is `python -m tests.cni.churn`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cni.churn import Churn
from tests.cni.runtime import Runtime
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def runtime(lab_of_two: Lab, tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(lab_of_two, "h1", tmp_path)
    try:
        yield made
    finally:
        made.remove()


def test_after_100_random_verbs_and_some_kills_nothing_is_left(runtime: Runtime) -> None:
    churn = Churn(runtime, seed=5, kills=4)
    churn.run(100)
    assert churn.done["kill"] >= 1

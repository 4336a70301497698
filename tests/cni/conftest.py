"""Labs for the tests of the plugin: nothing of them may be left, pass or fail."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cni.node import Node, missing
from tests.e2e.conftest import assert_nothing_left, make_lab  # noqa: F401  # a fixture
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted


@pytest.fixture(scope="module")
def lab_of_two() -> Iterator[Lab]:
    """For tests that leave it as it was."""
    lab = Lab(f"c{os.getpid() % 100_000}m")
    try:
        lab.up(Wanted(hosts=2, containers=0), print)
        yield lab
    finally:
        lab.down()
    assert_nothing_left(lab)


@pytest.fixture(scope="module")
def nodes(lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two containerd nodes with a mesh between them."""
    if missing():
        pytest.skip(f"containerd cannot run here: {missing()}")
    made = [Node(lab_of_two, host, Path(tmp_path_factory.mktemp(host))) for host in ("h1", "h2")]
    with ExitStack() as stack:
        for node in made:
            stack.callback(node.stop)
            node.install("1.0.0")
            node.start()
        yield made

"""One cluster for all tests here, with weavepy installed on it, gone when they end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.cluster import Cluster, why_not
from tests.kube.installed import install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents and "bare_cluster" in _wants(item)]
    reason = why_not() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.kube)
        item.add_marker(pytest.mark.root)
        item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _wants(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    """Control plane and nodes, without a pod network."""
    cluster = Cluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster) -> Cluster:
    """The same with weavepy on it."""
    install(bare_cluster)
    return bare_cluster

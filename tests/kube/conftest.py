"""One cluster for all tests here, with weavepy installed on it, gone when they end; and whole
routers with a stand-in for the API server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.cluster import Cluster, why_not
from tests.kube.installed import install
from tests.kube.manifest import ROOT
from tests.kube.places import wait_for
from tests.kube.routers import Host, Routers, Server

NO_PACKAGES = 75
"""The exit code of script/image-build where Debian's packages cannot be had."""


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
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of this checkout, as an archive. Takes a second, and half a minute once.

    `WEAVEPY_IMAGE` is an archive of `docker save` to test instead.
    """
    if given := os.environ.get("WEAVEPY_IMAGE"):
        return Path(given)
    archive = tmp_path_factory.mktemp("image") / "weavepy.tar"
    done = subprocess.run(
        [ROOT / "script/image-build", archive], capture_output=True, text=True, check=False
    )
    if done.returncode == NO_PACKAGES:
        pytest.skip(f"no image: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return archive


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster, image: Path) -> Cluster:
    """The same with weavepy on it."""
    install(bare_cluster, image)
    return bare_cluster


@pytest.fixture
def routers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Routers]:
    made = Routers(tmp_path, 3, getattr(request, "param", 4))
    yield made
    made.close()


@pytest.fixture
def server(routers: Routers) -> Iterator[Server]:
    server = Server(routers)
    yield server
    server.close()


@pytest.fixture
def hosts(routers: Routers, server: Server) -> list[Host]:
    """Three routers that have met, with a ring."""
    hosts = routers.add_hosts(server.api.url)
    for host in hosts:
        server.do(server.api.put_node(host.name, f"u-{host.name}", host.address))
        host.start()
    for host in hosts:
        wait_for(f"{host.name} has peers and a ring", host.is_settled, 60)
    return hosts

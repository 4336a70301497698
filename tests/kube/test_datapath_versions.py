"""A router meets a datapath of another version than its own, as in the middle of an upgrade."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import TypeVar

import pytest

from router.shell import namespaces
from tests.e2e.traffic import Stream
from tests.kube.places import wait_for
from tests.kube.routers import WEAVEPY, Host, Routers, Server
from tests.namespaces import can_make_namespaces
from weavepy.base.errors import WeavepyError

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not can_make_namespaces(), reason="needs root: network namespaces"
    ),
]

RATE = 50.0

Result = TypeVar("Result")

OF_BEFORE = (
    "-c",
    "from router.sleeve import hello; hello.PROTOCOL = 0; from weavepy.cli import main; main()",
)
"""This weavepy, as one that speaks another protocol."""

WHAT_TO_DO = (
    "speaks protocol 0, this router speaks 1: delete this node's pod of weavepy-datapath to replace"
)


@pytest.fixture
def hosts(routers: Routers, server: Server) -> Iterator[list[Host]]:
    """The first has router and datapath of before, apart from each other."""
    hosts = routers.add_hosts(server.api.url)[:2]
    for host in hosts:
        server.do(server.api.put_node(host.name, f"u-{host.name}", host.address))
    datapath = hosts[0].spawn(*OF_BEFORE, "datapath")
    hosts[0].start("--separate-datapath", program=OF_BEFORE)
    hosts[1].start()
    for host in hosts:
        wait_for(f"{host.name} has peers and a ring", lambda host=host: host.is_settled(2), 60)
    yield hosts
    datapath.kill()
    datapath.wait(timeout=10)


class Nodes:
    """The network namespaces of nodes, and their addresses as gateways of pods, for `Stream`."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = {host.name: host for host in hosts}

    def inside(self, name: str, work: Callable[[], Result]) -> Result:
        with namespaces.opened(self._hosts[name].namespace) as descriptor:
            return namespaces.run_inside(descriptor, work)

    def address(self, name: str) -> str:
        return self._hosts[name].api.report().exposed[0].partition("/")[0]


def test_it_says_so_and_waits_until_that_one_is_replaced_and_frames_go_on(
    hosts: list[Host],
) -> None:
    first = hosts[0]
    nodes = Nodes(hosts)
    for host in hosts:
        wait_for(f"{host.name} is a gateway", lambda host=host: nodes.address(host.name), 30)
    wait_for("frames flow", lambda: flows(nodes), 30)
    with Stream(nodes, "n2", "n1", RATE) as seen:
        first.stop()
        first.start("--separate-datapath")
        wait_for("the API says what to do", lambda: WHAT_TO_DO in refusal(first), 20)
        assert get(nodes, "/healthz") == (200, "ok\n")
        status, why = get(nodes, "/readyz")
        assert status == 503
        assert WHAT_TO_DO in why
        assert "weavepy_datapath_running 0" in get(nodes, "/metrics")[1]
        first.stop()  # at once, also while it waits
        first.start("--separate-datapath")
        wait_for("the next one says so, too", lambda: WHAT_TO_DO in refusal(first), 20)
    assert seen.sent > RATE
    assert seen.lost == []
    log = (first.folder / "log").read_text()
    assert log.count(WHAT_TO_DO) == 3, "twice as it began to wait, once as it was stopped"

    os.kill(int(first.where.datapath_pid_file.read_text()), signal.SIGTERM)
    datapath = first.spawn(*WEAVEPY, "datapath")
    try:
        wait_for("the router goes on", lambda: first.is_settled(2), 30)
        assert get(nodes, "/readyz")[0] == 200
        wait_for("frames flow", lambda: flows(nodes), 30)
        datapath.terminate()
        datapath.wait(timeout=10)
    finally:
        datapath.kill()
        datapath.wait(timeout=10)
    datapath = first.spawn(*OF_BEFORE, "datapath")
    try:
        wait_for("a running router says it as well", lambda: WHAT_TO_DO in warnings(first), 20)
    finally:
        datapath.kill()
        datapath.wait(timeout=10)


def flows(nodes: Nodes) -> bool:
    with Stream(nodes, "n2", "n1", RATE) as seen:
        pass
    return seen.sent > len(seen.lost)


def warnings(host: Host) -> str:
    return " ".join(host.status().router.warnings)


def refusal(host: Host) -> str:
    try:
        host.api.status()
    except WeavepyError as error:
        return str(error)
    return ""


def get(nodes: Nodes, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", 6782, timeout=5)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return nodes.inside("n1", ask)

"""What gets through to an isolated pod while others have their hands in the packet filter.

`python -m tests.policy.shell.test_under_fire` tells how many packets per flush where the kernel
does not let a table be owned, and the filter only hears of the flush.
"""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.policy.nodes import Node, OldKernel
from tests.policy.objects import OPEN, labels, pod, policy
from tests.policy.shell.conftest import Cluster
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root

A, B = "10.1.0.1", "10.1.0.2"
PODS = [pod("a", A, node="one", app="client"), pod("b", B, node="one", app="web")]
CLOSED = policy("closed", labels(app="web"))
PORT = 9000
GAP_S = 0.0001
ROUNDS = 5


class Fire:
    """One pod shoots at another."""

    def __init__(self, gun: socket.socket, mark: socket.socket) -> None:
        self.sent = 0
        self._gun, self._mark = gun, mark
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(GAP_S):
            self._gun.sendto(b"x", (B, PORT))
            self.sent += 1

    def await_more(self, count: int) -> None:
        wanted = self.sent + count
        deadline = time.monotonic() + 20
        while self.sent < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def hits(self) -> int:
        count = 0
        while select.select([self._mark], [], [], 0)[0]:
            self._mark.recv(10)
            count += 1
        return count


@contextmanager
def fire(source: str, target: str) -> Iterator[Fire]:
    gun, mark = (
        in_namespace(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for name in (source, target)
    )
    with gun, mark:
        mark.bind(("0.0.0.0", PORT))
        made = Fire(gun, mark)
        thread = threading.Thread(target=made.run)
        thread.start()
        try:
            yield made
        finally:
            made.stopping.set()
            thread.join()


def restarted(node: Node) -> None:
    """A router that died and one that comes after it, which knows the same."""
    node.restart()
    for document in (*PODS, CLOSED):
        node.tell(document)
    assert not node.restore()


@pytest.mark.checklist(30)
def test_nothing_gets_through_while_others_flush_and_routers_come_and_go(
    owned_cluster: Cluster,
) -> None:
    cluster = owned_cluster
    a, b = cluster.place(*PODS)
    node = cluster.nodes["one"]
    cluster.tell(policy("closed", labels(app="web"), ingress=OPEN))
    with fire(a, b) as shots:
        shots.await_more(50)
        assert shots.hits() > 0
        cluster.tell(CLOSED)
        shots.hits()
        for _ in range(ROUNDS):
            node.run("nft", "flush", "ruleset")
            shots.await_more(50)
            node.run("conntrack", "-F")
            shots.await_more(50)
            restarted(node)
            shots.await_more(50)
        assert shots.hits() == 0
        assert node.drops()["ingress", B] > ROUNDS * 100


def main() -> None:
    cluster = Cluster(OldKernel)
    try:
        a, b = cluster.place(*PODS)
        node = cluster.nodes["one"]
        cluster.tell(CLOSED)
        watch = in_namespace(node.namespace, node.filter.watch)
        with fire(a, b) as shots:
            shots.await_more(1000)
            for _ in range(20):
                before, began = shots.sent, time.monotonic()
                assert shots.hits() == 0
                flushed = threading.Thread(target=node.run, args=("nft", "flush", "ruleset"))
                flushed.start()
                while not watch.read():
                    select.select([watch], [], [], 5)
                heard = time.monotonic()
                node.restore()
                took = time.monotonic() - heard
                flushed.join()
                rate = (shots.sent - before) / (time.monotonic() - began)
                print(f"{rate:.0f}/s: {shots.hits()} through, repaired in {took * 1000:.1f} ms")
        watch.close()
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()

"""The router of an isolated container is killed, again and again, while policies change.

WEAVEPY_POLICY_KILLS=20     so many times, instead of two
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from random import Random
from typing import Any

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream
from tests.e2e.waiting import wait_for
from tests.policy.objects import labels, pod, policy
from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.lab.lab import Lab

KILLS = int(os.environ.get("WEAVEPY_POLICY_KILLS", "2"))
LABELS = {"h1c1": "web", "h1c2": "client", "h1c3": "stranger", "h2c1": "client", "h2c2": "stranger"}
PORT = 9000
SOURCES = 16
"""Flows of a prober, of which each packet is the first of its connection for all we know."""
GAP_S = 0.004
AWAY_S = 0.5
FROM_CLIENTS = [{"from": [{"podSelector": labels(app="client")}]}]


class Prober:
    """Datagrams to the web server from who may not, counted."""

    def __init__(self, lab: Lab, source: str) -> None:
        self.sent = 0
        self._to = lab.address("h1c1"), PORT
        self._guns = [lab.inside(source, _datagrams) for _ in range(SOURCES)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._fire)
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> float:
        """How many it sent per second."""
        self._stopping.set()
        self._thread.join()
        for gun in self._guns:
            gun.close()
        return self.sent / (time.monotonic() - self._began)

    def _fire(self) -> None:
        while not self._stopping.wait(GAP_S):
            for gun in self._guns:
                with suppress(OSError):
                    gun.sendto(b"x", self._to)
                    self.sent += 1


@pytest.mark.checklist(30)
def test_no_window_opens_and_no_connection_breaks_while_a_router_is_killed(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=3)
    for container, app in LABELS.items():
        line = ["weavepy", "attach", "--name", container, "--label", f"app={app}"]
        said = lab.exec(container[:2], [*line, lab.namespace(container)])
        assert said.returncode == 0, said.stderr
    wait_for(lambda: len(lab.api("h1").policy().pods), lambda number: number >= 5, 10)
    target = lab.inside("h1c1", _datagrams)
    target.bind(("0.0.0.0", PORT))
    target.setblocking(False)
    probers = [Prober(lab, name) for name in ("h1c3", "h2c2")]
    rng, rates = Random(1), []
    try:
        wait_for(lambda: _senders(target), lambda seen: len(seen) == 2, 20)
        _apply(lab, policy("default/web", labels(app="web"), ingress=FROM_CLIENTS))
        _senders(target)
        with Stream(lab, "h1c2", "h1c1") as near, Stream(lab, "h2c1", "h1c1") as far:
            for _ in range(KILLS):
                with changing(lab):
                    time.sleep(rng.uniform(0.2, 1.0))
                    lab.router("h1", "kill")
                    time.sleep(AWAY_S)
                    lab.router("h1", "start")
                assert _senders(target) == set()
    finally:
        rates = [prober.stop() for prober in probers]
    assert _senders(target) == set()
    target.close()
    assert min(rates) > 1000
    for stream in (near, far):
        assert stream.sent > 200 * KILLS
        assert stream.lost == []
    status = lab.api("h1").policy()
    assert status.repairs == 0
    drops = sum(pod.drops for pod in status.pods if pod.name == "h1c1")
    print(f"{KILLS} kills: {[prober.sent for prober in probers]} probes, {drops} dropped;", end=" ")
    print(f"{near.sent} and {far.sent} datagrams that may, none lost")


@contextmanager
def changing(lab: Lab) -> Iterator[None]:
    """Policies that allow and forbid what nobody does, and pods that nobody is, come and go."""
    stopping, made = threading.Event(), 0

    def change() -> None:
        nonlocal made
        for number in count():
            if stopping.wait(0.005):
                return
            name = f"default/more-{number % 3}"
            rules = [{"from": [{"podSelector": labels(turn=str(number))}]}, *FROM_CLIENTS]
            objects = [
                policy(name, labels(app="web"), ingress=rules),
                pod(f"default/nobody-{number % 5}", "10.250.0.9", turn=f"{number % 7}"),
            ]
            with suppress(WeavepyError):
                _apply(lab, *objects)
                made += 1
                if number % 3 == 0:
                    lab.api("h1").policy_delete(schema.PolicyObjects(objects=objects))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert made


def _apply(lab: Lab, *objects: dict[str, Any]) -> None:
    lab.api("h1").policy_apply(schema.PolicyObjects(objects=[*objects]))


def _datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _senders(target: socket.socket) -> set[str]:
    """From whom something came since this was asked."""
    found = set()
    while True:
        try:
            found.add(target.recvfrom(10)[1][0])
        except BlockingIOError:
            return found

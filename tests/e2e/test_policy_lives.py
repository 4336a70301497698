"""Policies beside what happens to containers and routers: starts, ends, and people with nft.

WEAVEPY_POD_STARTS=1000     so many containers are started under fire, instead of a few
"""

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.test_policies import DENY_ALL, NGINX_PORT, shop
from tests.e2e.waiting import wait_for
from weavepy.lab.lab import Lab

STARTS = int(os.environ.get("WEAVEPY_POD_STARTS", "8"))
ADDRESS = "10.47.1.1"
PORT = 9000
GAP_S = 0.0005
REPAIRED_S = 10.0


@pytest.mark.checklist(30)
def test_policies_outlive_the_router_and_are_adopted_and_repaired(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(hosts=2, containers=2)
    with shop(lab, tmp_path) as demo:
        demo.apply(DENY_ALL, NGINX_PORT)
        expected = {key for key in demo.everything() if key[1] == "h2c2"}
        expected |= {("h2c2", "h1c1", 80)}
        demo.check(expected)
        for host in ("h1", "h2"):
            before = handles(lab, host)
            lab.router(host, "kill")
            lab.router(host, "start")
            wait_for(lambda host=host: len(lab.api(host).policy().pods), lambda n: n == 4, 20)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            assert handles(lab, host) == before
            assert lab.api(host).policy().repairs == 0
        demo.check(expected)
        before = handles(lab, "h1")
        lab.exec("h1", ["nft", "flush", "ruleset"])
        assert handles(lab, "h1") == before
        hide_frames = ["ip", "link", "set", "weave", "type", "bridge", "nf_call_iptables", "0"]
        assert lab.exec("h1", hide_frames).returncode == 0
        wait_for(lambda: lab.api("h1").policy().repairs, lambda count: count == 1, REPAIRED_S)
        demo.check(expected)
        assert_large_packets_pass(lab, "h1c2", "h2c2")


def handles(lab: Lab, host: str) -> list[str]:
    """What tells a table from one that was made again."""
    listed = lab.exec(host, ["nft", "-a", "list", "table", "inet", "weavepy_policy"]).stdout
    uncounted = re.sub(r"counter packets \d+ bytes \d+", "counter", listed)
    found = [line.strip() for line in uncounted.splitlines() if "handle" in line]
    assert len(found) > 50
    return found


@pytest.mark.checklist(25)
def test_nothing_reaches_a_container_before_its_policies_do(make_lab: MakeLab) -> None:
    """Its address is under fire from the other host all the time, as drops show."""
    lab = make_lab(hosts=2, containers=1)
    lab.detach("h1c1")
    target = lab.inside("h1c1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with target, firing(lab, "h2c1"):
        target.bind(("0.0.0.0", PORT))
        target.setblocking(False)
        attach(lab)
        wait_for(lambda: drained(target), lambda count: count > 0, 20)
        lab.detach("h1c1")
        drained(target)
        file = lab.store.path / "deny.yaml"
        file.write_text(DENY_ALL.replace("namespace: shop", "namespace: default"))
        said = lab.exec("h1", ["weavepy", "policy", "apply", "-f", str(file)])
        assert said.returncode == 0, said.stderr
        for _ in range(STARTS):
            attach(lab)
            wait_for(lambda: drops(lab), lambda count: count > 0, 20)
            lab.detach("h1c1")
            assert drained(target) == 0


def attach(lab: Lab) -> None:
    line = ["weavepy", "attach", "--ip", f"{ADDRESS}/12", lab.namespace("h1c1")]
    said = lab.exec("h1", line)
    assert said.returncode == 0, said.stderr


def drops(lab: Lab) -> int:
    pods = lab.api("h1").policy().pods
    return sum(pod.drops for pod in pods if ADDRESS in pod.addresses)


@contextmanager
def firing(lab: Lab, source: str) -> Iterator[None]:
    stopping = threading.Event()
    gun = lab.inside(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def fire() -> None:
        while not stopping.wait(GAP_S):
            try:
                gun.sendto(b"x", (ADDRESS, PORT))
            except OSError:
                continue

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        with gun:
            yield
            stopping.set()
            thread.join()
    finally:
        stopping.set()


def drained(target: socket.socket) -> int:
    count = 0
    while True:
        try:
            target.recv(10)
        except BlockingIOError:
            return count
        count += 1


def assert_large_packets_pass(lab: Lab, source: str, destination: str) -> None:
    """Fragments are put together to be judged, and go on; so do the 64 KiB of one read."""
    giver = lab.inside(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    taker = lab.inside(destination, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with giver, taker:
        taker.bind(("0.0.0.0", PORT))
        taker.settimeout(5)
        for size in (1000, 5000, 30_000):
            giver.sendto(bytes(size), (lab.address(destination), PORT))
            assert len(taker.recv(65_536)) == size
    assert transferred(lab, source, destination, 20_000_000)


def transferred(lab: Lab, source: str, destination: str, count: int) -> bool:
    server = lab.inside(destination, lambda: socket.create_server(("0.0.0.0", 0)))
    client = lab.inside(source, lambda: socket.socket())
    with server, client:
        client.settimeout(20)
        client.connect((lab.address(destination), server.getsockname()[1]))
        taken, _ = server.accept()
        sending = threading.Thread(target=lambda: client.sendall(bytes(count)))
        sending.start()
        with taken:
            taken.settimeout(20)
            left = count
            while left:
                part = taken.recv(1 << 20)
                if not part:
                    break
                left -= len(part)
        sending.join()
    return left == 0

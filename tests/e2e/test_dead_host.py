"""A host that owns most of the range dies for good, and two operators take its ranges over.

They do it at the same time, on two hosts. There must be one ring afterwards, from which all of
the dead host's space can be had at once; and when it returns nevertheless, with its disk and its
containers as they were, it finds itself empty, is told so, and nothing of it is given out twice.
"""

import json
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.outside import Inspector
from tests.e2e.waiting import route, wait_for
from weavepy.client import schema
from weavepy.client.http import ApiError
from weavepy.lab import routers
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.system import send_signal, wait_gone

RANGE = "10.32.0.0/24"
SIZE = 256
DEAD = "h1"
ALIVE = ("h2", "h3", "h4")
TAKEN_WITHIN_S = 5.0


def grow(lab: Lab, host: str, share: float) -> None:
    """Let a host use so much of the range that the others give it theirs, then give it up."""
    api = lab.api(host)
    owner = f"hungry {host}"
    subnet = {"timeout_s": 5.0}
    number = 0
    while owned(lab, host) < share * SIZE:
        api.allocate(schema.AllocateRequest(owner=f"{owner} {number}", **subnet))
        number += 1
    for used in range(number):
        api.release(schema.ReleaseRequest(owner=f"{owner} {used}"))


def owned(lab: Lab, host: str, on: str | None = None) -> int:
    """How many addresses `host` owns, as the ring looks on it or on another host."""
    return sum(
        owner.addresses for owner in lab.api(on or host).ipam().owners if owner.nickname == host
    )


def power_off(lab: Lab, host: str) -> None:
    """Router and datapath are gone without a word, and so are the cables."""
    for find in (routers.router_pid, routers.datapath_pid):
        pid = find(lab.store, lab.plan, lab.plan.host(host))
        if pid is not None:
            send_signal(pid, 9)  # type: ignore[arg-type]  # SIGKILL
            assert wait_gone(pid, 10)
    cables(lab, host, down=True)


def cables(lab: Lab, host: str, down: bool) -> None:
    for other in ALIVE:
        lab.link(host, other, LinkChange(down=down))


def rmpeer(lab: Lab, host: str, *options: str) -> subprocess.CompletedProcess[str]:
    return lab.exec(host, ["weavepy", "rmpeer", DEAD, *options])


def view(lab: Lab, host: str) -> str:
    answer = lab.api(host).ipam()
    owners = sorted([owner.peer, owner.addresses, owner.ranges] for owner in answer.owners)
    return json.dumps([answer.ring_id, answer.entries, answer.frozen, owners])


def use_up(lab: Lab, hosts: tuple[str, ...]) -> list[str]:
    given: list[str] = []
    for host in hosts:
        for number in range(SIZE):
            request = schema.AllocateRequest(owner=f"{host} {number}", timeout_s=4.0)
            try:
                given.append(lab.api(host).allocate(request).address.split("/")[0])
            except ApiError as error:
                print(f"{host}: no more after {number}: {error}")
                assert error.code != "internal"
                break
    return given


@pytest.mark.timeout(300)
def test_two_operators_take_over_a_dead_host_at_once_and_it_comes_back_empty(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=4, containers=2, launch_options=["--ipalloc-range", RANGE])
    grow(lab, DEAD, 0.7)
    share = owned(lab, DEAD) / SIZE
    assert share >= 0.7
    ring_id = lab.api("h2").ipam().ring_id
    running = {name: lab.address(name) for name in ("h1c1", "h1c2")}

    power_off(lab, DEAD)
    for host in ALIVE:
        wait_for(partial(route, lab, host, DEAD), lambda seen: seen == "none", 60)

    with Inspector(lab) as inspector:
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            taken = list(pool.map(partial(rmpeer, lab), ("h2", "h3")))
        for done in taken:
            print(done.returncode, done.stdout, done.stderr)
        assert [done.returncode for done in taken] == [0, 0]
        wait_for(
            lambda: [owned(lab, DEAD, on=host) for host in ALIVE],
            lambda left: left == [0, 0, 0],
            TAKEN_WITHIN_S,
        )
        # More than the three had before: it comes out of what was taken over.
        fresh = [
            lab.api("h4")
            .allocate(schema.AllocateRequest(owner=f"fresh {n}", timeout_s=5.0))
            .address
            for n in range(round((1 - share) * SIZE) + 4)
        ]
        took_s = time.monotonic() - began
        print(f"{share:.0%} of the range taken over and {len(fresh)} allocated in {took_s:.1f} s")
        assert took_s < TAKEN_WITHIN_S + len(fresh) * 0.05
        wait_for(lambda: {view(lab, host) for host in ALIVE}, lambda seen: len(seen) == 1, 10)

        cables(lab, DEAD, down=False)
        lab.router(DEAD, "start")
        for host in ALIVE:
            wait_for(partial(route, lab, host, DEAD), lambda seen: seen != "none", 60)
        told = wait_for(
            lambda: lab.api(DEAD).ipam().warnings,
            lambda seen: any("has come back empty" in text for text in seen),
            10,
        )
        print(told)
        assert any("rmpeer" in text for text in told)
        wait_for(
            lambda: {view(lab, host) for host in (DEAD, *ALIVE)}, lambda seen: len(seen) == 1, 45
        )
        given = [address.split("/")[0] for address in fresh]
        given += use_up(lab, (DEAD, *ALIVE))
        inspector.look()

    assert inspector.duplicates == []
    counts = Counter([*given, *(lab.address(node.name) for node in lab.plan.container_nodes)])
    twice = {address for address, count in counts.items() if count > 1}
    assert twice.isdisjoint(running.values()), "a running container's address was given out again"
    assert twice == set()
    assert lab.address("h1c1") == running["h1c1"]
    for host in (DEAD, *ALIVE):
        status = lab.api(host).ipam()
        assert (status.ring_id, status.frozen) == (ring_id, [])
        assert sum(owner.addresses for owner in status.owners) == SIZE


def test_a_host_that_is_alive_is_not_taken_over(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=["--ipalloc-range", RANGE])
    done = rmpeer(lab, "h2")
    assert done.returncode == 1
    assert "weavepy reset" in done.stderr or "alive" in done.stderr or "reach" in done.stderr
    assert owned(lab, DEAD, on="h2") > 0

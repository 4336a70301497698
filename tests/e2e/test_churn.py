"""Containers come and go in a small range while routers die and links break.

What counts is looked at from outside: at no moment may two containers that live have one address.
At the end everything is healed, and all hosts must agree with each other and with the kernel.

    WEAVEPY_CHURN_OPERATIONS=1000     five minutes of it; the default is half a minute
    WEAVEPY_CHURN_SEED=7              who does what (the timing is the machine's all the same)
"""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.outside import Inspector, addresses_in, ask_arp
from tests.e2e.waiting import wait_for, wait_for_all_pings
from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.client.http import ApiError
from weavepy.lab import readiness, routers
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.system import LabError, list_namespaces, run

OPERATIONS = int(os.environ.get("WEAVEPY_CHURN_OPERATIONS", "120"))
SEED = int(os.environ.get("WEAVEPY_CHURN_SEED", str(random.SystemRandom().randrange(10_000))))
PACE_S = 0.3
"""Between two operations, over all hosts: a thousand take five minutes."""

HOSTS = 5
PLACES = 5
"""For containers on each host."""

WORKERS = 4
ASK_TIMEOUT_S = 4.0
LEAK_SHARE = 0.15

FULL_FROM_OPERATIONS = 500
LEAKS_GONE_WITHIN_S = 150.0
"""Two sightings, a minute apart, after up to a minute."""


@dataclass
class Place:
    """Where a container may be on a host. Its namespaces have one name after the other."""

    host: str
    namespace: str
    busy: threading.Lock = field(default_factory=threading.Lock)


class Churn:
    """Workers attach and detach; the thread that calls `go` breaks and mends things meanwhile."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.internal: list[str] = []
        self.leaked: list[Place] = []
        self._lab = lab
        self._rng = rng
        self._lock = threading.Lock()
        self._serial = PLACES
        self._places = [
            Place(host.name, f"weavepy-{lab.name}-{host.name}c{number}")
            for host in lab.plan.host_nodes
            for number in range(1, PLACES + 1)
        ]
        self._apis = {host.name: lab.api(host.name, ASK_TIMEOUT_S) for host in lab.plan.host_nodes}
        self._until = 0.0
        self._mend_at: dict[str, tuple[float, Callable[[], None]]] = {}
        """By what is broken: when it is to be mended, and how."""

    def go(self, operations: int) -> None:
        self._until = time.monotonic() + operations * PACE_S
        with ThreadPoolExecutor(WORKERS) as pool:
            work = [pool.submit(self._work, operations // WORKERS) for _ in range(WORKERS)]
            while not all(each.done() for each in work):
                self._break_something()
                time.sleep(0.2)
                self._mend(time.monotonic())
        self._mend(float("inf"))
        for each in work:
            each.result()

    # --- containers ------------------------------------------------------------------------------

    def _work(self, operations: int) -> None:
        for left in range(operations, 0, -1):
            began = time.monotonic()
            with self._lock:
                place = self._rng.choice(self._places)
                choice = self._rng.random()
            with place.busy:
                self._operate(place, choice)
            share_s = max(0.0, self._until - began) / left
            time.sleep(max(0.0, began + share_s - time.monotonic()))

    def _operate(self, place: Place, choice: float) -> None:
        if not addresses_in(place.namespace):
            if place.namespace not in list_namespaces():
                run(["ip", "netns", "add", place.namespace])
            self._ask("attach", partial(self._attach, place))
        elif choice < LEAK_SHARE:
            run(["ip", "netns", "delete", place.namespace])
            self.outcomes["gone without a word"] += 1
            if choice < LEAK_SHARE / 2:
                with self._lock:
                    self.leaked.append(Place(place.host, place.namespace))
                    self._serial += 1
                    place.namespace = f"weavepy-{self._lab.name}-{place.host}c{self._serial}"
        elif choice < 2 * LEAK_SHARE:
            self._ask("attach again", partial(self._attach, place))
        else:
            request = schema.DetachRequest(namespace=place.namespace)
            self._ask("detach", partial(self._apis[place.host].detach, request))

    def _attach(self, place: Place) -> None:
        request = schema.AttachRequest(namespace=place.namespace, timeout_s=ASK_TIMEOUT_S)
        self._apis[place.host].attach(request)

    def _ask(self, what: str, ask: Callable[[], object]) -> None:
        try:
            ask()
            outcome = "done"
        except ApiError as error:
            outcome = error.code
            if error.code == "internal":
                self.internal.append(str(error))
        except WeavepyError as error:
            outcome = type(error).__name__
        with self._lock:
            self.outcomes[f"{what}: {outcome}"] += 1

    # --- faults ----------------------------------------------------------------------------------

    def _break_something(self) -> None:
        kind = self._rng.choice(("kill", "kill", "stop", "pause", "cut", "cut", "cut", ""))
        lasts_s = self._rng.uniform(0.5, 6.0)
        host = f"h{self._rng.randint(1, HOSTS)}"
        other = f"h{self._rng.randint(1, HOSTS)}"
        if kind == "cut" and host != other:
            what = " ".join(sorted((host, other)))
            begin = partial(self._lab.link, host, other, LinkChange(down=True))
            mend = partial(self._lab.link, host, other, LinkChange(down=False))
        elif kind in ("kill", "stop", "pause"):
            what = host
            begin = partial(self._lab.router, host, kind)
            mend = partial(self._lab.router, host, "resume" if kind == "pause" else "start")
        else:
            return
        down = [name for name in self._mend_at if (" " in name) == (" " in what)]
        if what in self._mend_at or len(down) >= (4 if " " in what else 2):
            return
        try:
            begin()
        except WeavepyError as error:
            self.faults[f"{kind} refused: {type(error).__name__}"] += 1
            if not isinstance(error, LabError) and kind != "stop":
                raise
        self.faults[kind] += 1
        self._mend_at[what] = (time.monotonic() + lasts_s, lambda: void(mend()))

    def _mend(self, now: float) -> None:
        for what, (at, mend) in list(self._mend_at.items()):
            if at <= now:
                del self._mend_at[what]
                mend()


def void(_: object) -> None:
    """For callbacks whose answer nobody wants."""


@pytest.mark.timeout(900)
def test_no_address_is_ever_on_two_containers_whatever_befalls_routers_and_links(
    make_lab: MakeLab,
) -> None:
    print(f"WEAVEPY_CHURN_SEED={SEED} WEAVEPY_CHURN_OPERATIONS={OPERATIONS}")
    lab = make_lab(
        hosts=HOSTS, containers=PLACES, launch_options=["--ipalloc-range", "10.32.0.0/26"]
    )
    ring_id = lab.api("h1").ipam().ring_id
    churn = Churn(lab, random.Random(SEED))

    with Inspector(lab) as inspector:
        churn.go(OPERATIONS)
        with timed("mesh complete"):
            wait_for(partial(not_complete, lab), lambda missing: not missing, 90)
        with timed("rings equal"):
            rings = wait_for(partial(views, lab), lambda seen: len(set(seen.values())) == 1, 45)
        with timed("nothing leaked"):
            settle_leaks(lab, churn)
        attached = inspector.look()
        clean = {host: check(lab, host) for host in rings}

    print(f"outcomes: {dict(sorted(churn.outcomes.items()))}")
    print(f"faults: {dict(sorted(churn.faults.items()))}, leaks {len(churn.leaked)}")
    print(
        f"{inspector.looks} looks, {len(inspector.seen)} addresses seen, at most"
        f" {inspector.most_containers} containers at once, {len(attached)} at the end"
    )
    assert inspector.duplicates == []
    assert churn.internal == []
    assert churn.faults.total() >= OPERATIONS // 12
    assert sum(count for key, count in churn.outcomes.items() if "done" in key) > OPERATIONS / 3
    assert clean == {host: [] for host in rings}
    for host in rings:
        status = lab.api(host).ipam()
        assert (status.ring_id, status.state) == (ring_id, "ready")
        assert (status.frozen, status.warnings) == ([], [])
        assert sum(owner.addresses for owner in status.owners) == 64
    assert_one_answer_for_each_address(attached)
    wait_for_all_pings_among(lab)


def test_the_inspector_and_arp_see_an_address_that_two_containers_have(make_lab: MakeLab) -> None:
    """Outside its range weavepy leaves it to the operator what is given to whom."""
    lab = make_lab(hosts=2, containers=2)
    address = "10.200.0.1"
    with Inspector(lab) as inspector:
        lab.attach("h1c1", [f"ip:{address}/24"])
        wait_for(lambda: inspector.seen, lambda seen: address in seen, 10)
        assert len(ask_arp(lab.namespace("h1c2"), [address])[address]) == 1
        assert inspector.duplicates == []
        lab.attach("h2c1", [f"ip:{address}/24"])
        wait_for(lambda: inspector.duplicates, lambda found: found != [], 10)
    assert address in inspector.duplicates[0]
    assert len(ask_arp(lab.namespace("h1c2"), [address])[address]) == 2


def not_complete(lab: Lab) -> list[str]:
    hosts = lab.plan.host_nodes
    return readiness.missing(
        lab.plan, {host.name: routers.status_or_reason(lab.store, host) for host in hosts}
    )


def views(lab: Lab) -> dict[str, str]:
    """How each host sees the ring: who owns what."""
    answers = {host.name: lab.api(host.name).ipam() for host in lab.plan.host_nodes}
    return {host: json.dumps(_view(answer)) for host, answer in answers.items()}


def _view(answer: schema.IpamStatus) -> list[object]:
    owners = sorted([owner.peer, owner.addresses, owner.ranges] for owner in answer.owners)
    return [answer.ring_id, answer.entries, answer.frozen, owners]


def settle_leaks(lab: Lab, churn: Churn) -> None:
    """In a long run the routers must find out themselves; a short one tells them what is gone."""
    if OPERATIONS >= FULL_FROM_OPERATIONS:
        wait_for(
            lambda: {host.name: check(lab, host.name) for host in lab.plan.host_nodes},
            lambda seen: not any(seen.values()),
            LEAKS_GONE_WITHIN_S,
        )
        return
    for host in lab.plan.host_nodes:
        for row in lab.api(host.name).addresses().addresses:
            address = row.address.split("/")[0]
            if row.owner.startswith("/") and address not in addresses_in(Path(row.owner).name):
                lab.api(host.name).detach(schema.DetachRequest(namespace=row.owner))


def check(lab: Lab, host: str) -> list[str]:
    """What `weavepy ipam check` finds."""
    if lab.exec(host, ["weavepy", "ipam", "check", "--help"]).returncode != 0:
        print(f"{host}: there is no `weavepy ipam check` yet, so the API was asked")
        return [finding.text for finding in lab.api(host).check().findings]
    done = lab.exec(host, ["weavepy", "ipam", "check"])
    if done.returncode == 0:
        return []
    return (done.stdout + done.stderr).splitlines() or [f"exit code {done.returncode}"]


def assert_one_answer_for_each_address(attached: dict[str, set[str]]) -> None:
    everything = {f"10.32.0.{number}" for number in range(1, 63)}
    live = {address for addresses in attached.values() for address in addresses}
    assert live <= everything
    for asker in sorted(attached)[:2]:
        answers = ask_arp(asker, sorted(everything))
        once = {address for address, macs in answers.items() if len(macs) == 1}
        several = {address: macs for address, macs in answers.items() if len(macs) > 1}
        assert several == {}
        assert once == live - attached[asker]


def wait_for_all_pings_among(lab: Lab) -> None:
    """Those of the lab's own containers that are attached now."""
    for node in lab.plan.container_nodes:
        name = lab.plan.namespace(node)
        if name not in list_namespaces():
            run(["ip", "netns", "add", name])
        if not addresses_in(name):
            lab.attach(node.name)
    wait_for_all_pings(lab, 20)


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what} after {time.monotonic() - began:.1f} s")

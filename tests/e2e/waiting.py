"""Bounded waiting for what a mesh will come to, with a word on what it was when time ran out."""

import time
from collections.abc import Callable
from typing import TypeVar

from weavepy.client import schema
from weavepy.lab.lab import Lab

Seen = TypeVar("Seen")

POLL_S = 0.1


def wait_for(look: Callable[[], Seen], wanted: Callable[[Seen], bool], timeout_s: float) -> Seen:
    """Look until it is as wanted and return what was seen; fails with the last look."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"still not after {timeout_s:g} s: {seen}"
        time.sleep(POLL_S)


def route(lab: Lab, host: str, to: str) -> str:
    """As `status peers` on `host` tells it; "none" also if it does not know the peer."""
    for peer in lab.api(host).status().peers:
        if peer.nickname == to and peer.reachable:
            return peer.route
    return "none"


def connection(lab: Lab, host: str, to: str) -> schema.ConnectionStatus | None:
    for found in lab.api(host).status().connections:
        if found.nickname == to:
            return found
    return None


def wait_for_route(lab: Lab, host: str, to: str, wanted: str, timeout_s: float) -> None:
    wait_for(lambda: route(lab, host, to), lambda seen: seen == wanted, timeout_s)


def wait_for_all_pings(lab: Lab, timeout_s: float) -> None:
    wait_for(
        lambda: [f"{p.source}>{p.destination}" for p in lab.ping(count=1).pairs if not p.ok],
        lambda silent: not silent,
        timeout_s,
    )


def counted(counters: list[schema.CounterStatus]) -> dict[str, int]:
    return {counter.name: counter.value for counter in counters}

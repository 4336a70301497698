"""What addresses cost in a real mesh of three hosts: needs root; leaves nothing behind."""

import os
import statistics
import time
from dataclasses import dataclass

from tests.benchmarks.ring_cost import Times
from weavepy.client import schema
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted


@dataclass(frozen=True)
class LabCost:
    complete_s: float
    """From the start of the first router process until all see each other."""
    first_address_ms: float
    """From the first request in the fresh mesh, the agreement on a ring included."""
    allocate: Times
    lookup: Times
    """A request of the same kind that writes nothing: what the way there and back costs."""


def measure(count: int = 1000) -> LabCost:
    began: list[float] = []

    def report(line: str) -> None:
        if line.startswith("starting"):
            began.append(time.perf_counter())

    with Lab(f"b{os.getpid() % 100_000}") as lab:
        lab.up(Wanted(hosts=3, containers=0), report)
        complete_s = time.perf_counter() - began[0]
        api = lab.api("h2")
        asked = time.perf_counter()
        api.allocate(schema.AllocateRequest(owner="first"))
        first_s = time.perf_counter() - asked
        allocate: list[float] = []
        lookup: list[float] = []
        for number in range(count):
            asked = time.perf_counter()
            api.allocate(schema.AllocateRequest(owner=f"owner {number}"))
            allocate.append(time.perf_counter() - asked)
            asked = time.perf_counter()
            api.lookup(schema.LookupRequest(owner=f"owner {number}"))
            lookup.append(time.perf_counter() - asked)
        return LabCost(complete_s, first_s * 1e3, Times.of(allocate), Times.of(lookup))


def measure_several(runs: int) -> tuple[LabCost, float, float]:
    """The last run, and the medians of `complete_s` and `first_address_ms` of all."""
    costs = [measure(1000 if run == runs - 1 else 1) for run in range(runs)]
    return (
        costs[-1],
        statistics.median(cost.complete_s for cost in costs),
        statistics.median(cost.first_address_ms for cost in costs),
    )

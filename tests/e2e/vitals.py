"""What the processes of a lab cost while it lives: memory, descriptors, CPU; and what they logged.

A process that is killed takes its leaks with it, so what counts are those that are not: of each
process the samples since its latest start are kept, and judged if they span enough of the run.
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from weavepy.lab import routers
from weavepy.lab.lab import Lab
from weavepy.lab.system import cpu_seconds

JUDGED_SHARE = 0.9
"""A process is judged if it was there for so much of the second half of the run."""

TRACES = ("Traceback (most recent call last)", "never retrieved", "AssertionError")


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    """By `time.monotonic`."""
    resident_kib: int
    descriptors: int
    cpu_s: float


@dataclass(slots=True)
class Life:
    """One process from its start on."""

    role: str
    """"h1 router", "h1 datapath"."""
    pid: int
    samples: list[Sample] = field(default_factory=list)

    def since(self, at: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.at >= at]


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one process over a span of time, along the line that fits its samples best."""

    role: str
    resident_kib: int
    grown_kib: float
    descriptors: int
    descriptors_grown: float

    def __str__(self) -> str:
        return (
            f"{self.role}: {self.resident_kib} KiB {self.grown_kib:+.0f},"
            f" {self.descriptors} descriptors {self.descriptors_grown:+.1f}"
        )


class Vitals:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._plan = lab.plan
        self.lives: list[Life] = []

    def sample(self, now: float) -> None:
        latest = {life.role: life for life in self.lives}
        for role, pid in self._processes():
            life = latest.get(role)
            if life is None or life.pid != pid:
                life = Life(role, pid)
                self.lives.append(life)
            try:
                resident_kib, descriptors = _resident_kib(pid), len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, IndexError):
                continue  # it has just died
            life.samples.append(Sample(now, resident_kib, descriptors, cpu_seconds(pid)))

    def trends(self, begin: float, end: float) -> list[Trend]:
        """Of the processes that lived through nearly all of that time."""
        found = []
        for life in self.lives:
            samples = life.since(begin)
            if len(samples) < 2 or samples[-1].at - samples[0].at < JUDGED_SHARE * (end - begin):
                continue
            times = [sample.at for sample in samples]
            memory = statistics.linear_regression(times, [s.resident_kib for s in samples])
            descriptors = statistics.linear_regression(times, [s.descriptors for s in samples])
            found.append(
                Trend(
                    life.role,
                    samples[-1].resident_kib,
                    memory.slope * (end - begin),
                    samples[-1].descriptors,
                    descriptors.slope * (end - begin),
                )
            )
        return found

    @property
    def most(self) -> tuple[int, int]:
        """KiB and descriptors that any process ever had."""
        samples = [sample for life in self.lives for sample in life.samples]
        return max(s.resident_kib for s in samples), max(s.descriptors for s in samples)

    @property
    def cpu_s(self) -> float:
        return sum(life.samples[-1].cpu_s for life in self.lives if life.samples)

    def rows(self) -> Iterator[str]:
        """As comma-separated values, to be plotted."""
        yield "role,pid,at_s,resident_kib,descriptors,cpu_s"
        for life in self.lives:
            for s in life.samples:
                yield (
                    f"{life.role},{life.pid},{s.at:.1f},{s.resident_kib},{s.descriptors},{s.cpu_s}"
                )

    def _processes(self) -> Iterator[tuple[str, int]]:
        for host in self._plan.host_nodes:
            for kind, find in (("router", routers.router_pid), ("datapath", routers.datapath_pid)):
                pid = find(self._lab.store, self._plan, host)
                if pid is not None:
                    yield f"{host.name} {kind}", pid


def traces_in_logs(lab: Lab) -> list[str]:
    """Lines of any log of the lab that show that a program met what it did not expect."""
    return [
        f"{file.name}: {line.strip()}"
        for file in sorted(lab.store.path.rglob("*.log*"))
        for line in file.read_text(errors="replace").splitlines()
        if any(trace in line for trace in TRACES)
    ]


def log_bytes(lab: Lab) -> int:
    return sum(file.stat().st_size for file in lab.store.path.rglob("*.log*"))


def _resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])

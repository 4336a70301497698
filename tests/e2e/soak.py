"""Mixed traffic, kills and cuts for as long as one likes; then all must be as at the beginning.

    script/soak --minutes 60 [--seed 7] [--samples FILE]

Four hosts, the last behind NAT. TCP flows, numbered datagrams, broadcasts and pings go on all the
time, at a low rate: this looks for what time brings (leaks, logs that grow, states without a way
out), not for speed. Routers and datapaths are killed, links are cut, narrowed and made lossy,
the NAT gateway forgets. Nobody kills h1, nor the datapath of h4, so there are processes that see
all of it and live through it.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from tests.e2e.flow import Flow, Progress
from tests.e2e.traffic import ArpCounter, Arrivals, Stream
from tests.e2e.vitals import Trend, Vitals, log_bytes, traces_in_logs
from tests.e2e.waiting import wait_for, wait_for_all_pings
from weavepy.base.errors import WeavepyError
from weavepy.lab import readiness, routers
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.life import Wanted
from weavepy.lab.system import LabError

HOSTS = 4
BEHIND_NAT = 4
FAULTS = ("kill router", "kill router", "kill datapath", "cut", "cut", "narrow", "NAT")
KILLED_ROUTERS = ("h2", "h3", "h4")
KILLED_DATAPATHS = ("h2", "h3")

STREAM_PER_S = 20.0
FLOW_BYTES_PER_S = 60e3

ASKED_FOR = "10.47.0.1"
"""Nobody has this address."""

SAMPLE_S = 5.0
PING_S = 20.0
FAULT_S = (4.0, 14.0)
"""From one fault to the next."""
LASTS_S = (1.0, 8.0)

HEALED_WITHIN_S = 60.0
QUIET_S = 5.0
"""Once all is healed, so long nothing may be lost."""

GROWN_KIB = 1536
DESCRIPTORS_GROWN = 4.0
"""Allowed for each judged process over the second half of the run: an allocator and a pool of
connections have their ups and downs."""


@dataclass(slots=True)
class Outcome:
    seconds: float
    cpu_s: float
    faults: Counter[str]
    pings: tuple[int, int]
    """Answered and sent while faults went on."""
    datagrams: tuple[int, int]
    """Lost and sent while faults went on."""
    duplicated: int
    broadcasts: tuple[int, int]
    """Received and due, over all containers but the sender's."""
    flow_bytes: int
    flow_failures: list[str]
    lost_in_peace: int
    traces: list[str]
    log_bytes: int
    most_kib: int
    most_descriptors: int
    trends: list[Trend]

    def faults_found(self) -> list[str]:
        """What is not as it should be; empty: all is well."""
        found = [f"in a log: {trace}" for trace in self.traces]
        found += [f"a flow broke: {failure}" for failure in self.flow_failures]
        if self.lost_in_peace:
            found.append(f"{self.lost_in_peace} datagrams lost after all was healed")
        if not self.trends:
            found.append("no process lived through the second half")
        for trend in self.trends:
            if trend.grown_kib > GROWN_KIB or trend.descriptors_grown > DESCRIPTORS_GROWN:
                found.append(f"grows: {trend}")
        return found

    def lines(self) -> Iterator[str]:
        yield f"{self.seconds / 60:.1f} min, {self.cpu_s / self.seconds:.2f} cores in the lab"
        yield f"faults: {dict(sorted(self.faults.items()))}"
        yield (
            f"under faults: pings {self.pings[0]} of {self.pings[1]}, datagrams lost"
            f" {self.datagrams[0]} of {self.datagrams[1]} (twice: {self.duplicated}), broadcasts"
            f" {self.broadcasts[0]} of {self.broadcasts[1]}, {self.flow_bytes} bytes of TCP"
        )
        yield f"logs {self.log_bytes} bytes, {len(self.traces)} tracebacks"
        yield f"most: {self.most_kib} KiB, {self.most_descriptors} descriptors; second half:"
        yield from (f"  {trend}" for trend in self.trends)


class Soak:
    def __init__(self, lab: Lab, rng: Random) -> None:
        self._lab = lab
        self._rng = rng
        self._faults: Counter[str] = Counter()
        self._pings = [0, 0]
        self._broadcasts_asked = 0
        self._mend_at: dict[str, tuple[float, Callable[[], object]]] = {}
        """By what is broken: when it is to be mended, and how."""

    def go(self, seconds: float, samples: Path | None = None) -> Outcome:
        lab = self._lab
        vitals = Vitals(lab)
        containers = [node.name for node in lab.plan.container_nodes]
        arp = ArpCounter(lab, containers)
        with contextlib.ExitStack() as stack:
            stack.callback(arp.close)
            streams = [
                stack.enter_context(Stream(lab, source, sink, rate=STREAM_PER_S))
                for source, sink in (("h1c1", "h2c1"), ("h4c1", "h1c1"), ("h3c1", "h4c1"))
            ]
            flows = [
                stack.enter_context(
                    Flow(lab, source, sink, lab.address(sink), bytes_per_s=FLOW_BYTES_PER_S)
                )
                for source, sink in (("h1c1", "h3c1"), ("h2c1", "h4c1"))
            ]
            began = time.monotonic()
            try:
                self._disturb(vitals, arp, began + seconds)
                self._heal()
            finally:
                if samples is not None:
                    samples.write_text("\n".join(vitals.rows()) + "\n")
        ended = time.monotonic()
        vitals.sample(ended)
        most_kib, most_descriptors = vitals.most
        return Outcome(
            seconds=ended - began,
            cpu_s=vitals.cpu_s,
            faults=self._faults,
            pings=(self._pings[0], self._pings[1]),
            datagrams=(sum(len(s.lost) for s in streams), sum(s.sent for s in streams)),
            duplicated=sum(len(s.duplicated) for s in streams),
            broadcasts=(
                sum(arp.received(name, "h1c1", ASKED_FOR) for name in containers[1:]),
                self._broadcasts_asked * (len(containers) - 1),
            ),
            flow_bytes=sum(flow.bytes_received for flow in flows),
            flow_failures=_failures(flows),
            lost_in_peace=sum(len(stream.lost) for stream in self._peace(containers)),
            traces=traces_in_logs(lab),
            log_bytes=log_bytes(lab),
            most_kib=most_kib,
            most_descriptors=most_descriptors,
            trends=vitals.trends(began + seconds / 2, began + seconds),
        )

    def _disturb(self, vitals: Vitals, arp: ArpCounter, until: float) -> None:
        sample_at = ping_at = 0.0
        break_at = time.monotonic() + 5.0
        while (now := time.monotonic()) < until:
            self._mend(now)
            if now >= sample_at:
                vitals.sample(now)
                sample_at = now + SAMPLE_S
            if now >= break_at:
                self._break_something(now)
                break_at = now + self._rng.uniform(*FAULT_S)
            if now >= ping_at:
                with contextlib.suppress(WeavepyError):  # its router may be away
                    pairs = self._lab.ping(count=1).pairs
                    self._pings[0] += sum(pair.ok for pair in pairs)
                    self._pings[1] += len(pairs)
                ping_at = now + PING_S
            arp.ask("h1c1", ASKED_FOR)
            self._broadcasts_asked += 1
            arp.collect(0.5)
            time.sleep(0.3)

    def _break_something(self, now: float) -> None:
        lab, rng = self._lab, self._rng
        kind = rng.choice(FAULTS)
        until = now + rng.uniform(*LASTS_S)
        if kind == "kill router":
            host = rng.choice(KILLED_ROUTERS)
            if host not in self._mend_at:
                lab.router(host, "kill")
                self._mend_at[host] = (until, partial(lab.router, host, "start"))
        elif kind == "kill datapath":
            host = rng.choice(KILLED_DATAPATHS)
            pid = routers.datapath_pid(lab.store, lab.plan, lab.plan.host(host))
            if pid is None:
                return
            os.kill(pid, signal.SIGKILL)
        elif kind == "NAT":
            lab.rebind(f"h{BEHIND_NAT}")
        else:
            one, other = sorted(rng.sample([node.name for node in lab.plan.host_nodes], 2))
            change, back = LinkChange(down=True), LinkChange(down=False)
            if kind == "narrow":
                change = LinkChange(loss=0.05, mtu_bytes=1400)
                back = LinkChange(loss=0, mtu_bytes=0)
            if f"{one} {other}" not in self._mend_at:
                lab.link(one, other, change)
                self._mend_at[f"{one} {other}"] = (until, partial(lab.link, one, other, back))
        self._faults[kind] += 1

    def _mend(self, now: float) -> None:
        for what, (at, mend) in list(self._mend_at.items()):
            if at > now:
                continue
            del self._mend_at[what]
            try:
                mend()
            except LabError as error:
                # On a busy machine a router may take longer than the lab waits.
                self._faults[f"slow: {error}"] += 1

    def _heal(self) -> None:
        self._mend(float("inf"))
        lab = self._lab
        wait_for(
            lambda: readiness.missing(
                lab.plan,
                {
                    host.name: routers.status_or_reason(lab.store, host)
                    for host in lab.plan.host_nodes
                },
            ),
            lambda missing: not missing,
            HEALED_WITHIN_S,
        )
        wait_for_all_pings(lab, HEALED_WITHIN_S)

    def _peace(self, containers: list[str]) -> list[Arrivals]:
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(self._lab, source, sink, rate=STREAM_PER_S))
                for source in containers
                for sink in containers
                if source != sink
            ]
            time.sleep(QUIET_S)
        return streams


def _failures(flows: list[Progress]) -> list[str]:
    broken = [flow.failure for flow in flows if flow.failure]
    return broken + ["bytes were changed" for flow in flows if flow.damaged]


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=Path, default=None, help="write all samples to this file")
    options = parser.parse_args()
    with Lab(f"s{os.getpid() % 10_000_000}") as lab:
        lab.up(Wanted(hosts=HOSTS, containers=1, nat=[BEHIND_NAT]), print)
        outcome = Soak(lab, Random(options.seed)).go(60 * options.minutes, options.samples)
    print("\n".join(outcome.lines()))
    found = outcome.faults_found()
    print("\n".join(found) if found else "all is well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""One that floods gets its share and no more; memory stays as it is."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.floods import BROADCAST, GARBAGE, SUBNET_BROADCAST, UNKNOWN, Flood
from tests.e2e.flow import Flow
from tests.e2e.traffic import Stream
from tests.e2e.waiting import counted, wait_for
from weavepy.lab.lab import Lab

FLOOD_S = 4.0


def test_a_broadcast_storm_of_one_container_does_not_starve_the_others(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=2)
    assert lab.ping().ok
    quiet = rates(lab)
    with Flood(lab, "h1c1", BROADCAST, SUBNET_BROADCAST, "64"):
        time.sleep(1.5)
        stormy = rates(lab)
        drops = counted(lab.api("h1").status().datapath.drops)
    print(f"Mbit/s and loss: quiet {quiet}, in a storm {stormy}; drops {drops}")
    assert drops["storm"] > 1000
    assert stormy[0] > 0.1 * quiet[0]
    assert stormy[1] < 0.25


@pytest.mark.parametrize(
    ("options", "wanted"),
    [([], 20e6), (["--no-offload"], 3e6)],
    ids=["offload", "portable"],
)
def test_a_flood_of_garbage_costs_no_memory_and_leaves_flows_most_of_their_rate(
    make_lab: MakeLab, options: list[str], wanted: float
) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=options)
    # A flow that does not need the whole machine: what the flood's own process and the kernel
    # take of two cores is nothing that we could save.
    before = resident_kib(lab, "h2")
    unknown = counted(lab.api("h2").status().datapath.drops).get("unknown-index", 0)
    with (
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1"), bytes_per_s=wanted) as progress,
        Flood(lab, "h3", GARBAGE, lab.plan.link("h2", "h3").end_at(2).address),
    ):
        wait_for(lambda: progress.bytes_received, bool, 10)
        start, began = progress.bytes_received, time.monotonic()
        time.sleep(6.0)
        rate = (progress.bytes_received - start) / (time.monotonic() - began)
        drops = counted(lab.api("h2").status().datapath.drops)
        refused = drops["unknown-index"] + drops["unknown-index-filtered"] - unknown
        grown = resident_kib(lab, "h2") - before
    print(f"{rate * 8e-6:.0f} of {wanted * 8e-6:.0f} Mbit/s, {drops}, grown {grown} KiB")
    assert refused > 50_000
    assert rate > 0.4 * wanted, "without the filter it was 0.15"
    assert grown < 6 * 1024
    log = lab.store.directories("h2").run / "datapath.log"
    assert not log.exists() or log.stat().st_size < 4096
    assert all(s.up for s in lab.api("h2").status().datapath.sessions)


@pytest.mark.parametrize("options", [[], ["--no-offload"]], ids=["offload", "portable"])
def test_frames_to_nobody_are_limited_and_the_tables_stay_small(
    make_lab: MakeLab, options: list[str]
) -> None:
    lab = make_lab(hosts=2, containers=2, launch_options=options)
    assert lab.ping().ok
    before = resident_kib(lab, "h1"), resident_kib(lab, "h2")
    with Flood(lab, "h1c1", UNKNOWN, lab.address("h1c1")):
        time.sleep(1.0)
        with Stream(lab, "h1c2", "h2c2", rate=200) as arrivals:
            time.sleep(FLOOD_S)
        drops = counted(lab.api("h1").status().datapath.drops)
    grown = resident_kib(lab, "h1") - before[0], resident_kib(lab, "h2") - before[1]
    loss = len(arrivals.lost) / arrivals.sent
    print(f"lost {loss:.3f}, grown {grown} KiB, {drops}")
    assert drops["storm"] > 1000
    assert max(grown) < 6 * 1024
    assert lab.api("h2").status().datapath.macs < 100
    # They fill the flooding container's own queue of the TAP.
    assert loss < 0.1
    assert lab.ping().ok


def test_a_peer_that_stands_still_holds_up_nobody_else(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1)
    pid = lab.api("h3").status().datapath.pid
    before = resident_kib(lab, "h1")
    with (
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1"), bytes_per_s=20e6) as progress,
        Stream(lab, "h1c1", "h3c1", rate=5000, size=1200),
    ):
        wait_for(lambda: progress.bytes_received, bool, 10)
        os.kill(pid, signal.SIGSTOP)
        try:
            start, began = progress.bytes_received, time.monotonic()
            time.sleep(2.5)
            rate = (progress.bytes_received - start) / (time.monotonic() - began)
            gap_s = progress.longest_gap_s(began)
            grown = resident_kib(lab, "h1") - before
        finally:
            os.kill(pid, signal.SIGCONT)
    print(f"{rate * 8e-6:.0f} Mbit/s beside it, stood still for {gap_s:.2f} s, {grown} KiB")
    assert rate > 0.8 * 20e6
    assert gap_s < 0.5
    assert grown < 6 * 1024
    wait_for(lambda: lab.ping(count=1).ok, bool, 20)


def resident_kib(lab: Lab, host: str) -> int:
    """Of the datapath."""
    pid = lab.api(host).status().datapath.pid
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def rates(lab: Lab) -> tuple[float, float]:
    """Of another pair: Mbit/s of a TCP flow that takes what it gets, and what a stream loses."""
    with (
        Flow(lab, "h1c2", "h2c2", lab.address("h2c2"), bytes_per_s=1e12) as progress,
        Stream(lab, "h1c2", "h2c2", rate=200) as arrivals,
    ):
        wait_for(lambda: progress.bytes_received, bool, 10)
        before, began = progress.bytes_received, time.monotonic()
        time.sleep(FLOOD_S)
        mbit = (progress.bytes_received - before) * 8e-6 / (time.monotonic() - began)
    assert progress.failure == ""
    return round(mbit, 1), round(len(arrivals.lost) / arrivals.sent, 4)

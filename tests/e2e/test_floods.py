"""One that floods gets its share and no more; memory stays as it is."""

import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import BOTH_PATHS, PLENTY_BYTES_PER_S, MakeLab, path_name
from tests.e2e.floods import BROADCAST, DATAGRAMS, SUBNET_BROADCAST, UNKNOWN, Flood, garbage
from tests.e2e.flow import Flow, Progress
from tests.e2e.traffic import Stream, record_datagrams
from tests.e2e.waiting import counted, wait_for
from weavepy.lab.lab import Lab

pytestmark = pytest.mark.alone

FLOOD_S = 4.0
FLOOD_PER_S = float(os.environ.get("WEAVEPY_FLOOD_PER_S", "100000"))
KEPT_SHARE = float(os.environ.get("WEAVEPY_FLOOD_KEPT_SHARE", "0.4"))
"""0.8 on a machine that has nothing else to do; tests share theirs with others."""


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


@pytest.mark.parametrize("kind", ["garbage", "replays"])
@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
def test_a_flood_from_a_stranger_costs_no_memory_and_leaves_flows_most_of_their_rate(
    make_lab: MakeLab, tmp_path: Path, options: list[str], kind: str
) -> None:
    lab = make_lab(hosts=3, containers=1, launch_options=options)
    wanted = 3e6 if options else PLENTY_BYTES_PER_S
    # A flow that does not need the whole machine: what the flood's own process and the kernel
    # take of two cores is nothing that we could save.
    with Flow(lab, "h1c1", "h2c1", lab.address("h2c1"), bytes_per_s=wanted) as progress:
        wait_for(lambda: progress.bytes_received, lambda count: count > 1_000_000, 10)
        datagrams = garbage() if kind == "garbage" else recorded_datagrams(lab)
        file = tmp_path / "datagrams"
        file.write_bytes(pickle.dumps(datagrams))
        address = lab.plan.link("h2", "h3").end_at(2).address
        before = resident_kib(lab, "h2")
        alone = measured_rate(progress)
        with Flood(lab, "h3", DATAGRAMS, address, str(file), str(FLOOD_PER_S)):
            time.sleep(1.0)
            refused = refused_datagrams(lab, "h2")
            began = time.monotonic()
            flooded = measured_rate(progress)
            took_s = time.monotonic() - began
            refused = refused_datagrams(lab, "h2") - refused
        grown = resident_kib(lab, "h2") - before
    drops = counted(lab.api("h2").status().datapath.drops)
    print(
        f"{kind}: {flooded * 8e-6:.0f} of {alone * 8e-6:.0f} Mbit/s ({flooded / alone:.2f}),"
        f" {refused / took_s:.0f} refused/s, grown {grown} KiB, {drops}"
    )
    assert refused > 50_000
    assert flooded > KEPT_SHARE * alone, "without the filter: 0.15 of garbage, 0.04 of replays"
    assert grown < 6 * 1024
    log = lab.store.directories("h2").run / "datapath.log"
    assert not log.exists() or log.stat().st_size < 4096
    assert all(s.up for s in lab.api("h2").status().datapath.sessions)
    assert progress.failure == ""


@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
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
        Flow(lab, "h1c1", "h2c1", lab.address("h2c1"), bytes_per_s=PLENTY_BYTES_PER_S) as progress,
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
    assert rate > 0.8 * PLENTY_BYTES_PER_S
    assert gap_s < 0.5
    assert grown < 6 * 1024
    wait_for(lambda: lab.ping(count=1).ok, bool, 20)


def recorded_datagrams(lab: Lab) -> list[bytes]:
    datagrams = record_datagrams(lab, "h1", "h2", 4096, timeout_s=10.0)
    assert len(datagrams) > 2000
    return datagrams


def measured_rate(progress: Progress) -> float:
    start, began = progress.bytes_received, time.monotonic()
    time.sleep(FLOOD_S)
    return (progress.bytes_received - start) / (time.monotonic() - began)


def refused_datagrams(lab: Lab, host: str) -> int:
    """Those that the datapath or its filter refused, or that its sockets had no room for."""
    datapath = lab.api(host).status().datapath
    drops = counted(datapath.drops)
    total = sum(drops.get(name, 0) for name in ("unknown-index", "flood-filtered"))
    total += drops.get("udp-queue-full", 0)
    for session in datapath.sessions:
        total += counted(session.drops).get("replayed", 0)
    return total


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

"""`weavepy capture` and `weavepy bench` between real routers."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import BOTH_PATHS, MakeLab, path_name
from tests.e2e.traffic import transfer
from tests.e2e.waiting import wait_for
from weavepy.base import pcapng
from weavepy.lab.lab import Lab


@pytest.mark.parametrize("options", BOTH_PATHS, ids=path_name)
def test_what_is_captured_is_what_containers_say(
    make_lab: MakeLab, tmp_path: Path, options: list[str]
) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=options)
    file = tmp_path / "frames.pcapng"
    capture = start(lab, "h1", "capture", "--peer", "h2", "--count", "8", "-w", str(file))
    wait_for(file.exists, bool, 5)
    address = lab.address("h2c1")
    lab.exec("h1c1", ["ping", "-c", "6", "-i", "0.2", address])
    _, error = capture.communicate(timeout=10)
    assert "8 frames, 0 more left out" in error
    shown = subprocess.run(["tcpdump", "-n", "-r", str(file)], capture_output=True, text=True)
    assert f"> {address}: ICMP echo request" in shown.stdout, shown.stderr
    assert f"IP {address} > " in shown.stdout

    status = lab.api("h1").status().datapath
    assert status.refused_messages == 0


def test_a_capture_that_is_too_slow_loses_copies_and_no_frames(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(hosts=2, containers=1)
    line, environment = lab.command("h1", ["weavepy", "capture", "-w", "-"])
    capture = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert capture.stdout is not None
    try:
        head = capture.stdout.read(8)  # and then nothing for a while
        assert head[:4] == b"\x0a\x0d\x0d\x0a"
        before = resident_kib(lab, "h1")
        transfer(lab, "h1c1", "h2c1", bytes(100_000_000))
        grown = resident_kib(lab, "h1") - before
        assert grown < 8 * 1024, f"{grown} KiB"
    finally:
        capture.kill()
        capture.communicate(timeout=10)
    count = descriptors(lab, "h1")
    wait_for(lambda: descriptors(lab, "h1"), lambda seen: seen <= count, 5)


def test_a_pipe_to_tcpdump_shows_frames_as_they_come_and_ends_with_ctrl_c(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=1)
    capture = start(lab, "h1", "capture", "-w", "-")
    assert capture.stdout is not None
    reader = pcapng.Reader()
    try:
        list(reader.feed(capture.stdout.buffer.raw.read(4096)))
        lab.exec("h1c1", ["ping", "-c", "1", lab.address("h2c1")])
        deadline = time.monotonic() + 5
        frames = 0
        while frames < 4 and time.monotonic() < deadline:
            blocks = reader.feed(capture.stdout.buffer.raw.read(4096))
            frames += sum(kind == pcapng.PACKET for kind, _ in blocks)
        assert frames >= 4, "ARP and ICMP, question and answer"
        capture.terminate()
        capture.wait(10)
        assert capture.returncode == 0
    finally:
        capture.kill()
        capture.communicate()


def test_the_overlay_is_measured_also_through_a_relay_and_nothing_is_left(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=0, topology="chain", launch_options=["--no-discovery"])
    for peer, route in (("h2", "direct"), ("h3", "relayed via h2")):
        shown = lab.exec("h1", ["weavepy", "bench", peer, "--seconds", "1", "--json"])
        assert shown.returncode == 0, shown.stderr
        answer = json.loads(shown.stdout)
        print(answer)
        assert answer["route"] == route
        assert answer["tcp_gbps"] > 0.01
        assert answer["tcp_reverse_gbps"] > 0.01
        assert answer["small_received_pps"] > 1000
        assert 0 < answer["rtt_ms_p50"] <= answer["rtt_ms_p99"]
        wait_for(
            lambda: [lab.api(host).attachments().attachments for host in ("h1", "h2", "h3")],
            lambda seen: seen == [[], [], []],
            5,
        )
    for peer, text in (("h1", "is this host"), ("h9", "there is no peer")):
        shown = lab.exec("h1", ["weavepy", "bench", peer])
        assert shown.returncode != 0
        assert text in shown.stderr


def start(lab: Lab, host: str, *arguments: str) -> "subprocess.Popen[str]":
    line, environment = lab.command(host, ["weavepy", *arguments])
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def resident_kib(lab: Lab, host: str) -> int:
    """Of the datapath and the router."""
    pids = [lab.api(host).status().datapath.pid, lab.api(host).status().router.pid]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts)


def descriptors(lab: Lab, host: str) -> int:
    return len(list(Path(f"/proc/{lab.api(host).status().datapath.pid}/fd").iterdir()))

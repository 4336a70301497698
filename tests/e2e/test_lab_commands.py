"""`weavepy lab` as an operator uses it, and as a crash leaves it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import assert_nothing_left
from tests.e2e.waiting import wait_for
from weavepy.lab.lab import Lab
from weavepy.lab.system import list_namespaces

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab(f"c{os.getpid() % 100_000}")
    try:
        yield made
    finally:
        made.down()
    assert_nothing_left(made)


def command_line(lab: Lab, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "weavepy",
        "lab",
        arguments[0],
        "--name",
        lab.name,
        *arguments[1:],
    ]


def run(lab: Lab, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command_line(lab, *arguments), capture_output=True, text=True, timeout=110
    )


def test_up_ping_status_bench_and_down(lab: Lab) -> None:
    done = run(lab, "up")
    assert done.returncode == 0, done.stderr
    assert run(lab, "up").returncode == 1, "it is there already"

    done = run(lab, "ping", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], len(answer["pairs"])) == (0, True, 30)
    assert all(pair["rtt_ms"] > 0 for pair in answer["pairs"])
    assert "30 of 30 pairs answer" in run(lab, "ping").stdout

    status = json.loads(run(lab, "status", "--json").stdout)
    assert [host["name"] for host in status["hosts"]] == ["h1", "h2", "h3"]
    assert all(host["router_pid"] and host["datapath_pid"] for host in status["hosts"])
    assert "h2 established" in run(lab, "status").stdout

    done = run(lab, "bench", "--json", "--seconds", "1")
    measured = json.loads(done.stdout)
    for key in ("tcp_1", "tcp_4", "tcp_reverse"):
        assert measured[key].keys() == {"gbps", "underlay_gbps", "ratio"}
        assert 0 < measured[key]["ratio"] < 1
    assert measured["udp_small"].keys() == {"pps", "underlay_pps", "ratio"}
    assert 0 < measured["ping_ms"]["p50"] <= measured["ping_ms"]["p99"]
    assert measured["cpu_s_per_gb"] > 0

    assert run(lab, "exec", "h1c1", "--", "sh", "-c", "exit 3").returncode == 3
    assert run(lab, "down").returncode == 0


@pytest.mark.parametrize("namespaces", [1, 4, 9])
def test_down_clears_up_after_an_up_that_was_killed(lab: Lab, namespaces: int) -> None:
    process = subprocess.Popen(
        command_line(lab, "up"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def made() -> int:
        return sum(name.startswith(f"weavepy-{lab.name}-") for name in list_namespaces())

    try:
        wait_for(made, lambda count: count >= namespaces, 30)
    finally:
        process.kill()
        process.wait()
    assert lab.store.file.exists()
    lab.down()
    assert_nothing_left(lab)


def test_up_that_is_interrupted_clears_up_itself(lab: Lab) -> None:
    process = subprocess.Popen(
        command_line(lab, "up"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if "starting" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert_nothing_left(lab)

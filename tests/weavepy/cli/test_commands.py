"""What each command asks and prints. The router here is a stand-in that keeps what it was asked."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable

import msgspec
import pytest

from tests.weavepy.cli.conftest import Command
from tests.weavepy.cli.stand_in import StandIn
from tests.weavepy.samples import (
    sample_addresses,
    sample_history,
    sample_report,
    sample_status,
)
from weavepy.client import schema


@pytest.mark.parametrize(
    ("line", "path", "asks", "prints"),
    [
        (
            "connect 10.0.0.2 --replace",
            "/v1/connect",
            {"targets": ["10.0.0.2"], "replace": True},
            "10.0.0.2\n10.0.0.9\n",
        ),
        ("forget 10.0.0.9", "/v1/forget", {"targets": ["10.0.0.9"]}, "10.0.0.2\n"),
        (
            "attach web --ip 10.32.0.9/12 --net 10.40.1.0/24 --net default",
            "/v1/attach",
            {
                "namespace": "web",
                "addresses": ["ip:10.32.0.9/12", "net:10.40.1.0/24", "net:default"],
                "interface": "ethwe",
            },
            "10.32.0.9/12\n10.40.1.5/24\n",
        ),
        ("attach --pid 42", "/v1/attach", {"pid": 42, "namespace": ""}, None),
        ("attach --container 3f2a", "/v1/attach", {"container": "3f2a", "addresses": []}, None),
        ("attach ./ns", "/v1/attach", {"namespace": os.path.abspath("ns")}, None),
        ("detach web", "/v1/detach", {"namespace": "web"}, "10.32.0.9/12\n10.40.1.5/24\n"),
        (
            "expose --no-masquerade",
            "/v1/expose",
            {"addresses": [], "masquerade": False},
            "10.32.0.1/12\n",
        ),
        ("hide --ip 10.32.0.1/12", "/v1/hide", {"addresses": ["ip:10.32.0.1/12"]}, None),
        (
            "ipam allocate backup --subnet 10.40.1.0/24 --timeout 3",
            "/v1/ipam/allocate",
            {"owner": "backup", "subnet": "10.40.1.0/24", "timeout_s": 3.0},
            "10.32.0.7/12\n",
        ),
        (
            "ipam claim printer 10.32.0.8",
            "/v1/ipam/claim",
            {"owner": "printer", "address": "10.32.0.8"},
            "10.32.0.8/12\n",
        ),
        (
            "ipam release backup",
            "/v1/ipam/release",
            {"owner": "backup", "address": ""},
            "10.32.0.7\n",
        ),
        (
            "ipam release 10.32.0.7",
            "/v1/ipam/release",
            {"owner": "", "address": "10.32.0.7"},
            "10.32.0.7\n",
        ),
        ("ipam lookup backup", "/v1/ipam/lookup", {"owner": "backup"}, "10.32.0.7/12\n"),
        (
            "ipam lookup 10.32.0.7",
            "/v1/ipam/lookup",
            {"address": "10.32.0.7"},
            "Range of  7a:0c:00:00:00:01(host1)\nUsed by   backup\n",
        ),
        ("stop", "/v1/stop", {"keep_datapath": False}, "stopped\n"),
        ("stop --keep-datapath", "/v1/stop", {"keep_datapath": True}, None),
        ("reset --yes", "/v1/reset", {"timeout_s": 10.0}, "left the mesh\n"),
        ("prime --timeout 2", "/v1/ipam/prime", {"timeout_s": 2.0}, None),
        (
            "rmpeer gone --timeout 3",
            "/v1/ipam/rmpeer",
            {"peer": "gone", "force": False, "timeout_s": 3.0},
            "gone is taken over: its addresses went to this host\n",
        ),
        (
            "ipam rmpeer gone --force",
            "/v1/ipam/rmpeer",
            {"peer": "gone", "force": True, "timeout_s": 10.0},
            None,
        ),
    ],
)
def test_a_command_asks_for_what_was_typed(
    weavepy: Command,
    router: StandIn,
    line: str,
    path: str,
    asks: dict[str, object],
    prints: str | None,
) -> None:
    result = weavepy(*line.split())
    assert (result.stderr, result.returncode) == ("", 0)
    (request,) = [body for _, asked, body in router.requests if asked == path]
    assert request is not None
    assert asks.items() <= request.items()
    if prints is not None:
        assert result.stdout == prints


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("status", sample_status()),
        ("status connections", sample_status().connections),
        ("status peers", sample_status().peers),
        ("status targets", sample_status().targets),
        ("status ipam", sample_status().ipam),
        ("status datapath", sample_status().datapath),
        ("status fastdp", sample_status().fastdp),
        ("report", sample_report()),
        ("ipam status", sample_status().ipam),
        ("ipam ranges", sample_status().ipam.owners),
        ("ipam list", sample_addresses()),
        ("ipam history", sample_history()),
        ("ipam allocate backup", schema.AddressAnswer(owner="backup", address="10.32.0.7/12")),
    ],
)
def test_json_is_what_the_schema_says(
    weavepy: Command, router: StandIn, line: str, expected: object
) -> None:
    result = weavepy(*line.split(), "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout) == msgspec.to_builtins(expected)


@pytest.mark.parametrize(
    "line",
    [
        "status",
        "status peers",
        "report",
        "ps",
        "ipam",
        "ipam ranges",
    ],
)
def test_a_pipe_gets_plain_text(weavepy: Command, router: StandIn, line: str) -> None:
    result = weavepy(*line.split())
    assert result.returncode == 0
    assert "7a:0c:00:00:00:01" in result.stdout or line == "ps"
    assert "\x1b" not in result.stdout
    assert not set("│┃━─") & set(result.stdout)


def test_a_terminal_gets_tables_and_colour(weavepy: Command, router: StandIn) -> None:
    screen = _on_terminal(weavepy, "status", "connections")
    assert "┃" in screen
    assert "\x1b[32mestablished" in screen


def test_no_color_is_honoured(weavepy: Command, router: StandIn) -> None:
    weavepy.extra["NO_COLOR"] = "1"
    assert "\x1b[32m" not in _on_terminal(weavepy, "status", "connections")


def test_watch_in_a_pipe_repeats_until_ctrl_c_and_outlives_the_router(
    weavepy: Command, router: StandIn
) -> None:
    process = subprocess.Popen(
        weavepy.arguments("status", "--watch"),
        env=weavepy.environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until(lambda: len(router.requests) >= 2, process)
        router.fail("/v1/status", 503, "not-ready", "the router is stopping")
        _until(lambda: len(router.requests) >= 4, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (err, process.returncode) == ("", 0)
    assert out.count("--- ") >= 3
    assert "the router is stopping" in out


def test_reset_without_a_terminal_wants_to_be_meant(weavepy: Command, router: StandIn) -> None:
    result = weavepy("reset")
    assert result.returncode == 2
    assert "say --yes if that is meant" in result.stderr
    assert all(path != "/v1/reset" for _, path, _ in router.requests)


def _until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def _on_terminal(weavepy: Command, *arguments: str) -> str:
    """Run the command with a terminal as its output, and return what it wrote there."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        weavepy.arguments(*arguments),
        env=weavepy.environment() | {"TERM": "xterm-256color", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    screen = b""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([master], [], [], 0.5)
            if not ready:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not chunk:
                break
            screen += chunk
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return screen.decode()


def test_the_picture_of_the_ring_has_a_letter_for_each_owner(
    weavepy: Command, router: StandIn
) -> None:
    lines = weavepy("ipam").stdout.splitlines()
    assert "[" + "A" * 32 + "b" * 32 + "]" in lines
    assert any(line.startswith("A  ") and "host1" in line for line in lines)
    assert any(line.startswith("b  ") and "gone" in line for line in lines)


def test_what_is_in_use_is_listed(weavepy: Command, router: StandIn) -> None:
    lines = weavepy("ipam", "list").stdout.splitlines()
    assert lines[1].split()[:4] == ["10.32.0.9/12", "/run/netns/web", "vethwe12", "attachment"]
    assert lines[2].split() == ["10.32.0.10/12", "backup", "-", "manual", "?"]


def test_history_says_what_went_where_and_why(weavepy: Command, router: StandIn) -> None:
    line = weavepy("ipam", "history").stdout.splitlines()[1]
    assert "donated" in line
    assert "host2" in line
    assert line.endswith("it asked for space")


def test_a_check_that_finds_something_fails(weavepy: Command, router: StandIn) -> None:
    assert weavepy("ipam", "check").stdout == (
        "ring, store and interfaces agree (2 addresses in use)\n"
    )
    finding = schema.CheckFinding(what="interface", text="web runs with 10.32.0.9")
    answer = schema.CheckAnswer(findings=[finding], addresses=1)
    router.failures["/v1/ipam/check"] = (200, msgspec.json.encode(answer))
    result = weavepy("ipam", "check")
    assert result.returncode == 1
    assert "web runs with 10.32.0.9" in result.stdout
    assert weavepy("ipam", "check", "--json").returncode == 1

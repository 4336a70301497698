"""`weavepy capture` and `weavepy bench`, against a stand-in."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.weavepy.cli.conftest import Command
from tests.weavepy.cli.stand_in import CAPTURED, StandIn


def test_a_capture_goes_to_a_file_and_is_summed_up(
    weavepy: Command, router: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "frames.pcapng"
    result = weavepy("capture", "--peer", "host2", "--count", "2", "-w", str(file))
    assert result.returncode == 0
    assert file.read_bytes() == CAPTURED
    assert "2 frames, 3 more left out" in result.stderr
    (_, path, body) = router.requests[-1]
    assert path == "/v1/capture"
    assert body == {"peer": "host2", "count": 2, "seconds": 0.0, "snap_bytes": 262_144}


def test_a_capture_that_the_router_refuses_fails_with_its_words(
    weavepy: Command, router: StandIn, tmp_path: Path
) -> None:
    router.fail("/v1/capture", 404, "not-found", "there is no peer 'x'")
    result = weavepy("capture", "--peer", "x", "-w", str(tmp_path / "frames"))
    assert result.returncode == 1
    assert "there is no peer 'x'" in result.stderr


def test_a_file_that_cannot_be_written_is_told(
    weavepy: Command, router: StandIn, tmp_path: Path
) -> None:
    result = weavepy("capture", "-w", str(tmp_path / "no" / "where"))
    assert result.returncode == 1
    assert "cannot write" in result.stderr


def test_a_measurement_is_shown(weavepy: Command, router: StandIn) -> None:
    result = weavepy("bench", "host2")
    assert result.returncode == 0
    assert "host2 (7a:0c:00:00:00:02), direct" in result.stdout
    assert "1.25 Gbit/s" in result.stdout
    assert "75,000 /s (25.0 % lost)" in result.stdout
    assert json.loads(weavepy("bench", "host2", "--json").stdout)["tcp_reverse_gbps"] == 1.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench",),
        ("bench", "a", "--seconds", "99"),
        ("bench", "a", "--seconds", "0"),
        ("capture", "--count", "0", "-w", "-"),
        ("capture", "--count", "many", "-w", "-"),
        ("capture", "--seconds", "0", "-w", "-"),
        ("capture", "--seconds", "3601", "-w", "-"),
        ("capture", "--snap-bytes", "13", "-w", "-"),
        ("capture", "--snap-bytes", "262145", "-w", "-"),
        ("capture", "host2", "-w", "-"),
        ("capture", "-w"),
    ],
)
def test_what_makes_no_sense_is_refused_without_asking_the_router(
    weavepy: Command, router: StandIn, arguments: tuple[str]
) -> None:
    result = weavepy(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert router.requests == []


def test_a_capture_is_not_written_to_a_terminal(weavepy: Command, router: StandIn) -> None:
    ours, its = os.openpty()
    with open(ours, "rb", buffering=0), open(its, "wb", buffering=0) as terminal:
        result = subprocess.run(
            weavepy.arguments("capture"),
            env=weavepy.environment(),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 2
    assert "-w FILE" in result.stderr
    assert router.requests == []


def test_a_pipe_whose_reader_is_gone_ends_a_capture_quietly(
    weavepy: Command, router: StandIn
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as pipe:
        result = subprocess.run(
            weavepy.arguments("capture", "-w", "-"),
            env=weavepy.environment(),
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert "frames" in result.stderr


@pytest.mark.parametrize("arguments", [("capture", "-w", "-"), ("bench", "host2")])
def test_a_peer_that_does_not_answer_is_told_in_the_routers_words(
    weavepy: Command, router: StandIn, arguments: tuple[str]
) -> None:
    path = f"/v1/{arguments[0]}"
    router.fail(path, 504, "timed-out", "host2 did not answer within 20 s")
    result = weavepy(*arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "host2 did not answer within 20 s" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_router_nothing_is_captured_or_measured(weavepy: Command) -> None:
    for arguments in (("capture", "-w", "-"), ("bench", "host2")):
        result = weavepy(*arguments)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr

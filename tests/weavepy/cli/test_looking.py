"""`weavepy capture` and `weavepy bench`, against a stand-in."""

import json
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


@pytest.mark.parametrize("arguments", [("bench",), ("bench", "a", "--seconds", "99")])
def test_a_measurement_that_makes_no_sense_is_refused(
    weavepy: Command, arguments: tuple[str]
) -> None:
    assert weavepy(*arguments).returncode == 2

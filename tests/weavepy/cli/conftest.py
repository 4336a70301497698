"""The real `weavepy` command as a subprocess, with directories and an environment of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.weavepy.cli.stand_in import StandIn


@dataclass
class Command:
    run_dir: Path
    state_dir: Path
    extra: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """What the command is run by, to run it elsewhere."""

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "WEAVEPY" not in name}
        directories = {
            "WEAVEPY_RUN_DIR": str(self.run_dir),
            "WEAVEPY_STATE_DIR": str(self.state_dir),
        }
        return kept | directories | self.extra

    def arguments(self, *arguments: str) -> list[str]:
        return [*self.prefix, sys.executable, "-P", "-m", "weavepy", *arguments]

    def __call__(
        self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.arguments(*arguments),
            input=stdin,
            env=self.environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def weavepy() -> Iterator[Command]:
    # Not tmp_path: the path of a UNIX socket has to fit 107 bytes.
    with tempfile.TemporaryDirectory(prefix="weavepy-t-") as base:
        run_dir = Path(base) / "run"
        run_dir.mkdir()
        yield Command(run_dir, Path(base) / "state")


@pytest.fixture
def router(weavepy: Command) -> Iterator[StandIn]:
    with StandIn(weavepy.run_dir / "weavepy.sock") as stand_in:
        yield stand_in


def only_line(result: "subprocess.CompletedProcess[str]") -> str:
    """The one line of stderr, which is all that a failed command says."""
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("weavepy: ")
    return line

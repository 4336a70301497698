import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.lab import wire
from weavepy.lab.lab import Lab
from weavepy.lab.plan import make_plan
from weavepy.lab.state import new_state

Weavepy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def weavepy_lab(tmp_path: Path, lab_name: str) -> Weavepy:
    """Runs `weavepy lab ...` on a lab of this test."""

    def run(command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {
            "WEAVEPY_LAB_DIR": str(tmp_path / "labs"),
            "WEAVEPY_LAB_NAME": lab_name,
        }
        return subprocess.run(
            [sys.executable, "-m", "weavepy", "lab", command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def lab(tmp_path: Path, lab_name: str) -> Iterator[Lab]:
    """Two hosts with a container each, without routers; no container has an interface."""
    plan = make_plan(lab_name, hosts=2, containers=1)
    made = Lab(lab_name, tmp_path / "labs")
    state = new_state(plan, [])
    state.attached = {"h1c1": ["10.32.0.1/12"], "h2c1": []}
    made.store.write(state)
    wire.build(plan)
    yield made
    made.down()


@pytest.mark.parametrize(
    "command", ["up", "status", "ping", "exec", "link", "router", "bench", "down"]
)
def test_each_command_explains_itself_with_an_example(weavepy_lab: Weavepy, command: str) -> None:
    done = weavepy_lab(command, "--help")
    assert done.returncode == 0
    assert f"weavepy lab {command}" in done.stdout.split("Examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ping"], 1, "there is no lab"),
        (["up", "--hosts", "99"], 2, "1 to 32 hosts"),
        (["up", "--topology", "ring"], 2, "not a topology"),
        (["up", "--name", "much-too-long"], 2, "cannot be a lab's name"),
        (["link", "h1", "h2"], 2, "say what to do"),
        (["link", "h1", "h2", "--loss", "2"], 2, "not a loss"),
        (["router", "h1"], 2, "say what to do"),
        (["exec", "h1"], 2, "Missing argument"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    weavepy_lab: Weavepy, arguments: list[str], code: int, said: str
) -> None:
    done = weavepy_lab(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@needs_root
def test_ping_prints_the_pairs_and_fails_if_one_is_silent(weavepy_lab: Weavepy, lab: Lab) -> None:
    done = weavepy_lab("ping", "--json", "--count", "1")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "ok": False,
        "pairs": [
            {"from": "h1c1", "to": "h2c1", "ok": False, "rtt_ms": None},
            {"from": "h2c1", "to": "h1c1", "ok": False, "rtt_ms": None},
        ],
    }
    done = weavepy_lab("ping", "--count", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 of 2 pairs answer"


@needs_root
def test_exec_passes_arguments_streams_and_exit_status_on(weavepy_lab: Weavepy, lab: Lab) -> None:
    script = 'echo "$0 $1"; echo oops >&2; exit 7'
    done = weavepy_lab("exec", "h1c1", "--", "sh", "-c", script, "--one", "-x")
    assert (done.returncode, done.stdout, done.stderr) == (7, "--one -x\n", "oops\n")
    done = weavepy_lab("exec", "h2", "--", "sh", "-c", "echo $WEAVEPY_RUN_DIR")
    assert done.stdout.strip() == str(lab.store.directories("h2").run)
    assert weavepy_lab("exec", "h3", "--", "true").returncode == 2


@needs_root
def test_a_spoilt_link_shows_in_status_until_it_is_mended(weavepy_lab: Weavepy, lab: Lab) -> None:
    assert "down, loss 1%" in weavepy_lab("link", "h1", "h2", "--down", "--loss", "1%").stdout
    links = json.loads(weavepy_lab("status", "--json").stdout)["links"]
    assert links[0]["impairment"] == {"down": True, "loss": 0.01}
    assert "down, loss 1%" in weavepy_lab("status").stdout
    assert weavepy_lab("link", "h1", "h2", "--up", "--loss", "0").stdout == "h1 - h2: ok\n"
    assert json.loads(weavepy_lab("status", "--json").stdout)["links"][0]["impairment"] == {}


@needs_root
def test_down_says_what_it_did(weavepy_lab: Weavepy, lab: Lab) -> None:
    assert "5 namespaces removed" in weavepy_lab("down").stdout
    done = weavepy_lab("down")
    assert (done.returncode, done.stdout) == (0, f"there is no lab '{lab.name}'\n")

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.base.errors import UsageError
from weavepy.lab import wire
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.life import AlreadyThere, Wanted
from weavepy.lab.plan import make_plan
from weavepy.lab.routers import environment, launch_arguments
from weavepy.lab.state import Impairment, ProcessRecord, new_state
from weavepy.lab.system import (
    LabError,
    inside,
    network_namespace_of,
    processes_in,
    start_ticks,
    wait_until,
)


@pytest.fixture
def lab(lab_name: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(lab_name, tmp_path)
    yield made
    if os.geteuid() == 0:
        made.down()


def make_without_routers(lab: Lab, hosts: int = 2, containers: int = 1) -> None:
    plan = make_plan(lab.name, hosts, containers)
    lab.store.write(new_state(plan, []))
    wire.build(plan)


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    old = Impairment(down=True, loss=0.1, delay_ms=5)
    assert LinkChange(down=False).applied_to(old) == Impairment(loss=0.1, delay_ms=5)
    assert LinkChange(loss=0.0, mtu_bytes=1400).applied_to(old) == Impairment(
        down=True, delay_ms=5, mtu_bytes=1400
    )


def test_a_router_dials_its_lower_neighbours_and_the_operators_options_win(tmp_path: Path) -> None:
    plan = make_plan(hosts=3)
    host, secret = plan.node("h3"), tmp_path / "secret"
    assert launch_arguments(plan, host, secret, ["--no-discovery"]) == [
        "--nickname",
        "h3",
        "--ipalloc-init",
        "consensus=3",
        "--secret-file",
        str(secret),
        "--no-discovery",
        "10.99.0.5",
        "10.99.0.9",
    ]
    own = launch_arguments(plan, host, secret, ["--insecure", "--ipalloc-init=observer"])
    assert own[2:4] == ["--insecure", "--ipalloc-init=observer"]


def test_a_host_sees_its_own_directories_and_no_setting_of_the_machine(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAVEPY_PASSWORD_FILE", "/somewhere")
    found = environment(lab.store, "h2")
    assert "WEAVEPY_PASSWORD_FILE" not in found
    assert found["WEAVEPY_RUN_DIR"] == str(lab.store.path / "h2" / "run")
    assert found["PATH"].split(":")[0] == str(Path(sys.executable).parent)


@needs_root
def test_a_lab_that_is_there_is_not_made_again(lab: Lab) -> None:
    make_without_routers(lab)
    with pytest.raises(AlreadyThere, match=r"lab down --name"):
        lab.up(Wanted(hosts=1))
    assert len(wire.existing_namespaces(lab.name)) == 5


@needs_root
def test_wrong_dimensions_are_refused_before_anything_is_made(lab: Lab) -> None:
    with pytest.raises(UsageError):
        lab.up(Wanted(hosts=33))
    assert not lab.store.path.exists()


@needs_root
def test_a_router_that_ends_at_once_is_told_with_its_last_words(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"the router of h1 ended: .*no-such-option"):
        lab.up(Wanted(hosts=1, containers=0, launch_options=["--no-such-option"]))
    assert stat.S_IMODE(lab.store.secret_file.stat().st_mode) == 0o600
    lab.down()
    assert not lab.store.path.exists()


@needs_root
def test_down_finds_what_a_killed_up_left(lab: Lab) -> None:
    """The state names everything, and what runs is killed, be it known or not."""
    make_without_routers(lab)
    inner = lab.namespace("h1")
    unknown = subprocess.Popen(inside(inner, ["sleep", "60"]))
    recorded = subprocess.Popen(["sleep", "60"])
    with lab.store.changing() as state:
        state.processes["router h1"] = ProcessRecord(recorded.pid, start_ticks(recorded.pid) or 0)
    assert wait_until(lambda: processes_in([inner]) == [unknown.pid], 5)
    removed = lab.down()
    assert unknown.wait(5) == recorded.wait(5) == -signal.SIGKILL
    assert len(removed.namespaces) == 5
    assert not lab.store.path.exists()


@needs_root
def test_down_spares_a_process_that_only_has_a_recorded_number(lab: Lab) -> None:
    make_without_routers(lab, hosts=1, containers=0)
    with subprocess.Popen(["sleep", "60"]) as innocent:
        with lab.store.changing() as state:
            state.processes["router h1"] = ProcessRecord(innocent.pid, 12345)
        lab.down()
        assert innocent.poll() is None
        innocent.kill()


@needs_root
def test_down_works_without_a_state_file_and_twice(lab: Lab) -> None:
    make_without_routers(lab)
    lab.store.file.write_text("{ damaged")
    assert len(lab.down().namespaces) == 5
    assert lab.down().namespaces == []
    make_without_routers(lab)
    lab.store.remove()
    assert len(lab.down().namespaces) == 5
    assert list(lab.store.root.iterdir()) == []


@needs_root
def test_down_of_one_lab_leaves_another(lab: Lab, tmp_path: Path) -> None:
    other = Lab(lab.name[:-1] + "z", tmp_path)
    try:
        make_without_routers(lab)
        make_without_routers(other)
        lab.down()
        assert len(wire.existing_namespaces(other.name)) == 5
        assert other.store.read().name == other.name
    finally:
        other.down()


@needs_root
def test_a_link_is_remembered_as_it_is_and_its_relay_killed_with_the_lab(lab: Lab) -> None:
    make_without_routers(lab, containers=0)
    assert lab.link("h2", "h1", LinkChange(delay_ms=5.0, loss=0.1)) == Impairment(
        delay_ms=5.0, loss=0.1
    )
    relay = lab.store.read().process("delay h1-h2")
    assert relay is not None
    lab.link("h1", "h2", LinkChange(loss=0.0))
    assert lab.store.read().process("delay h1-h2") == relay, "it goes on undisturbed"
    lab.link("h1", "h2", LinkChange(down=True))
    assert not relay.running
    lab.link("h1", "h2", LinkChange(down=False))
    assert lab.store.read().impairments == {"h1-h2": Impairment(delay_ms=5.0)}
    again = lab.store.read().process("delay h1-h2")
    assert again is not None
    lab.down()
    assert not again.running


@needs_root
def test_commands_run_in_the_namespace_of_their_node(lab: Lab) -> None:
    make_without_routers(lab)
    done = lab.exec("h1c1", ["readlink", "/proc/self/ns/net"])
    assert done.stdout.strip() != os.readlink("/proc/self/ns/net")
    assert lab.exec("h2", ["sh", "-c", "echo $WEAVEPY_RUN_DIR; exit 7"]).returncode == 7
    assert network_namespace_of(os.getpid()) is not None, "and we stayed where we were"


@needs_root
def test_a_host_without_router_is_told_as_such(lab: Lab) -> None:
    make_without_routers(lab)
    for action in ("kill", "pause", "resume", "stop"):
        with pytest.raises(LabError, match="no router runs on h1"):
            lab.router("h1", action)
    status = lab.status()
    assert [host.router_pid for host in status.hosts] == [None, None]
    assert status.hosts[0].reason == "no router answers"
    assert json.dumps([host.containers for host in status.hosts])


@needs_root
def test_a_pid_file_that_names_a_stranger_is_not_believed(lab: Lab) -> None:
    make_without_routers(lab)
    file = lab.store.directories("h1").router_pid_file
    file.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        file.write_text(str(stranger.pid))
        with pytest.raises(LabError, match="no router runs"):
            lab.router("h1", "kill")
        assert stranger.poll() is None
        stranger.kill()

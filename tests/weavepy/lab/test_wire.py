import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.lab import wire
from weavepy.lab.echo import ping_series
from weavepy.lab.plan import Plan, make_plan
from weavepy.lab.system import LabError, in_namespace, inside, processes_in, run, wait_until

pytestmark = needs_root


def test_neighbours_reach_each_other_and_nobody_else(built: Callable[..., Plan]) -> None:
    plan = built(hosts=3, containers=1, topology="chain")
    one = plan.namespace(plan.node("h1"))
    assert None not in ping_series(one, "10.99.0.2", 3, 0.01)
    assert ping_series(one, "10.99.0.6", 1, 0.01) == [None]
    assert run(["ip", "-n", plan.namespace(plan.node("h1c1")), "route"]) == ""


def test_nothing_of_the_machine_itself_is_touched(
    built: Callable[..., Plan], machine: Callable[[], object]
) -> None:
    plan = built(hosts=3, containers=2)
    machine()
    wire.destroy(plan.name)


def test_the_mtu_is_that_of_all_of_the_underlay(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0, mtu_bytes=9000)
    for namespace in (plan.wire, plan.namespace(plan.node("h1")), plan.namespace(plan.node("h2"))):
        for line in run(["ip", "-n", namespace, "-o", "link"]).splitlines():
            assert " lo: " in line or " mtu 9000 " in line


def test_the_wire_filters_and_says_nothing(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0)
    assert in_namespace(plan.wire, lambda: read("net/ipv6/conf/all/disable_ipv6")) == "1"
    assert in_namespace(plan.wire, lambda: read("net/bridge/bridge-nf-call-iptables")) in ("0", "")


def read(setting: str) -> str:
    try:
        with open(f"/proc/sys/{setting}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def test_all_is_gone_after_destroying_and_destroying_again_is_nothing(lab_name: str) -> None:
    plan = make_plan(lab_name, hosts=4, containers=2)
    wire.build(plan)
    assert sorted(wire.destroy(lab_name)) == sorted(plan.namespaces)
    assert wire.existing_namespaces(lab_name) == []
    assert wire.destroy(lab_name) == []


def test_half_a_lab_is_removed_like_a_whole_one(lab_name: str) -> None:
    run(["ip", "netns", "add", f"weavepy-{lab_name}-h7"])
    run(["ip", "netns", "add", f"weavepy-{lab_name}-h7c3"])
    assert len(wire.destroy(lab_name)) == 2


def test_building_what_is_there_already_fails_loudly(built: Callable[..., Plan]) -> None:
    plan = built(hosts=1, containers=0)
    with pytest.raises(LabError, match="File exists"):
        wire.build(plan)


def test_processes_in_the_lab_are_killed_and_others_are_not(built: Callable[..., Plan]) -> None:
    plan = built(hosts=1, containers=1)
    namespace = plan.namespace(plan.node("h1c1"))
    stranger = subprocess.Popen(["sleep", "60"])
    stopped = subprocess.Popen(inside(namespace, ["sleep", "60"]))
    stubborn = subprocess.Popen(inside(namespace, ["sh", "-c", "trap '' TERM; sleep 61 & wait"]))
    try:
        assert wait_until(lambda: len(processes_in([namespace])) == 3, 5)
        stopped.send_signal(signal.SIGSTOP)
        wire.destroy(plan.name)
        assert stopped.wait(5) == -signal.SIGKILL
        assert stubborn.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (stranger, stopped, stubborn):
            process.kill()
            process.wait()


def test_a_full_mesh_of_twelve_has_all_its_links(lab_name: str) -> None:
    plan = make_plan(lab_name, hosts=12, containers=0)
    wire.build(plan)
    assert run(["ip", "-n", plan.wire, "-o", "link"]).count("master") == 2 * 66

"""The router is killed between each two steps of ADD and of DEL: never half a pod."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cni.host import TIMEOUT_S
from tests.cni.runtime import Runtime
from tests.e2e.waiting import wait_for
from weavepy.lab import routers
from weavepy.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

ADD_PLACES = (
    "add-allocated",
    "add-filtered",
    "add-paired",
    "add-configured",
    "add-on-bridge",
    "add-recorded",
)
DEL_PLACES = ("del-unlinked", "del-unfiltered", "del-released")


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that names the place."""
    return Path(tmp_path_factory.mktemp("fault")) / "place"


@pytest.fixture(scope="module")
def runtime(
    fault: Path, lab_of_two: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    made = Runtime(lab_of_two, "h1", Path(tmp_path_factory.mktemp("plugin")))
    original = routers.environment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            routers,
            "environment",
            lambda store, host: original(store, host) | {"WEAVEPY_DIE_AT": str(fault)},
        )
        lab_of_two.router("h1", "kill")
        made.start_router()
        try:
            yield made
        finally:
            made.remove()


def wait_for_death(runtime: Runtime) -> None:
    wait_for(runtime.answers, lambda answers: not answers, TIMEOUT_S)


@pytest.mark.parametrize("place", ADD_PLACES)
def test_an_add_that_ended_half_way_is_nothing_or_whole(
    runtime: Runtime, fault: Path, place: str
) -> None:
    pod = runtime.pod()
    fault.write_text(place)
    code, answer = runtime.call("ADD", pod)
    assert (code, answer["code"]) == (1, 11), answer
    assert not fault.exists(), "the router was killed there"
    # As if the plugin had been killed, too: what the router finds by itself.
    shutil.rmtree(runtime.journal)
    runtime.start_router()

    whole = {"eth0"} if place == "add-recorded" else set()
    assert runtime.interfaces(pod) == whole
    assert runtime.host_interfaces() == runtime.filtered()
    runtime.delete(pod)
    assert runtime.left() == []
    result = runtime.add(pod)
    assert runtime.reaches(pod, result["ips"][0]["gateway"])
    runtime.delete(pod)
    assert runtime.left() == []


def test_what_the_plugin_wrote_down_undoes_the_add(runtime: Runtime, fault: Path) -> None:
    pod = runtime.pod()
    fault.write_text("add-recorded")
    assert runtime.call("ADD", pod)[0] == 1
    runtime.start_router()
    assert runtime.interfaces(pod) == set()
    assert runtime.left() == []
    assert list(runtime.journal.iterdir()) == []


def test_what_lives_stays_when_a_second_add_of_it_is_lost(runtime: Runtime, fault: Path) -> None:
    pod = runtime.pod()
    result = runtime.add(pod)
    fault.write_text("add-allocated")
    code, answer = runtime.call("ADD", pod)
    assert (code, answer["code"]) == (1, 11), answer
    assert len(list(runtime.journal.iterdir())) == 1
    runtime.start_router()
    assert list(runtime.journal.iterdir()) == []
    assert runtime.left(pod) == []
    assert runtime.call("CHECK", pod, {"prevResult": result}) == (0, {})
    runtime.delete(pod)
    assert runtime.left() == []


@pytest.mark.parametrize("place", DEL_PLACES)
def test_a_del_that_ended_half_way_is_finished_by_the_next_router(
    runtime: Runtime, fault: Path, place: str
) -> None:
    pod = runtime.pod()
    runtime.add(pod)
    fault.write_text(place)
    runtime.delete(pod)
    assert not fault.exists(), "the router was killed there"
    runtime.start_router()
    assert runtime.interfaces(pod) == set()
    assert runtime.left() == []


def test_del_without_a_router_is_written_down_and_carried_out_later(runtime: Runtime) -> None:
    kept, gone = runtime.pod(), runtime.pod()
    result = runtime.add(kept)
    runtime.add(gone)
    runtime.lab.router("h1", "kill")
    for _ in range(5):
        runtime.delete(gone, netns="")
    assert len(list(runtime.journal.iterdir())) == 1
    code, answer = runtime.call("ADD", runtime.pod())
    assert (code, answer["code"]) == (1, 11)
    code, answer = runtime.call("STATUS", kept)
    assert (code, answer["code"]) == (1, 50)
    runtime.start_router()
    assert runtime.left(kept) == []
    assert runtime.call("CHECK", kept, {"prevResult": result}) == (0, {})
    runtime.delete(kept)
    assert runtime.left() == []


def test_an_add_takes_back_what_was_written_down(runtime: Runtime) -> None:
    """A plugin that gave up on a router which lives writes its DEL late; the next ADD is newer."""
    from cni import journal

    pod = runtime.pod()
    runtime.add(pod)
    runtime.delete(pod)
    entry = {"network": "test", "container": pod, "interface": "eth0", "kind": "interface"}
    journal.write(str(runtime.journal), entry)
    result = runtime.add(pod)
    assert list(runtime.journal.iterdir()) == []
    assert runtime.call("CHECK", pod, {"prevResult": result}) == (0, {})
    runtime.delete(pod)

import os
import threading
from pathlib import Path

import pytest

from router.shell import namespaces
from router.shell.namespaces import NoSuchNamespace, OwnNamespace
from tests.router.shell.conftest import World


@pytest.mark.root
def test_a_namespace_is_found_by_name_and_by_path(world: World) -> None:
    by_name = namespaces.resolve_name(world.host.name)

    assert by_name == world.host.resolve()
    assert namespaces.resolve_name(str(world.host)) == by_name
    assert namespaces.resolve_name(f"/var/run/netns/{world.host.name}") == by_name


def test_the_path_of_a_process_stays_a_path_below_proc() -> None:
    path = namespaces.resolve_name(f"/proc/{os.getpid()}/ns/net")

    assert path == Path(f"/proc/{os.getpid()}/ns/net")
    assert namespaces.resolve_pid(os.getpid()) == path


@pytest.mark.parametrize("name", ["nothere", "", "..", "/nothere/net"])
def test_an_unknown_name_says_so(name: str) -> None:
    with pytest.raises(NoSuchNamespace, match="there is no network namespace"):
        namespaces.resolve_name(name)


def test_an_unknown_process_says_so() -> None:
    with pytest.raises(NoSuchNamespace, match="no process 4194305"):
        namespaces.resolve_pid(4194305)  # beyond the largest there can be


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/proc/self/status"])
def test_what_is_not_a_network_namespace_is_refused(path: str) -> None:
    with (
        pytest.raises(NoSuchNamespace, match="not a network namespace"),
        namespaces.opened(Path(path)),
    ):
        pass


def test_our_own_namespace_is_refused() -> None:
    with (
        pytest.raises(OwnNamespace, match="weavepy expose"),
        namespaces.opened(Path("/proc/self/ns/net")),
    ):
        pass


@pytest.mark.root
def test_work_inside_leaves_the_caller_where_it_was(world: World) -> None:
    before = namespaces.own_identity()
    threads = threading.active_count()

    there = world.on_host(namespaces.own_identity)

    assert there == (os.stat(world.host).st_dev, os.stat(world.host).st_ino)
    assert there != before
    assert namespaces.own_identity() == before
    assert threading.active_count() == threads


@pytest.mark.root
def test_a_visit_leaves_the_thread_where_it_was_whatever_happens(world: World) -> None:
    before = namespaces.own_identity()

    with pytest.raises(ZeroDivisionError), world.host.open() as there:
        with namespaces.visited(there.fileno()):
            assert namespaces.own_identity() == namespaces.identity(there.fileno())
        assert namespaces.own_identity() == before
        with namespaces.visited(there.fileno()):
            raise ZeroDivisionError

    assert namespaces.own_identity() == before


@pytest.mark.root
def test_an_exception_inside_comes_out(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        world.on_host(lambda: 1 // 0)


@pytest.mark.root
def test_a_process_started_inside_is_inside(world: World) -> None:
    """So that nft and ip, called by the work, act where it acts."""
    import subprocess

    def links() -> str:
        return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout

    assert " weave: " in world.on_host(links)

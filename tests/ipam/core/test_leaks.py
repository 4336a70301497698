"""What is recorded for attachments, compared with the interfaces that exist."""

import pytest

from ipam.core.effects import PersistedAddress, RunningAddress, Saved
from tests.ipam.core.mesh import Disk, TestMesh, address


def alone(disk: Disk | None = None) -> TestMesh:
    mesh = TestMesh(1, universe="10.32.0.0/24", expects_peers=False)
    if disk is not None:
        mesh.disks[mesh.names[0]] = disk
        mesh.restart(mesh.names[0])
    mesh.prime(0)
    return mesh


def attach(mesh: TestMesh, owner: str) -> RunningAddress:
    peer = mesh.peers[mesh.names[0]]
    number = 1000 + len(mesh.answers)
    mesh.perform(
        mesh.names[0], peer.allocate(number, owner, None, mesh.now + 9, mesh.now, "attachment")
    )
    given = mesh.answers[number].address
    assert given is not None
    return RunningAddress(given, owner, 24)


def look(mesh: TestMesh, *live: RunningAddress, busy: tuple[str, ...] = ()) -> None:
    peer = mesh.peers[mesh.names[0]]
    mesh.perform(mesh.names[0], peer.reconcile(live, busy, mesh.now))


def owners(mesh: TestMesh) -> list[str]:
    return [row.owner for row in mesh.peers[mesh.names[0]].addresses()]


def test_an_attachment_without_an_interface_is_freed_at_the_second_sighting() -> None:
    mesh = alone()
    web, _ = attach(mesh, "web"), attach(mesh, "gone")
    look(mesh, web)
    assert owners(mesh) == ["web", "gone"]
    mesh.now += 60
    look(mesh, web)
    assert owners(mesh) == ["web"]
    assert any("the interface of gone is gone" in line for line in mesh.logs)


@pytest.mark.parametrize(("seconds", "left"), [(19.9, ["web"]), (20.0, [])])
def test_two_sightings_are_twenty_seconds_apart(seconds: float, left: list[str]) -> None:
    mesh = alone()
    attach(mesh, "web")
    look(mesh)
    mesh.now += seconds
    look(mesh)
    assert owners(mesh) == left


def test_two_looks_at_one_moment_are_one_sighting() -> None:
    mesh = alone()
    attach(mesh, "web")
    look(mesh)
    look(mesh)
    assert owners(mesh) == ["web"]


def test_an_interface_that_comes_back_begins_anew() -> None:
    mesh = alone()
    web = attach(mesh, "web")
    for live in ((), (web,), ()):
        look(mesh, *live)
        mesh.now += 60
    assert owners(mesh) == ["web"]


def test_what_was_allocated_by_hand_is_never_freed() -> None:
    mesh = alone()
    mesh.allocate(0, "backup")
    for _ in range(3):
        look(mesh)
        mesh.now += 60
    assert owners(mesh) == ["backup"]


def test_an_owner_that_is_just_being_attached_is_left_alone() -> None:
    mesh = alone()
    attach(mesh, "web")
    for _ in range(3):
        look(mesh, busy=("web",))
        mesh.now += 60
    assert owners(mesh) == ["web"]


def test_an_address_that_any_interface_has_is_not_freed() -> None:
    mesh = alone()
    web = attach(mesh, "web")
    for _ in range(3):
        look(mesh, RunningAddress(web.address, "renamed", 24))
        mesh.now += 60
    assert owners(mesh) == ["web"]


def test_what_runs_and_is_not_recorded_is_taken_up() -> None:
    mesh = alone()
    look(mesh, RunningAddress(address("10.32.0.77"), "lost", 24))
    assert owners(mesh) == ["lost"]
    mesh.now += 60
    look(mesh)
    mesh.now += 60
    look(mesh)
    assert owners(mesh) == []


def test_the_kind_of_owner_survives_a_restart() -> None:
    mesh = alone()
    attach(mesh, "web")
    mesh.allocate(0, "backup")
    mesh.restart(mesh.names[0])
    assert [row.kind for row in mesh.peers[mesh.names[0]].addresses()] == ["attachment", "manual"]


def test_a_check_finds_nothing_where_all_agree() -> None:
    mesh = alone()
    web = attach(mesh, "web")
    mesh.allocate(0, "backup")
    name = mesh.names[0]
    assert mesh.peers[name].audit(mesh.disks[name].load(), [web], ()) == []


def test_a_check_says_what_differs() -> None:
    mesh = alone()
    web, name = attach(mesh, "web"), mesh.names[0]
    peer, saved = mesh.peers[name], mesh.disks[name].load()
    assert saved is not None

    def texts(saved: Saved | None, *live: RunningAddress) -> list[str]:
        return [finding.text for finding in peer.audit(saved, live, ())]

    assert texts(saved) == ["10.32.0.1 is recorded for web, which has no interface"]
    other = RunningAddress(web.address, "other", 24)
    assert texts(saved, web, other) == ["other runs with 10.32.0.1, which is recorded for web"]
    stranger = RunningAddress(address("10.32.0.9"), "web", 24)
    assert texts(saved, web, stranger) == ["web runs with 10.32.0.9, which is not recorded"]
    assert texts(saved, stranger)[1] == "10.32.0.1 is recorded for web, but not on its interface"
    assert texts(Saved(saved.ring, ()), web) == [
        "10.32.0.1 is used by web in memory and unknown on disk"
    ]
    stale = PersistedAddress(address("10.32.0.5"), "old", 24)
    assert texts(Saved(saved.ring, (*saved.addresses, stale)), web) == [
        "10.32.0.5 is unknown in memory and used by old on disk"
    ]
    assert texts(Saved(None, saved.addresses), web) == ["the ring is not on disk"]
    assert texts(Saved(b"?", saved.addresses), web)[0].startswith("the ring on disk cannot be read")

"""Two routers with one identity: the one with whom nobody speaks gives out nothing."""

from ipam.core.restart import COPIED_FOR_S
from tests.ipam.core.mesh import TestMesh


def told_of_a_copy(mesh: TestMesh, at: int) -> None:
    name = mesh.names[at]
    effects = mesh.peers[name].handle_identity_copied("a peer refuses us", mesh.now)
    mesh.perform(name, effects)
    mesh.deliver()


def mesh_with_a_ring() -> TestMesh:
    mesh = TestMesh(3)
    assert mesh.given(mesh.allocate(0, "first"))
    return mesh


def test_whoever_hears_of_a_copy_and_is_alone_gives_out_nothing_and_says_why() -> None:
    mesh = mesh_with_a_ring()
    mesh.partition([0], [1, 2])
    told_of_a_copy(mesh, 0)
    request = mesh.allocate(0, "second", timeout_s=30.0)
    mesh.run(31)
    assert mesh.given(request) is None
    assert "copied state directory" in mesh.error(request)
    warnings = mesh.peers[mesh.names[0]].status(mesh.now).warnings
    assert any("copied state directory" in text for text in warnings)


def test_whoever_the_others_speak_with_goes_on_at_once() -> None:
    mesh = mesh_with_a_ring()
    told_of_a_copy(mesh, 0)
    assert mesh.given(mesh.allocate(0, "second"))
    assert mesh.peers[mesh.names[0]].status(mesh.now).warnings == ()


def test_a_restart_alone_is_not_over_when_a_copy_is_heard_of_meanwhile() -> None:
    mesh = mesh_with_a_ring()
    mesh.partition([0], [1, 2])
    mesh.restart(mesh.names[0])
    told_of_a_copy(mesh, 0)
    request = mesh.allocate(0, "second", timeout_s=30.0)
    mesh.run(20)
    assert mesh.given(request) is None
    mesh.heal()
    mesh.run(6)
    assert mesh.given(request)


def test_when_nothing_was_heard_of_the_copy_for_long_a_peer_goes_on_alone() -> None:
    mesh = mesh_with_a_ring()
    mesh.partition([0], [1, 2])
    told_of_a_copy(mesh, 0)
    mesh.run(COPIED_FOR_S + 10, step=1.0)
    assert mesh.given(mesh.allocate(0, "second"))

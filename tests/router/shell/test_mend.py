import re
from ipaddress import ip_interface

import pytest

from router.shell.host import Seen
from tests.namespaces import inside, ping, run
from tests.router.shell.conftest import MTU_BYTES, World
from weavepy.kernel.nftables import run_transaction

pytestmark = pytest.mark.root

TAP = "weavetap"


def look(world: World) -> Seen:
    seen = world.on_host(world.router.look)
    assert seen is not None
    return seen


def mend(world: World, before: Seen) -> list[str]:
    return world.on_host(lambda: world.router.mend(before, TAP, MTU_BYTES))


def on_host(world: World, command: str) -> str:
    return inside(world.host, *command.split())


def add_tap(world: World) -> None:
    on_host(world, f"ip tuntap add {TAP} mode tap")
    world.on_host(lambda: world.router.enslave(TAP))


def is_isolated_port(world: World, name: str) -> bool:
    shown = on_host(world, f"ip -d link show {name}")
    return "master weave " in shown and " isolated on " in shown


def settings(world: World) -> dict[str, str]:
    shown = on_host(world, "ip -d link show weave")
    names = ("mtu", "link/ether", "stp_state", "forward_delay", "mcast_snooping")
    return {name: re.findall(rf"{name} (\S+)", shown)[0] for name in names}


def test_a_deleted_bridge_comes_back_as_it_was_with_all_its_ports(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    attached = [world.attach(one, "10.32.0.1/12"), world.attach(two, "10.32.0.2/12")]
    add_tap(world)
    before, had = look(world), settings(world)
    on_host(world, "ip link del weave")
    assert [it.on_bridge for it in world.attachments()] == [False, False]

    mended = mend(world, before)

    assert mended == [
        "weave was deleted",
        f"not on it: {one.name}, {two.name}",
        f"not on it: {TAP}",
    ]
    assert settings(world) == had
    assert world.attachments() == attached
    assert is_isolated_port(world, TAP)
    assert not is_isolated_port(world, attached[0].host_interface)
    ping(one, "10.32.0.2")
    assert mend(world, look(world)) == []


def test_the_addresses_of_the_host_and_their_masquerading_come_back(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    exposed = [ip_interface("10.32.0.100/12"), ip_interface("192.168.7.1/24")]
    world.on_host(lambda: world.router.expose(exposed, masquerade=True))
    before = look(world)
    on_host(world, "ip link del weave")

    assert "addresses of this host or their masquerading were gone" in mend(world, before)

    assert look(world).exposed == tuple(exposed)
    assert look(world).masqueraded
    assert on_host(world, "sysctl -n net.ipv4.conf.weave.forwarding") == "1\n"
    ping(one, "10.32.0.100")


def test_masquerading_that_was_flushed_comes_back(world: World) -> None:
    exposed = [ip_interface("10.32.0.100/12")]
    world.on_host(lambda: world.router.expose(exposed, masquerade=True))
    before = look(world)
    on_host(world, "nft flush ruleset")

    mend(world, before)

    assert look(world).masqueraded


def test_an_address_that_somebody_took_off_the_bridge_stays_off(world: World) -> None:
    exposed = [ip_interface("10.32.0.100/12")]
    world.on_host(lambda: world.router.expose(exposed, masquerade=False))
    before = look(world)
    on_host(world, "ip addr flush dev weave")

    assert mend(world, before) == []
    assert look(world).exposed == ()


def test_a_bridge_that_somebody_made_in_its_place_is_set_up(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12")
    before = look(world)
    on_host(world, "ip link del weave")
    on_host(world, "ip link add weave type bridge stp_state 1")

    assert mend(world, before)[0] == "weave was replaced"

    assert settings(world)["stp_state"] == "0"
    assert settings(world)["mtu"] == str(MTU_BYTES)
    ping(one, "10.32.0.2")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"ip link set {TAP} nomaster", f"not on it: {TAP}"),
        ("ip link set weave down", "weave was down"),
        ("ip link set weave mtu 1300", "weave had another MTU"),
    ],
)
def test_what_others_did_to_bridge_and_tap_is_undone(world: World, command: str, said: str) -> None:
    add_tap(world)
    before, had = look(world), settings(world)
    on_host(world, command)

    assert mend(world, before) == [said]

    assert is_isolated_port(world, TAP)
    assert settings(world) == had
    assert mend(world, before) == []


def test_a_container_that_was_taken_out_is_put_back(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12")
    on_host(world, f"ip link set {first.host_interface} nomaster")

    assert mend(world, look(world)) == [f"not on it: {one.name}"]

    ping(one, "10.32.0.2")


def test_a_container_without_its_filter_stays_off_until_it_has_one(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12")
    second = world.attach(two, "10.32.0.2/12")
    inner = run("ip", "-n", one.name, "-o", "link", "show", "ethwe")
    before = look(world)
    world.on_host(lambda: run_transaction("flush ruleset\n"))
    on_host(world, "ip link del weave")

    assert mend(world, before) == ["weave was deleted"]
    assert [(it.filtered, it.on_bridge) for it in world.attachments()] == [(False, False)] * 2

    assert world.attach(one, "10.32.0.1/12") == first
    assert world.attach(two, "10.32.0.2/12") == second
    assert run("ip", "-n", one.name, "-o", "link", "show", "ethwe") == inner
    ping(one, "10.32.0.2")


def test_containers_of_another_router_are_left_where_they_are(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    other = world.attach_to_another_router(one, "10.99.0.1/16")
    before = look(world)
    on_host(world, "ip link del weave")
    on_host(world, "ip link del weave2")

    assert mend(world, before) == ["weave was deleted", f"not on it: {one.name}"]

    assert [it.owner for it in world.attachments()] == [one.name]
    assert [(it.owner, it.on_bridge) for it in world.on_host(other.attachments)] == [("x", False)]

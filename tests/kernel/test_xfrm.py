"""Associations and policies as the kernel understands them, and the guard beside them."""

from functools import partial
from pathlib import Path

import pytest

from fastdp.core.effects import Association
from fastdp.core.esp import largest_mtu
from fastdp.shell import xfrm
from fastdp.shell.driver import Associations
from fastdp.shell.vxlan import VxlanDriver
from tests.fastdp.shell.conftest import (
    BRIDGE,
    MTU_BYTES,
    SPI,
    TAP,
    World,
    joined,
    make_world,
    world,
)
from tests.fastdp.shell.test_guard import NOTHING, send, until, vxlan
from tests.namespaces import inside
from weavepy.kernel.netlink import HostError

__all__ = ["make_world", "world"]

KEY = bytes(range(36))


def test_this_kernel_can_do_it_and_trying_leaves_nothing(world: World) -> None:
    alone = world.add("alone")
    assert world.inside(alone, xfrm.why_not) == ""
    assert shown(alone) == ""


@pytest.mark.parametrize("ipv6", [False, True])
def test_containers_talk_in_esp_and_the_kernel_has_what_was_meant(world: World, ipv6: bool) -> None:
    one, two = world.hosts(2)
    joined(one, two, ipv6=ipv6, esp=True)
    largest = largest_mtu(1500, 6 if ipv6 else 4)
    size = f"-M do -s {min(largest, MTU_BYTES) - 28}"
    one.in_container(f"ping -c 3 -i 0.2 -W 2 {size} {two.container_address}")

    theirs = two.seen_by(ipv6)
    assert one.arrange(one.tunnel(two, theirs, encrypted=True)).associations == {
        two.peer: Associations(frozenset({SPI + 1}), frozenset({SPI + 2}))
    }
    states = one.run("ip -s xfrm state")
    for text in ("proto esp", "mode transport", "esn", "replay_window 256", "rfc4106(gcm(aes))"):
        assert states.count(text) >= 2, text
    policies = one.run("ip xfrm policy")
    prefix = 128 if ipv6 else 32
    assert f"dst {theirs}/{prefix} proto udp dport 6784" in policies
    assert f"src {theirs}/{prefix} dst" in policies


def test_without_keys_nothing_leaves_and_nothing_in_clear_comes_in(world: World) -> None:
    one, two = world.hosts(2)
    joined(one, two, esp=True)
    two.on(two.driver.remove_all)
    send(world, two.namespace, one.address, vxlan(0x1002))
    until(one, {**NOTHING, "not_encrypted": 1})

    one.run("ip xfrm policy flush")
    one.run("ip xfrm state flush")
    with pytest.raises(PermissionError):
        send(world, one.namespace, two.address, vxlan(0x1002))
    until(one, {**NOTHING, "not_encrypted": 2})


def test_others_associations_and_policies_are_left_alone(world: World) -> None:
    alone = world.add("alone")
    for line in (
        "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x2000 reqid 7 mode transport"
        " aead rfc4106(gcm(aes)) 0x" + KEY.hex() + " 128",
        (
            "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 proto udp dport 4500 dir out"
            " tmpl proto esp reqid 7 mode transport"
        ),
    ):
        inside(alone, *line.split())
    before = shown(alone)
    kernel = xfrm.Xfrm(BRIDGE, 6784)
    for work in (
        partial(kernel.demand, []),
        partial(kernel.keep, 7, (), ()),
        partial(kernel.release, []),
    ):
        world.inside(alone, work)
    assert shown(alone) == before


def test_a_policy_of_others_for_our_datagrams_is_said_and_not_replaced(world: World) -> None:
    one, two = world.hosts(2)
    one.driver = VxlanDriver(BRIDGE, TAP, esp=True)
    one.run(
        f"ip xfrm policy add dst {two.address}/32 proto udp dport 6784 dir out"
        " tmpl proto esp reqid 7 mode transport"
    )
    (error,) = one.arrange(one.tunnel(two, encrypted=True)).errors.values()
    assert "another IPsec policy" in error
    assert "reqid 7 " in one.run("ip xfrm policy")
    assert "wvx" not in one.run("ip -o link")


def test_a_key_that_is_no_key_is_refused_with_words(world: World) -> None:
    alone = world.add("alone")
    wrong = Association(0x1001, b"short", "10.0.0.1", "10.0.0.2")
    driver = VxlanDriver(BRIDGE, TAP, esp=True)
    with pytest.raises(HostError, match="adding an association: the kernel refused"):
        world.inside(alone, partial(driver.add_association, 2, wrong))
    assert shown(alone) == ""


def shown(namespace: Path) -> str:
    return "".join(inside(namespace, "ip", "xfrm", what) for what in ("state", "policy"))

import os
import socket
import struct
import subprocess
from ipaddress import ip_interface
from pathlib import Path

import pytest

from router.shell.bridge import InterfaceTaken
from router.shell.filters import link_local
from router.shell.host import Host
from router.shell.namespaces import OwnNamespace
from tests.namespaces import inside, ping, run
from tests.router.shell.conftest import MTU_BYTES, World
from weavepy.base.errors import UsageError
from weavepy.kernel.netlink import HostError, find_link, links, netlink
from weavepy.kernel.nftables import NftMissing, list_table, run_transaction

pytestmark = pytest.mark.root


def veths(world: World) -> list[str]:
    def names() -> list[str]:
        with netlink() as route:
            return [link.name for link in links(route) if link.kind == "veth"]

    return world.on_host(names)


def interfaces_in(world: World, namespace: Path) -> list[str]:
    def names() -> list[str]:
        with netlink() as route:
            return [link.name for link in links(route)]

    return world.inside(namespace, names)


def test_two_attached_containers_reach_each_other(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12", "fd00::1/64")
    second = world.attach(two, "10.32.0.2/12", "fd00::2/64")

    ping(one, "10.32.0.2")
    ping(two, "10.32.0.1")
    ping(one, "fd00::2")
    ping(two, f"{link_local(first.mac)}%ethwe")
    assert first.mac != second.mac
    assert world.on_host(world.router.dropped) == dict.fromkeys(
        world.on_host(world.router.dropped), 0
    )


def test_attaching_again_changes_nothing_and_says_the_same(world: World) -> None:
    one = world.add("c1")
    first = world.attach(one, "10.32.0.1/12")
    indexes = run("ip", "-n", one.name, "-o", "link")

    again = world.attach(one, "10.32.0.1/12")

    assert again == first
    assert run("ip", "-n", one.name, "-o", "link") == indexes


def test_attaching_again_with_another_address_adds_it(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12", "192.168.7.2/24")

    both = world.attach(one, "192.168.7.1/24")

    assert both.mac == first.mac
    assert [str(it) for it in both.addresses] == ["10.32.0.1/12", "192.168.7.1/24"]
    ping(one, "192.168.7.2")
    ping(one, "10.32.0.2")


def test_a_restarted_router_finds_attachments_in_the_kernel(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12", "fd00::1/64", owner="a" * 64)
    second = world.attach(two, "10.32.0.2/12", owner=str(two))

    assert world.attachments() == sorted([first, second], key=lambda it: it.owner)


def test_routers_with_other_bridges_see_only_their_own(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    other = world.attach_to_another_router(one, "10.99.0.1/16")

    assert [it.interface for it in world.attachments()] == ["ethwe"]
    assert [it.interface for it in world.on_host(other.attachments)] == ["ethwe2"]
    assert world.on_host(other.remove_bridge)
    assert [it.filtered for it in world.attachments()] == [True]


def test_detaching_takes_interface_and_filters_away(world: World) -> None:
    one = world.add("c1")
    facts = world.attach(one, "10.32.0.1/12", "fd00::1/64")

    released = world.on_host(lambda: world.router.detach(namespace=one))

    assert released == facts.addresses
    assert veths(world) == []
    assert interfaces_in(world, one) == ["lo"]
    assert world.attachments() == []
    table = str(world.on_host(lambda: list_table("bridge", "weavepy")))
    assert facts.host_interface not in table
    assert world.on_host(lambda: world.router.detach(namespace=one)) == ()


def test_detaching_one_address_keeps_the_others_of_its_subnet(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    world.attach(one, "10.32.0.1/12", "10.32.0.3/12")
    world.attach(two, "10.32.0.2/12")
    first = ip_interface("10.32.0.1/12")

    released = world.on_host(lambda: world.router.detach(namespace=one, addresses=[first]))

    assert released == (first,)
    assert [str(it) for it in world.attachments()[0].addresses] == ["10.32.0.3/12"]
    assert "10.32.0.1/" not in run("ip", "-n", one.name, "-4", "addr")
    ping(one, "10.32.0.2")
    last = [ip_interface("10.32.0.3/12")]
    world.on_host(lambda: world.router.detach(owner=one.name, addresses=last))
    assert interfaces_in(world, one) == ["lo"]


def test_a_failure_half_way_leaves_nothing(world: World) -> None:
    one = world.add("c1")

    with pytest.raises(HostError, match="kernel refused"):
        world.attach(one, "10.32.0.1/12", "ff02::5/64")  # no interface may have that one

    assert veths(world) == []
    assert interfaces_in(world, one) == ["lo"]
    assert "10.32.0.1" not in str(world.on_host(lambda: list_table("bridge", "weavepy")))


def test_a_failed_addition_leaves_what_was_there(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    first = world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12")

    with pytest.raises(HostError):
        world.attach(one, "10.32.0.9/12", "ff02::5/64")

    assert [it for it in world.attachments() if it.owner == first.owner] == [first]
    assert "10.32.0.9" not in run("ip", "-n", one.name, "addr")
    ping(one, "10.32.0.2")


def test_what_a_killed_attach_left_is_replaced(world: World) -> None:
    one = world.add("c1")
    name = world.attach(one, "10.32.0.1/12").host_interface
    run("ip", "-n", world.host.name, "link", "set", name, "alias", "", "nomaster")

    assert world.attachments() == []
    world.attach(one, "10.32.0.1/12")

    assert len(world.attachments()) == 1


def test_an_interface_that_is_not_ours_is_left_alone(world: World) -> None:
    one = world.add("c1")
    run("ip", "-n", one.name, "link", "add", "ethwe", "type", "bridge")

    with pytest.raises(InterfaceTaken, match="already has an interface ethwe"):
        world.attach(one, "10.32.0.1/12")

    assert "bridge" in run("ip", "-n", one.name, "-d", "link", "show", "ethwe")
    assert veths(world) == []


def test_a_namespace_attached_for_one_owner_is_refused_for_another(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12", owner="first")

    with pytest.raises(InterfaceTaken, match="attached already, for first"):
        world.attach(one, "10.32.0.2/12", owner="second")


def test_one_address_with_two_lengths_is_refused(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")

    with pytest.raises(UsageError, match=r"10\.32\.0\.1/12 is attached already"):
        world.attach(one, "10.32.0.1/24")


def test_the_hosts_own_namespace_is_refused(world: World) -> None:
    def attach_self() -> None:
        pid_path = Path("/proc/thread-self/ns/net")
        world.router.attach(pid_path, "x", [ip_interface("10.32.0.1/12")], MTU_BYTES)

    with pytest.raises(OwnNamespace, match="weavepy expose"):
        world.on_host(attach_self)


def test_an_owner_that_does_not_fit_is_refused_before_anything_happens(world: World) -> None:
    one = world.add("c1")

    with pytest.raises(UsageError, match="too long"):
        world.attach(one, "10.32.0.1/12", owner="x" * 300)

    assert veths(world) == []


def test_without_nft_attach_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.add("c1")
    monkeypatch.setattr("weavepy.kernel.nftables._library", None)
    monkeypatch.setattr("weavepy.kernel.nftables.shutil.which", lambda *_, **__: None)

    with pytest.raises(NftMissing, match="apt-get install nftables"):
        world.attach(one, "10.32.0.1/12")
    assert veths(world) == []

    world.router = Host(filters=False)
    assert world.attach(one, "10.32.0.1/12").filtered is False
    found = world.on_host(world.router.attachments)
    assert [str(it) for it in found[0].addresses] == ["10.32.0.1/12"]


def test_flushed_filters_are_noticed_and_restored_by_attaching_again(world: World) -> None:
    one = world.add("c1")
    first = world.attach(one, "10.32.0.1/12")
    world.on_host(lambda: run_transaction("flush ruleset\n"))
    assert [it.filtered for it in world.attachments()] == [False]

    assert world.attach(one, "10.32.0.1/12") == first

    assert world.attachments() == [first]


def test_a_namespace_without_its_path_is_reported_dead(world: World) -> None:
    one = world.add("c1")
    first = world.attach(one, "10.32.0.1/12")
    with subprocess.Popen(
        ["ip", "netns", "exec", one.name, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"in\n")
        holder.stdin.flush()
        holder.stdout.readline()  # it runs, inside
        run("ip", "netns", "del", one.name)
        run("ip", "netns", "add", one.name)  # another namespace under the same path

        found = world.attachments()
        released = world.on_host(lambda: world.router.detach(owner=first.owner))
        holder.stdin.close()

    assert [(it.owner, it.alive, it.addresses) for it in found] == [
        (first.owner, False, first.addresses)
    ]
    assert released == first.addresses
    assert veths(world) == []


def test_the_same_owner_in_a_new_namespace_replaces_its_old_self(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    old = world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12")
    with world.inside(one, socket.socket):  # keeps the old namespace alive
        run("ip", "netns", "del", one.name)
        run("ip", "netns", "add", one.name)

        new = world.attach(one, "10.32.0.1/12")

        assert new.host_interface != old.host_interface
        assert [it for it in world.attachments() if it.owner == old.owner] == [new]
        ping(one, "10.32.0.2")


def test_filters_of_vanished_veths_do_not_pile_up(world: World) -> None:
    one, two, three = world.add("c1"), world.add("c2"), world.add("c3")
    gone, stays = world.attach(one, "10.32.0.1/12"), world.attach(two, "10.32.0.2/12")
    run("ip", "-n", world.host.name, "link", "del", gone.host_interface)

    world.attach(three, "10.32.0.3/12")

    table = str(world.on_host(lambda: list_table("bridge", "weavepy")))
    assert gone.host_interface not in table
    assert stays.host_interface in table


def test_new_addresses_are_announced_on_the_wire(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    world.attach(two, "10.32.0.2/12")
    with world.inside(two, listening) as wire:
        facts = world.attach(one, "10.32.0.1/12", "fd00::1/64")
        arp_and_na: list[bytes] = []
        while len(arp_and_na) < 2:
            frame = wire.recv(2048)
            is_arp = frame[12:14] == b"\x08\x06"
            if is_arp or (frame[12:14] == b"\x86\xdd" and frame[54:55] == b"\x88"):
                arp_and_na.append(frame)

    mac = bytes.fromhex(facts.mac.replace(":", ""))
    arp, advertisement = arp_and_na
    address = ip_interface("10.32.0.1/12").ip.packed
    assert arp[:12] == b"\xff" * 6 + mac
    assert arp[22:32] == mac + address
    assert arp[38:42] == address
    assert advertisement[62:78] == ip_interface("fd00::1/64").ip.packed
    assert advertisement[80:86] == mac


def listening() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("ethwe", 3))
    wire.settimeout(5)
    return wire


def test_the_mtu_changes_on_bridge_and_both_ends(world: World) -> None:
    one = world.add("c1")
    facts = world.attach(one, "10.32.0.1/12")

    world.on_host(lambda: world.router.set_mtu(1300))

    assert "mtu 1300" in run("ip", "-n", one.name, "link", "show", "ethwe")
    host = world.host.name
    assert "mtu 1300" in run("ip", "-n", host, "link", "show", facts.host_interface)
    assert "mtu 1300" in run("ip", "-n", host, "link", "show", "weave")


def test_offloads_stay_on_so_that_large_frames_stay_whole(world: World) -> None:
    one = world.add("c1")
    facts = world.attach(one, "10.32.0.1/12")

    assert world.on_host(lambda: tso_of(facts.host_interface)) == 1
    assert world.inside(one, lambda: tso_of("ethwe")) == 1


def tso_of(interface: str) -> int:
    import array
    import fcntl

    value = array.array("I", [0x1E, 0])  # ETHTOOL_GTSO
    request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8946, request)
    return value[1]


def test_multicast_goes_over_the_overlay_unless_it_has_a_way(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    run("ip", "-n", two.name, "route", "add", "224.0.0.0/4", "dev", "lo")
    world.attach(one, "10.32.0.1/12")
    world.attach(two, "10.32.0.2/12")

    assert "224.0.0.0/4 dev ethwe" in run("ip", "-n", one.name, "route")
    assert "224.0.0.0/4 dev lo" in run("ip", "-n", two.name, "route")
    assert "224.0.0.0/4 dev ethwe" not in run("ip", "-n", two.name, "route")


def test_ipv6_works_where_the_container_has_it_switched_off(world: World) -> None:
    one, two = world.add("c1"), world.add("c2")
    for namespace in (one, two):
        inside(namespace, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    world.attach(one, "fd00::1/64")
    world.attach(two, "fd00::2/64")

    ping(one, "fd00::2")


def test_removing_the_bridge_removes_all_that_is_ours(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    run("ip", "-n", world.host.name, "link", "add", "other", "type", "bridge")

    assert world.on_host(world.router.remove_bridge)

    assert interfaces_in(world, world.host) == ["lo", "other"]
    assert inside(world.host, "nft", "list", "ruleset") == ""
    assert not world.on_host(world.router.remove_bridge)


def test_a_process_id_leads_to_its_namespace(world: World) -> None:
    one = world.add("c1")
    with subprocess.Popen(
        ["ip", "netns", "exec", one.name, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"in\n")
        process.stdin.flush()
        process.stdout.readline()
        by_name = world.attach(one, "10.32.0.1/12", owner="c")

        by_pid = world.attach(Path(f"/proc/{process.pid}/ns/net"), "10.32.0.1/12", owner="c")
        process.stdin.close()

    assert by_pid == by_name


def test_no_descriptor_or_thread_is_left_open(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12")
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        world.attach(one, "10.32.0.1/12")
        world.attachments()

    assert len(os.listdir("/proc/self/fd")) <= before, "what was closed late may be fewer"


def test_the_tap_becomes_a_port_of_the_bridge(world: World) -> None:
    host = world.host.name
    run("ip", "-n", host, "tuntap", "add", "dev", "weavetap", "mode", "tap")

    for _ in range(2):
        world.on_host(lambda: world.router.enslave("weavetap"))

    def master_of_tap() -> bool:
        with netlink() as route:
            tap, bridge = find_link(route, "weavetap"), find_link(route, "weave")
            assert tap is not None
            assert bridge is not None
            return tap.master == bridge.index and tap.up

    assert world.on_host(master_of_tap)
    with pytest.raises(HostError, match="no interface nothere"):
        world.on_host(lambda: world.router.enslave("nothere"))


@pytest.mark.parametrize("mac", ["01:00:00:00:00:01", "02:00:00:00:00", '02:00:00:00:00:01" drop'])
def test_a_mac_that_is_none_is_refused(world: World, mac: str) -> None:
    one = world.add("c1")

    with pytest.raises(UsageError, match="not a unicast MAC"):
        world.on_host(lambda: world.router.attach(one, "c", [], MTU_BYTES, mac=mac))


def test_a_given_mac_is_used_and_stays(world: World) -> None:
    one = world.add("c1")
    wanted = [ip_interface("10.32.0.1/12")]
    mac = "02:00:00:00:00:17"

    first = world.on_host(lambda: world.router.attach(one, "c", wanted, MTU_BYTES, mac=mac))
    again = world.on_host(lambda: world.router.attach(one, "c", wanted, MTU_BYTES))

    assert first.mac == again.mac == mac
    assert mac in run("ip", "-n", one.name, "link", "show", "ethwe")

import socket
from ipaddress import ip_interface
from pathlib import Path

import pytest

from router.shell.expose import masqueraded
from router.shell.host import Host
from tests.namespaces import inside, ping, run
from tests.router.shell.conftest import World

pytestmark = pytest.mark.root

PORT = 4000


class Outside:
    """A machine beyond the host, on a link of its own: host .1, outside .2."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.namespace = world.add("outside")
        host, outside = world.host.name, self.namespace.name
        run(
            "ip", "-n", host, "link", "add", "up0", "type", "veth", "peer", "eth0", "netns", outside
        )
        for name, interface, number in ((host, "up0", 1), (outside, "eth0", 2)):
            run("ip", "-n", name, "addr", "add", f"198.51.100.{number}/24", "dev", interface)
            run("ip", "-n", name, "addr", "add", f"fd01::{number}/64", "dev", interface, "nodad")
            # Else neighbours are not asked for a second: the link-local address is not settled.
            inside(Path(name), "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
            run("ip", "-n", name, "link", "set", interface, "up")
        run("ip", "-n", host, "route", "add", "default", "via", "198.51.100.2")
        run("ip", "-n", host, "route", "add", "default", "via", "fd01::2")

    def route_to_overlay(self) -> None:
        run("ip", "-n", self.namespace.name, "route", "add", "10.32.0.0/12", "via", "198.51.100.1")
        run("ip", "-n", self.namespace.name, "route", "add", "fd00::/64", "via", "fd01::1")


def source_seen(
    world: World, sender: Path, receiver: Path, address: str, asked: str = ""
) -> str | None:
    """What a datagram from one namespace to an address in another comes from; None if lost.

    `asked`: where it is sent, if that is not the address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.settimeout(1)
        listener.bind((address, PORT))
        return listener

    def send() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            out.sendto(b"hello", (asked or address, PORT))

    with world.inside(receiver, listen) as listener:
        world.inside(sender, send)
        try:
            return str(listener.recvfrom(16)[1][0])
        except TimeoutError:
            return None


def expose(world: World, *addresses: str, masquerade: bool) -> None:
    wanted = [ip_interface(address) for address in addresses]
    world.on_host(lambda: world.router.expose(wanted, masquerade))


def container_with_way_out(world: World) -> Path:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12", "fd00::1/64")
    run("ip", "-n", one.name, "route", "add", "default", "via", "10.32.0.100")
    run("ip", "-n", one.name, "route", "add", "default", "via", "fd00::100")
    return one


def test_an_exposed_host_and_its_containers_reach_each_other(world: World) -> None:
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12", "fd00::1/64")

    for _ in range(2):
        expose(world, "10.32.0.100/12", "fd00::100/64", masquerade=False)

    ping(one, "10.32.0.100")
    ping(one, "fd00::100")
    ping(world.host, "10.32.0.1")
    exposed = world.on_host(world.router.exposed)
    assert [str(address) for address in exposed] == ["10.32.0.100/12", "fd00::100/64"]


@pytest.mark.parametrize(
    ("address", "translated"), [("198.51.100.2", "198.51.100.1"), ("fd01::2", "fd01::1")]
)
def test_what_leaves_the_overlay_is_masqueraded(
    world: World, address: str, translated: str
) -> None:
    outside = Outside(world)
    one = container_with_way_out(world)
    expose(world, "10.32.0.100/12", "fd00::100/64", masquerade=True)

    assert source_seen(world, one, outside.namespace, address) == translated
    ping(one, address)  # and back


@pytest.mark.parametrize(
    ("address", "source"), [("198.51.100.2", "10.32.0.1"), ("fd01::2", "fd00::1")]
)
def test_without_masquerade_the_source_stays(world: World, address: str, source: str) -> None:
    outside = Outside(world)
    one = container_with_way_out(world)
    expose(world, "10.32.0.100/12", "fd00::100/64", masquerade=False)

    assert source_seen(world, one, outside.namespace, address) == source
    outside.route_to_overlay()
    ping(one, address)  # and back


@pytest.mark.parametrize("masquerade", [False, True])
def test_answers_come_back_by_an_interface_without_the_default_route(
    world: World, masquerade: bool
) -> None:
    outside = Outside(world)
    outside.route_to_overlay()
    run("ip", "-n", world.host.name, "route", "del", "default")
    one = container_with_way_out(world)
    expose(world, "10.32.0.100/12", masquerade=masquerade)

    ping(one, "198.51.100.2")


def test_a_subnet_is_masqueraded_only_if_that_was_asked_for_it(world: World) -> None:
    outside = Outside(world)
    plain = world.add("c2")
    world.attach(plain, "192.168.7.1/24")
    run("ip", "-n", plain.name, "route", "add", "default", "via", "192.168.7.100")
    expose(world, "192.168.7.100/24", masquerade=False)
    one = container_with_way_out(world)
    expose(world, "10.32.0.100/12", masquerade=True)
    expose(world, "192.168.6.100/24", "192.168.4.100/24", "192.168.5.100/24", masquerade=True)

    assert source_seen(world, one, outside.namespace, "198.51.100.2") == "198.51.100.1"
    assert source_seen(world, plain, outside.namespace, "198.51.100.2") == "192.168.7.1"

    world.on_host(lambda: world.router.hide([ip_interface("192.168.5.100/24")]))
    networks = {str(subnet) for subnet in world.on_host(lambda: masqueraded("weave"))}
    assert networks == {"10.32.0.0/12", "192.168.4.0/24", "192.168.6.0/24"}


@pytest.mark.parametrize(
    ("address", "translated"), [("10.32.0.1", "10.32.0.100"), ("fd00::1", "fd00::100")]
)
def test_what_enters_from_outside_comes_from_the_exposed_address(
    world: World, address: str, translated: str
) -> None:
    outside = Outside(world)
    one = world.add("c1")
    world.attach(one, "10.32.0.1/12", "fd00::1/64")  # no route back to the outside
    outside.route_to_overlay()
    expose(world, "10.32.0.100/12", "fd00::100/64", masquerade=True)

    assert source_seen(world, outside.namespace, one, address) == translated
    ping(outside.namespace, address)


@pytest.mark.parametrize(("is_node", "source"), [(False, "10.32.0.100"), (True, "198.51.100.2")])
def test_what_a_node_itself_sends_on_to_a_container_keeps_its_source(
    world: World, is_node: bool, source: str
) -> None:
    outside = Outside(world)
    one = container_with_way_out(world)
    world.router = Host(world.router.bridge, is_node=is_node)
    expose(world, "10.32.0.100/12", masquerade=True)
    script = (
        "add table ip published;"
        "add chain ip published in { type nat hook prerouting priority -100; };"
        f"add rule ip published in ip daddr 198.51.100.1 udp dport {PORT} dnat to 10.32.0.1"
    )
    inside(world.host, "nft", script)

    seen = source_seen(world, outside.namespace, one, "10.32.0.1", asked="198.51.100.1")
    assert seen == source


def test_traffic_inside_the_overlay_is_never_translated(world: World) -> None:
    """Also where br_netfilter shows bridged packets to the rules, as it does by default."""
    one, two = world.add("c1"), world.add("c2")
    world.attach(one, "10.32.0.1/12", "192.168.7.1/24")
    world.attach(two, "10.32.0.2/12", "192.168.7.2/24")
    expose(world, "10.32.0.100/12", masquerade=True)

    assert source_seen(world, one, two, "10.32.0.2") == "10.32.0.1"
    assert source_seen(world, one, two, "192.168.7.2") == "192.168.7.1"
    run(
        "ip",
        "-n",
        one.name,
        "route",
        "replace",
        "10.32.0.2/32",
        "dev",
        "ethwe",
        "src",
        "192.168.7.1",
    )
    assert source_seen(world, one, two, "10.32.0.2") == "192.168.7.1"
    assert source_seen(world, world.host, one, "10.32.0.1") == "10.32.0.100"


def test_hiding_takes_the_address_and_the_masquerade_away(world: World) -> None:
    outside = Outside(world)
    one = container_with_way_out(world)
    expose(world, "10.32.0.100/12", "192.168.7.100/24", masquerade=True)
    first = ip_interface("10.32.0.100/12")

    assert world.on_host(lambda: world.router.hide([first])) == (first,)

    assert [str(it) for it in world.on_host(world.router.exposed)] == ["192.168.7.100/24"]
    assert "10.32.0.0" not in inside(world.host, "nft", "list", "table", "inet", "weavepy")
    run("ip", "-n", world.host.name, "addr", "add", "10.32.0.100/12", "dev", "weave")
    assert source_seen(world, one, outside.namespace, "198.51.100.2") == "10.32.0.1"
    assert len(world.on_host(world.router.hide)) == 2
    assert world.on_host(world.router.hide) == ()


def test_a_failed_expose_leaves_nothing(world: World) -> None:
    with pytest.raises(Exception, match="kernel refused"):
        expose(world, "10.32.0.100/12", "ff02::5/64", masquerade=True)

    assert world.on_host(world.router.exposed) == ()


def test_foreign_tables_are_left_alone(world: World) -> None:
    inside(world.host, "nft", "add", "table", "inet", "theirs")
    expose(world, "10.32.0.100/12", masquerade=True)
    world.on_host(world.router.hide)

    world.on_host(world.router.remove_bridge)

    assert inside(world.host, "nft", "list", "tables").split() == ["table", "inet", "theirs"]

"""The overlay's MTU: from the underlay, per host, and no packet lost in silence where hosts differ.

A host whose interface takes 1500 bytes in a network that takes 9000 is the classical trap: what is
too large for it vanishes at its switch port, and at its own bridge, without a word.
"""

import socket

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.test_path_mtu import link_local
from tests.e2e.traffic import transfer
from tests.e2e.tunnels import AUTO, VXLAN, both_ways, wait_for_overlay
from tests.e2e.waiting import connection, wait_for
from weavepy.lab.lab import Lab

LARGE = 8900
SMALL = 1400
FOLLOWED_S = 12.0
"""A look each 5 s, and as long for what follows from it on a busy machine."""

DATA = bytes(range(256)) * 8192


def mtus(lab: Lab, host: str) -> tuple[int, int]:
    """Of the host, and of its first container."""
    return lab.api(host).status().datapath.mtu_bytes, container_mtu(lab, f"{host}c1")


def container_mtu(lab: Lab, container: str) -> int:
    return int(lab.exec(container, ["cat", "/sys/class/net/ethwe/mtu"]).stdout)


def set_underlay(lab: Lab, host: str, mtu_bytes: int) -> None:
    other = 1 if host == "h2" else 2
    lab.exec(host, ["ip", "link", "set", f"u{other}", "mtu", str(mtu_bytes)])


def wait_for_mtus(lab: Lab, wanted: dict[str, int]) -> None:
    wait_for(
        lambda: {name: mtus(lab, name) for name in wanted},
        lambda seen: seen == {name: (mtu, mtu) for name, mtu in wanted.items()},
        FOLLOWED_S,
    )


@pytest.mark.parametrize(
    ("mtu_bytes", "options", "wanted"),
    [(9000, AUTO, 8900), (1500, AUTO, 1400), (9000, VXLAN, 8950), (1500, VXLAN, 1450)],
    ids=["9000", "1500", "9000 for VXLAN only", "1500 for VXLAN only"],
)
def test_it_follows_from_the_underlay_and_full_packets_pass_by_the_fast_path(
    make_lab: MakeLab, mtu_bytes: int, options: list[str], wanted: int
) -> None:
    lab = make_lab(hosts=2, containers=1, mtu_bytes=mtu_bytes, launch_options=options)
    wait_for_mtus(lab, {"h1": wanted, "h2": wanted})
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")
    assert pings(lab, "h1c1", "h2c1", wanted, fragment=False)
    assert not pings(lab, "h1c1", "h2c1", wanted + 1, fragment=False)


def test_hosts_of_different_mtus_lose_no_packet_and_find_back_when_they_are_equal(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=2, containers=1, mtu_bytes=9000, launch_options=AUTO)
    fast = both_ways(("h1", "h2"))
    wait_for_overlay(lab, fast, "fastdp")
    wait_for_mtus(lab, {"h1": LARGE, "h2": LARGE})

    set_underlay(lab, "h2", 1500)
    wait_for_mtus(lab, {"h1": LARGE, "h2": SMALL})
    wait_for_overlay(lab, fast, "sleeve")
    found = connection(lab, "h1", "h2")
    assert found is not None
    assert f"the other end's overlay MTU is {SMALL}, and ours {LARGE}" in found.info

    told = {peer.nickname: peer.mtu_bytes for peer in lab.api("h1").status().peers}
    assert told == {"h1": LARGE, "h2": SMALL}

    assert_all_sizes_pass(lab, "h1c1", "h2c1")
    assert_all_sizes_pass(lab, "h2c1", "h1c1")

    set_underlay(lab, "h2", 9000)
    wait_for_mtus(lab, {"h1": LARGE, "h2": LARGE})
    wait_for_overlay(lab, fast, "fastdp")
    assert pings(lab, "h2c1", "h1c1", LARGE, fragment=False), "it was never told of less"


def test_a_host_that_was_told_a_smaller_mtu_gets_what_fits_it_through_a_large_path(
    make_lab: MakeLab,
) -> None:
    """The path takes 9000 bytes, and so nobody but the other host's word says what fits."""
    lab = make_lab(hosts=3, containers=1, topology="chain", mtu_bytes=9000, launch_options=AUTO)
    lab.router("h3", "stop")
    with lab.store.changing() as state:
        state.launch_options += ["--mtu", str(SMALL)]
    lab.router("h3", "start")
    wait_for_mtus(lab, {"h1": LARGE, "h3": SMALL})
    wait_for_overlay(lab, [("h2", "h3"), ("h3", "h2")], "sleeve")
    wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")

    for one, other in (("h1c1", "h3c1"), ("h2c1", "h3c1")):
        assert_all_sizes_pass(lab, one, other)
        assert_all_sizes_pass(lab, other, one)


def assert_all_sizes_pass(lab: Lab, source: str, destination: str) -> None:
    """What may not be fragmented is answered, what may be arrives in pieces, TCP just flows."""
    own = container_mtu(lab, source)
    fits = min(own, container_mtu(lab, destination))
    assert pings(lab, source, destination, own, fragment=True), f"{own} bytes, in fragments"
    assert pings(lab, source, destination, fits, fragment=False)
    if fits < own:
        shown = ping(lab, source, destination, own, fragment=False, count=2)
        assert f"mtu = {fits}" in shown or f"mtu={fits}" in shown, shown
        there = link_local(lab, destination)
        lab.exec(source, ["ping", "-M", "do", "-c", "2", "-W", "1", "-s", str(own - 48), there])
        route = lab.exec(source, ["ip", "-6", "route", "get", *there.replace("%", " dev ").split()])
        assert f"mtu {fits}" in route.stdout, route.stdout
    assert datagram(lab, source, destination, 6000), "one datagram of 6000 bytes"
    assert transfer(lab, source, destination, DATA) == len(DATA)


def ping(
    lab: Lab, source: str, destination: str, size: int, *, fragment: bool, count: int = 1
) -> str:
    how = "dont" if fragment else "do"
    command = ["ping", "-M", how, "-c", str(count), "-W", "2", "-s", str(size - 28)]
    done = lab.exec(source, [*command, lab.address(destination)])
    return done.stdout + done.stderr


def pings(lab: Lab, source: str, destination: str, size: int, *, fragment: bool) -> bool:
    return "1 received" in ping(lab, source, destination, size, fragment=fragment)


def datagram(lab: Lab, source: str, destination: str, size: int) -> bool:
    """Sent as Linux does by default: with DF until the path is known, then in fragments."""
    address = lab.address(destination)

    def made() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with lab.inside(source, made) as sender, lab.inside(destination, made) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(1)
        for _ in range(3):
            try:
                sender.sendto(bytes(size), receiver.getsockname())
                return len(receiver.recv(65535)) == size
            except (TimeoutError, OSError):
                continue
    return False

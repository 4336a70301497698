"""A gateway lets out and not in, forgets, and opens a port; a host moves."""

import socket
from collections.abc import Callable

import pytest

from tests.weavepy.lab.conftest import needs_root
from weavepy.base.errors import UsageError
from weavepy.lab import nat, wire
from weavepy.lab.plan import Plan, make_plan, parse_hosts
from weavepy.lab.system import in_namespace


def test_a_host_behind_nat_dials_and_is_not_dialled() -> None:
    plan = make_plan(hosts=3, nat=[1, 3])
    assert plan.targets(1) == ["10.99.0.2"]
    assert plan.targets(2) == []
    assert plan.targets(3) == ["10.99.0.9"]
    assert plan.neighbours(1) == [2], "two hosts behind NAT cannot reach each other"
    assert plan.neighbours(2) == [1, 3]
    assert "weavepy-lab-h1g" in plan.namespaces
    assert "weavepy-lab-h2g" not in plan.namespaces


def test_hosts_are_named_in_a_list() -> None:
    assert parse_hosts("h1, h3") == [1, 3]
    assert parse_hosts("") == []
    for wrong in ("h0", "1", "h1c1", "wire"):
        with pytest.raises(UsageError):
            parse_hosts(wrong)
    with pytest.raises(UsageError, match="h4"):
        make_plan(hosts=3, nat=[4])


def test_links_take_turns_in_a_mixed_underlay() -> None:
    plan = make_plan(hosts=3, family="mixed")
    assert [link.family for link in plan.links] == ["ipv4", "ipv6", "ipv4"]
    assert plan.links[1].ends[0].address == "fd99::5"
    assert plan.links[1].ends[0].moved_address == "fd98::5"
    with pytest.raises(UsageError, match="1280"):
        make_plan(family="ipv6", mtu_bytes=1000)
    with pytest.raises(UsageError, match="ipx"):
        make_plan(family="ipx")


class Ends:
    """A datagram socket in h1, which is behind NAT, and one in h2."""

    def __init__(self, plan: Plan, family: str) -> None:
        kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
        one, two = (plan.namespace(plan.node(name)) for name in ("h1", "h2"))
        self.inner = in_namespace(one, lambda: socket.socket(kind, socket.SOCK_DGRAM))
        self.outer = in_namespace(two, lambda: socket.socket(kind, socket.SOCK_DGRAM))
        end, outer = (link_end.address for link_end in plan.links[0].ends)
        self.gateway = end
        self.inner.bind(("", 6783))
        self.outer.bind((outer, 6783))
        for made in (self.inner, self.outer):
            made.settimeout(0.5)

    def outwards(self) -> tuple[str, int]:
        """Send one out, and return where it seems to come from."""
        self.inner.sendto(b"out", self.outer.getsockname()[:2])
        _, address = self.outer.recvfrom(100)
        return address[0], address[1]

    def inwards(self, to: tuple[str, int]) -> bool:
        self.outer.sendto(b"in", to)
        try:
            return self.inner.recv(100) == b"in"
        except OSError:
            return False


@needs_root
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_gateway_lets_answers_in_until_it_forgets(
    built: Callable[..., Plan], family: str
) -> None:
    plan = built(hosts=2, containers=0, nat=[1], family=family)
    ends = Ends(plan, family)
    assert not ends.inwards((ends.gateway, 6783)), "nobody asked for it"
    first = ends.outwards()
    assert first[0] == ends.gateway
    assert first[1] != 6783
    assert ends.inwards(first)
    nat.masquerade(plan, 1, 1)
    assert not ends.inwards(first)
    second = ends.outwards()
    assert second[1] != first[1]
    assert ends.inwards(second)
    nat.open_port(plan, 1, 6783)
    assert ends.inwards((ends.gateway, 6783))
    for made in (ends.inner, ends.outer):
        made.close()


@needs_root
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_host_that_moves_is_reached_at_its_new_address_only(
    built: Callable[..., Plan], family: str
) -> None:
    plan = built(hosts=2, containers=0, family=family)
    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    one, two = (plan.namespace(plan.node(name)) for name in ("h1", "h2"))
    end = plan.links[0].ends[1]
    with (
        in_namespace(one, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as sender,
        in_namespace(two, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as receiver,
    ):
        receiver.bind(("", 9))
        receiver.settimeout(1.0)

        def reached(address: str) -> bool:
            sender.sendto(b"x", (address, 9))
            try:
                return receiver.recv(10) == b"x"
            except TimeoutError:
                return False

        def reached_soon(address: str) -> bool:
            return any(reached(address) for _ in range(5))

        assert reached_soon(end.address)
        for away in (True, False):
            wire.move(plan, 2, away=away)
            assert reached_soon(end.moved_address if away else end.address)
            assert not reached(end.address if away else end.moved_address)

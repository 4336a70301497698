"""What can be launched, and what is refused with which words."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy.base.errors import UsageError
from weavepy.base.settings import Directories
from weavepy.daemon.options import Options, RingStart, check_target, parse_ring_start

WHERE = Directories(run=Path("/run/x"), state=Path("/var/lib/x"))


def test_the_defaults_are_those_of_the_design() -> None:
    options = Options.parse(where=WHERE)
    assert options.port == 6783
    assert options.http_address == ("127.0.0.1", 6782)
    assert options.universe == options.default_subnet == ipaddress.ip_network("10.32.0.0/12")
    assert options.ring_start == RingStart("consensus")
    assert options.encrypted
    assert options.discovery
    assert options.connection_limit == 100


def test_a_launch_that_trusts_subnets_is_started_again_with_them() -> None:
    options = Options.parse(fastdp="vxlan", trusted_subnets="10.0.0.0/8, fd00::/8", where=WHERE)
    assert [str(subnet) for subnet in options.trusted_subnets] == ["10.0.0.0/8", "fd00::/8"]
    assert "--trusted-subnets=10.0.0.0/8,fd00::/8" in options.arguments()
    assert "--fastdp=vxlan" in options.arguments()
    assert options.shown()["trusted-subnets"] == "10.0.0.0/8,fd00::/8"
    assert Options.parse(where=WHERE).fastdp == "auto"


def test_a_launch_that_advertises_addresses_is_started_again_with_them() -> None:
    options = Options.parse(advertise=("gw.example:7000", "[fd01::1]:6783"), where=WHERE)
    assert "--advertise=gw.example:7000" in options.arguments()
    assert "--advertise=[fd01::1]:6783" in options.arguments()
    assert options.shown()["advertise"] == "gw.example:7000 [fd01::1]:6783"
    assert Options.parse(where=WHERE).shown()["advertise"] == "auto"


def test_an_ipv6_universe_is_allowed() -> None:
    options = Options.parse(ipalloc_range="fd00:1::/64", where=WHERE)
    assert options.default_subnet.version == 6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ipalloc_range": "10.32.0.0/33"}, "not a subnet"),
        ({"ipalloc_range": "10.32.0.1/12"}, "did you mean 10.32.0.0/12"),
        ({"ipalloc_range": "10.32.0.0/31"}, "too small"),
        ({"ipalloc_default_subnet": "10.0.0.0/8"}, "not inside"),
        ({"ipalloc_default_subnet": "fd00::/64"}, "not inside"),
        ({"ipalloc_init": "concensus"}, "expected consensus"),
        ({"ipalloc_init": "consensus=0"}, "1 to 4096"),
        ({"ipalloc_init": "consensus=-3"}, "expected consensus"),
        ({"ipalloc_init": "consensus="}, "expected consensus"),
        ({"ipalloc_init": "seed="}, "expected consensus"),
        ({"ipalloc_init": "seed=host1"}, "not a peer name"),
        ({"ipalloc_init": "observer=1"}, "expected consensus"),
        ({"advertise": ("gw.example:x",)}, "1 to 65535"),
        ({"advertise": ("gw.example",) * 9}, "8 times"),
        ({"port": 0}, "1 to 65535"),
        ({"port": 65536}, "1 to 65535"),
        ({"http_addr": "127.0.0.1"}, "ADDRESS:PORT"),
        ({"http_addr": "localhost:80"}, "ADDRESS:PORT"),
        ({"http_addr": "127.0.0.1:0"}, "1 to 65535"),
        ({"mtu": 575}, "576 to"),
        ({"mtu": 70_000}, "576 to"),
        ({"connection_limit": 0}, "1 to 4096"),
        ({"fastdp": "ovn"}, "expected one of auto, ovs, vxlan, off"),
        ({"trusted_subnets": "10.0.0.1/8"}, "did you mean 10.0.0.0/8"),
        ({"trusted_subnets": "10.0.0.0/8,office"}, "not a subnet"),
        ({"bridge": ""}, "cannot name an interface"),
        ({"bridge": "sixteen-letters-"}, "cannot name an interface"),
        ({"bridge": "a/b"}, "cannot name an interface"),
        ({"bridge": ".."}, "cannot name an interface"),
        ({"nickname": ""}, "printable"),
        ({"nickname": "bell\a"}, "printable"),
        ({"nickname": "x" * 64}, "1 to 63"),
        ({"log_level": "chatty"}, "expected one of"),
        ({"peers": ("host:0",)}, "1 to 65535"),
    ],
)
def test_what_is_wrong_is_refused_with_what_would_be_right(
    wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Options.parse(where=WHERE, **wrong)


@pytest.mark.parametrize(
    "text",
    ["host1", "host1:6799", "192.0.2.1", "192.0.2.1:1", "2001:db8::1", "[2001:db8::1]:65535"],
)
def test_addresses_of_peers_are_taken_as_they_are(text: str) -> None:
    assert check_target(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":6783",
        "host:",
        "host:x",
        "-host",
        "a b",
        "999.0.0.1",
        "1.2.3",
        "[host]:1",
        "[::1",
        "h/1",
    ],
)
def test_what_no_peer_can_be_reached_at_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        check_target(text)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for parse in (check_target, parse_ring_start):
        try:
            parse(text)
        except UsageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text", ["consensus", "consensus=3", "observer", "seed=7a:0c:00:00:00:01,7a:0c:00:00:00:02"]
)
def test_a_ring_start_prints_as_it_is_typed(text: str) -> None:
    assert str(parse_ring_start(text)) == text


def test_the_secret_is_in_nothing_that_is_shown_or_passed_on() -> None:
    options = Options.parse(where=WHERE).with_secret(b"\xabS" * 16, encrypted=True)
    shown = f"{options!r} {options.arguments()} {options.shown()}"
    assert options.secret.hex() not in shown
    assert repr(options.secret)[2:10] not in shown


def test_the_report_shows_every_option_but_the_secret() -> None:
    assert "secret" not in Options.parse(where=WHERE).shown()
    assert Options.parse(mtu=1400, where=WHERE).shown()["mtu"] == "1400"
    assert Options.parse(where=WHERE).shown()["mtu"] == "auto"
    assert Options.parse(http_addr="[::1]:80", where=WHERE).shown()["http-addr"] == "[::1]:80"

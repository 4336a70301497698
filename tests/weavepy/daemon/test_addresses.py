from ipaddress import ip_interface, ip_network

import pytest

from weavepy.base.errors import UsageError
from weavepy.daemon.addresses import MAX_ADDRESSES, AnyIn, Exactly, parse_interface, parse_wanted

DEFAULT = ip_network("10.32.0.0/12")


def test_nothing_asked_for_means_one_address_of_the_default_subnet() -> None:
    assert parse_wanted([], DEFAULT) == [AnyIn(DEFAULT)]


def test_subnets_and_addresses_are_told_apart_and_keep_their_order() -> None:
    wanted = parse_wanted(["ip:10.32.1.5/16", "net:10.40.0.0/24", "net:default"], DEFAULT)
    assert wanted == [
        Exactly(ip_interface("10.32.1.5/16")),
        AnyIn(ip_network("10.40.0.0/24")),
        AnyIn(DEFAULT),
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.32.0.1/12", "expected net:default"),
        ("net:10.32.0.1/12", "not a subnet"),
        ("ip:10.32.0.1", "ADDRESS/LENGTH"),
        ("ip:10.32.0.300/12", "ADDRESS/LENGTH"),
        ("ip:10.32.0.0/24", "subnet itself"),
        ("ip:10.32.0.255/24", "broadcast"),
        ("host:web", "expected net:default"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_wanted([text], DEFAULT)


def test_both_addresses_of_a_point_to_point_subnet_are_usable() -> None:
    assert str(parse_interface("10.32.0.0/31")) == "10.32.0.0/31"


def test_more_addresses_than_an_attachment_may_have_are_refused() -> None:
    with pytest.raises(UsageError, match="too many"):
        parse_wanted(["net:default"] * (MAX_ADDRESSES + 1), DEFAULT)

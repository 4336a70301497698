"""What pods ask for by annotation, with a stand-in for what the API server has told of them."""

import asyncio
from ipaddress import ip_network

import pytest

from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon import requested
from weavepy.daemon.api import NotReady
from weavepy.daemon.requested import RequestedAddresses

SUBNET = ip_network("10.32.0.0/16")


def asks(interface: str = "eth0", pod: str = "shop/db-0") -> schema.CniAddRequest:
    return schema.CniAddRequest(
        network="weavepy",
        container="c1",
        interface=interface,
        kind="interface",
        namespace="/run/netns/c1",
        pod=pod,
    )


def of(
    said: str | None, allowed: bool = True, request: schema.CniAddRequest | None = None
) -> list[str]:
    addresses = RequestedAddresses(lambda pod, uid: said, allowed)
    return [str(each) for each in asyncio.run(addresses.of(request or asks(), SUBNET))]


def test_a_pod_gets_what_its_annotation_says() -> None:
    assert of("10.32.5.6") == ["10.32.5.6/16"]
    assert of(" 10.32.5.6, 10.32.5.7,10.32.5.6 ") == ["10.32.5.6/16", "10.32.5.7/16"]
    assert of("") == []


def test_the_annotation_is_about_the_first_interface_of_a_pod() -> None:
    assert of("10.32.5.6", request=asks(interface="net1")) == []
    assert of("10.32.5.6", request=asks(pod="")) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("10.33.5.6", "shop/db-0 asks for 10.33.5.6, which is not in the network's subnet"),
        ("fd00::1", "not in the network's subnet"),
        ("10.32.5.6/24", "which is no address"),
        ("any", "which is no address"),
        (",", "which is no address"),
        (",".join(f"10.32.0.{number}" for number in range(1, 66)), "more than 64"),
    ],
)
def test_what_cannot_be_meant_is_an_error(said: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        of(said)


def test_a_pod_that_may_not_ask_is_told_so() -> None:
    with pytest.raises(UsageError, match="start the routers with --allow-requested-addresses"):
        of("10.32.5.6", allowed=False)
    assert of("", allowed=False) == []


def test_a_pod_that_is_not_known_yet_is_waited_for() -> None:
    answers = [None, None, "10.32.5.6"]
    addresses = RequestedAddresses(lambda pod, uid: answers.pop(0), allowed=True)
    [address] = asyncio.run(addresses.of(asks(), SUBNET))
    assert str(address.ip) == "10.32.5.6"


def test_a_pod_that_stays_unknown_gets_none_where_it_may_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requested, "KNOWN_WITHIN_S", 0.05)
    with pytest.raises(NotReady, match="has not told of shop/db-0"):
        of(None)
    assert of(None, allowed=False) == [], "any address will do"

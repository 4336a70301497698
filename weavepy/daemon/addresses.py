"""What an operator may ask for when attaching: `net:default`, `net:CIDR`, `ip:ADDRESS/LENGTH`."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from weavepy.base.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

MAX_ADDRESSES = 64
"""Of one attachment."""


@dataclass(frozen=True, slots=True)
class AnyIn:
    """Some free address of this subnet."""

    subnet: Network


@dataclass(frozen=True, slots=True)
class Exactly:
    """This address, in a subnet of its length."""

    interface: Interface


Wanted = AnyIn | Exactly


def parse_wanted(texts: Sequence[str], default_subnet: Network) -> list[Wanted]:
    """Nothing means one address of the default subnet. Raises `UsageError`."""
    if len(texts) > MAX_ADDRESSES:
        raise UsageError(f"{len(texts)} addresses are too many: the most is {MAX_ADDRESSES}")
    return [_parse(text, default_subnet) for text in texts or ("net:default",)]


def parse_interface(text: str) -> Interface:
    """Read "ADDRESS/LENGTH"; a length is needed, as nothing else says how large the subnet is."""
    try:
        if "/" not in text:
            raise ValueError("it needs a length")
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not ADDRESS/LENGTH such as 10.32.1.5/16") from error
    network = interface.network
    if network.version == 4 and network.prefixlen < 31:
        if interface.ip == network.network_address:
            raise UsageError(f"{text} is the address of the subnet itself")
        if interface.ip == network.broadcast_address:
            raise UsageError(f"{text} is the broadcast address of its subnet")
    return interface


def parse_subnet(text: str, default_subnet: Network) -> Network:
    if text in ("", "default"):
        return default_subnet
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a subnet such as 10.32.4.0/24") from error


def _parse(text: str, default_subnet: Network) -> Wanted:
    kind, colon, value = text.partition(":")
    if colon and kind == "net":
        return AnyIn(parse_subnet(value, default_subnet))
    if colon and kind == "ip":
        return Exactly(parse_interface(value))
    raise UsageError(
        f"{text!r} asks for no address: expected net:default, net:CIDR or ip:ADDRESS/LENGTH"
    )

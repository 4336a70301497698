"""Nodes, and what a ConfigMap holds."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from kube.core.kinds import Kind, Shape, Unreadable, decode
from weavepy.base.names import is_ip_address

NETWORK_UNAVAILABLE = "NetworkUnavailable"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that the cluster counts as its own."""

    name: str
    uid: str
    """Another one if the object was deleted and made again, as for another machine of the name."""
    addresses: tuple[str, ...] = ()
    """Its internal addresses, IPv4 and IPv6."""
    network_is_up: bool = False
    """Whether the condition NetworkUnavailable is there, and false."""

    @property
    def key(self) -> str:
        return self.name


class _Address(msgspec.Struct):
    type: str = ""
    address: str = ""


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    addresses: list[_Address] = []
    conditions: list[_Condition] = []


class _Node(Shape):
    status: _Status = msgspec.field(default_factory=_Status)


class _ConfigMap(Shape):
    data: dict[str, str] | None = None


_config_map = msgspec.json.Decoder(_ConfigMap)


def decode_config_map(body: bytes) -> tuple[str, dict[str, str]]:
    """Return its resource version and data. Raises `Unreadable`."""
    found = decode(_config_map, body)
    return found.metadata.resource_version, found.data or {}


def _as_node(found: _Node) -> Node:
    if not found.metadata.name:
        raise Unreadable("a node without a name")
    return Node(
        name=found.metadata.name,
        uid=found.metadata.uid,
        addresses=tuple(
            one.address
            for one in found.status.addresses
            if one.type == "InternalIP" and is_ip_address(one.address)
        ),
        network_is_up=any(
            one.type == NETWORK_UNAVAILABLE and one.status == "False"
            for one in found.status.conditions
        ),
    )


NODES = Kind("nodes", "/api/v1/nodes", _Node, _as_node)

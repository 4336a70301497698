"""What of Kubernetes' objects matters here, read from the JSON of its API server.

Unknown members are ignored, absent ones have defaults: the server is older or newer than this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from weavepy.base.errors import WeavepyError
from weavepy.base.names import is_ip_address

NETWORK_UNAVAILABLE = "NetworkUnavailable"

Found = TypeVar("Found")


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


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One event of a watch. `node` is None for a bookmark."""

    resource_version: str
    node: Node | None = None
    deleted: bool = False


class Unreadable(WeavepyError):
    """Not what an API server says. It is not a peer: what it says wrongly is the world's fault."""


class Expired(WeavepyError):
    """The server no longer knows what happened since that resource version: list anew."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""


class _Address(msgspec.Struct):
    type: str = ""
    address: str = ""


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    addresses: list[_Address] = []
    conditions: list[_Condition] = []


class _Node(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: _Status = msgspec.field(default_factory=_Status)


class _NodeList(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    items: list[_Node] | None = None


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _ConfigMap(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    data: dict[str, str] | None = None


_node = msgspec.json.Decoder(_Node)
_nodes = msgspec.json.Decoder(_NodeList)
_event = msgspec.json.Decoder(_Event)
_failure = msgspec.json.Decoder(_Failure)
_config_map = msgspec.json.Decoder(_ConfigMap)


def decode_node(body: bytes) -> Node:
    """Raises `Unreadable`, as all of these do."""
    return _as_node(_decode(_node, body))


def decode_nodes(body: bytes) -> tuple[dict[str, Node], str]:
    """Return a list's nodes by name, and the version from which to watch on."""
    listed = _decode(_nodes, body)
    nodes = [_as_node(node) for node in listed.items or ()]
    return {node.name: node for node in nodes}, listed.metadata.resource_version


def decode_event(line: bytes) -> NodeChange:
    """Read one line of a watch. Raises `Expired` where the server says so."""
    event = _decode(_event, line)
    if event.type == "ERROR":
        failure = _decode(_failure, bytes(event.object))
        if failure.code == 410:
            raise Expired(failure.message)
        raise Unreadable(f"the watch failed: {failure.message} ({failure.code})")
    found = _decode(_node, bytes(event.object))
    version = found.metadata.resource_version
    if event.type == "BOOKMARK":
        return NodeChange(version)
    return NodeChange(version, _as_node(found), deleted=event.type == "DELETED")


def decode_config_map(body: bytes) -> tuple[str, dict[str, str]]:
    """Return its resource version and data."""
    found = _decode(_config_map, body)
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


def _decode(decoder: msgspec.json.Decoder[Found], body: bytes) -> Found:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the API server's answer cannot be read: {error}") from error

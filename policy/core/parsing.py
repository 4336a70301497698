"""From the shapes of Kubernetes' API (decoded JSON or YAML) to values, strictly.

A field that this does not know may mean anything, and a guess would open what somebody wanted
closed. So a policy's specification is read whole or not at all: one that cannot be read becomes a
policy with a *fault*, which isolates what it selects and allows nothing. If even its podSelector
cannot be read, it selects its whole namespace; if its directions cannot, both. `null` is the same
as a field that is absent, as the API server has it; in a list it is a fault.

Only what has no name cannot be kept at all: `Unreadable` is raised.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, TypeVar, cast

from policy.core.objects import (
    DIRECTIONS,
    PROTOCOLS,
    Address,
    Block,
    Direction,
    Key,
    NamedPort,
    Namespace,
    Peer,
    Pod,
    PodPeer,
    Policy,
    PortName,
    PortRange,
    Protocol,
    Rule,
)
from policy.core.ranges import without
from policy.core.selectors import EVERYTHING, Operator, Requirement, Selector
from weavepy.base.errors import WeavepyError

Read = TypeVar("Read")

API_VERSIONS = {
    "NetworkPolicy": "networking.k8s.io/v1",
    "Namespace": "v1",
    "Pod": "v1",
}
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
CHECKED = 4096
"""Texts that are remembered as checked: labels are few, and come again and again."""
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", re.ASCII)
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
LABEL_KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)


class Unreadable(WeavepyError):
    """An object, or a part of one, that has not the shape it should have."""


def parse(document: object) -> Namespace | Pod | Policy:
    """One object by its kind. Raises `Unreadable`, but never for what a policy specifies."""
    shape = _mapping(document, "the object")
    kind = shape.get("kind")
    if kind not in API_VERSIONS:
        raise Unreadable(f"kind {kind!r} is none of {', '.join(API_VERSIONS)}")
    if shape.get("apiVersion") != API_VERSIONS[kind]:
        raise Unreadable(
            f"{kind} has apiVersion {shape.get('apiVersion')!r}; it must be {API_VERSIONS[kind]}"
        )
    match kind:
        case "Namespace":
            return parse_namespace(shape)
        case "Pod":
            return parse_pod(shape)
        case _:
            return parse_policy(shape)


def parse_namespace(document: Mapping[str, Any]) -> Namespace:
    metadata = _mapping(document.get("metadata"), "metadata")
    return Namespace(_name(metadata.get("name"), "metadata.name"), _labels(metadata))


def parse_pod(document: Mapping[str, Any]) -> Pod:
    metadata = _mapping(document.get("metadata"), "metadata")
    namespace, name = _key(metadata)
    spec = _mapping(document.get("spec") or {}, "spec")
    status = _mapping(document.get("status") or {}, "status")
    listed = [_mapping(one, "podIPs").get("ip") for one in status.get("podIPs") or ()]
    if status.get("podIP"):
        listed.insert(0, status["podIP"])
    return Pod(
        namespace,
        name,
        _labels(metadata),
        tuple(_address(one) for one in dict.fromkeys(listed)),
        _container_ports(spec),
        spec.get("nodeName") or "",
        spec.get("hostNetwork") is True,
        status.get("phase") in ("Succeeded", "Failed"),
        str(metadata.get("creationTimestamp") or ""),
    )


def parse_policy(document: Mapping[str, Any]) -> Policy:
    namespace, name = _key(_mapping(document.get("metadata"), "metadata"))
    faults: list[str] = []

    def closed(read: Callable[[], Read], otherwise: Read) -> Read:
        try:
            return read()
        except Unreadable as error:
            faults.append(str(error))
            return otherwise

    nothing: Mapping[str, Any] = {}
    spec = closed(lambda: _mapping(document.get("spec") or {}, "spec"), nothing)
    selector = closed(lambda: _selector(spec.get("podSelector"), "spec.podSelector"), EVERYTHING)
    directions = closed(lambda: _directions(spec), DIRECTIONS)
    known = ("podSelector", "policyTypes", *DIRECTIONS)
    closed(lambda: _only(spec, "spec", *known), None)
    rules: dict[Direction, tuple[Rule, ...]] = {
        "ingress": closed(lambda: _rules(spec, "ingress", namespace), ()),
        "egress": closed(lambda: _rules(spec, "egress", namespace), ()),
    }
    return Policy(
        namespace,
        name,
        selector,
        {direction: () if faults else rules[direction] for direction in directions},
        "; ".join(faults),
        tuple(one for one in DIRECTIONS if rules[one] and one not in directions),
    )


# --- a policy's specification --------------------------------------------------------------------


def _directions(spec: Mapping[str, Any]) -> tuple[Direction, ...]:
    types = _list(spec.get("policyTypes"), "spec.policyTypes")
    for one in types:
        if one not in ("Ingress", "Egress"):
            raise Unreadable(f"spec.policyTypes has {one!r}; there are Ingress and Egress")
    if not types:
        return DIRECTIONS if spec.get("egress") else ("ingress",)
    return tuple(one for one in DIRECTIONS if one.capitalize() in types)


def _rules(spec: Mapping[str, Any], direction: Direction, namespace: str) -> tuple[Rule, ...]:
    peers_field = "from" if direction == "ingress" else "to"
    rules = []
    for number, one in enumerate(_list(spec.get(direction), f"spec.{direction}")):
        where = f"spec.{direction}[{number}]"
        shape = _mapping(one, where)
        _only(shape, where, peers_field, "ports")
        peers = _list(shape.get(peers_field), f"{where}.{peers_field}")
        ports = _list(shape.get("ports"), f"{where}.ports")
        rules.append(
            Rule(
                tuple(
                    _peer(peer, namespace, f"{where}.{peers_field}[{i}]")
                    for i, peer in enumerate(peers)
                )
                or None,
                tuple(_port(port, f"{where}.ports[{i}]") for i, port in enumerate(ports)) or None,
            )
        )
    return tuple(rules)


def _peer(document: object, namespace: str, where: str) -> Peer:
    shape = _mapping(document, where)
    _only(shape, where, "podSelector", "namespaceSelector", "ipBlock")
    pods, namespaces, block = (
        shape.get(name) for name in ("podSelector", "namespaceSelector", "ipBlock")
    )
    if block is not None:
        if pods is not None or namespaces is not None:
            raise Unreadable(f"{where} has an ipBlock and a selector; one element has one or other")
        return _block(block, f"{where}.ipBlock")
    if pods is None and namespaces is None:
        raise Unreadable(f"{where} names no peer; leave the whole list out to mean everybody")
    return PodPeer(
        namespace if namespaces is None else _selector(namespaces, f"{where}.namespaceSelector"),
        _selector(pods, f"{where}.podSelector"),
    )


def _block(document: object, where: str) -> Block:
    shape = _mapping(document, where)
    _only(shape, where, "cidr", "except")
    version, start, end = _network(shape.get("cidr"), f"{where}.cidr")
    holes = []
    for text in _list(shape.get("except"), f"{where}.except"):
        hole_version, first, last = _network(text, f"{where}.except")
        if hole_version != version or not (start <= first and last <= end):
            raise Unreadable(f"{where}.except has {text}, which is not within {shape['cidr']}")
        holes.append((first, last))
    return Block(4 if version == 4 else 6, without((start, end), holes))


def _port(document: object, where: str) -> PortRange | PortName:
    shape = _mapping(document, where)
    _only(shape, where, "protocol", "port", "endPort")
    protocol = _protocol(shape.get("protocol"), where)
    first, last = shape.get("port"), shape.get("endPort")
    if isinstance(first, str):
        if not PORT_NAME.fullmatch(first):
            raise Unreadable(f"{where}.port {first!r} is neither a number nor a port's name")
        if last is not None:
            raise Unreadable(f"{where} has an endPort, so its port must be a number, not a name")
        return PortName(protocol, first)
    if first is None:
        if last is not None:
            raise Unreadable(f"{where} has an endPort, and no port")
        return PortRange(protocol)
    first = _port_number(first, f"{where}.port")
    last = first if last is None else _port_number(last, f"{where}.endPort")
    if last < first:
        raise Unreadable(f"{where}: endPort {last} is less than port {first}")
    return PortRange(protocol, first, last)


def _selector(document: object, where: str) -> Selector:
    if document is None:
        return EVERYTHING
    shape = _mapping(document, where)
    _only(shape, where, "matchLabels", "matchExpressions")
    requirements = [
        Requirement(key, "In", (value,))
        for key, value in _pairs(shape.get("matchLabels"), f"{where}.matchLabels").items()
    ]
    listed = _list(shape.get("matchExpressions"), f"{where}.matchExpressions")
    requirements += [
        _requirement(one, f"{where}.matchExpressions[{number}]")
        for number, one in enumerate(listed)
    ]
    return Selector(tuple(sorted(set(requirements))))


def _requirement(document: object, where: str) -> Requirement:
    shape = _mapping(document, where)
    _only(shape, where, "key", "operator", "values")
    key = _label_key(shape.get("key"), where)
    operator = shape.get("operator")
    values = _list(shape.get("values"), f"{where}.values")
    if operator not in OPERATORS:
        raise Unreadable(f"{where}.operator {operator!r} is none of {', '.join(OPERATORS)}")
    if (operator in ("In", "NotIn")) != bool(values):
        raise Unreadable(f"{where}: {operator} needs {'values' if not values else 'no values'}")
    checked = {_label_value(value, f"{where}.values") for value in values}
    return Requirement(key, cast(Operator, operator), tuple(sorted(checked)))


# --- pods -----------------------------------------------------------------------------------------


def _container_ports(spec: Mapping[str, Any]) -> tuple[NamedPort, ...]:
    """Those of sidecars (init containers that go on running) are the pod's as well."""
    containers = list(spec.get("containers") or ())
    containers += [
        one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"
    ]
    found: dict[NamedPort, None] = {}
    for container in containers:
        for port in _mapping(container, "spec.containers").get("ports") or ():
            name = port.get("name")
            if name:
                number = _port_number(port.get("containerPort"), "containerPort")
                protocol = _protocol(port.get("protocol"), "spec.containers.ports")
                found[NamedPort(str(name), protocol, number)] = None
    return tuple(found)


def _address(value: object) -> Address:
    try:
        return ip_address(str(value))
    except ValueError as error:
        raise Unreadable(f"{value!r} is no address") from error


# --- parts ----------------------------------------------------------------------------------------


def _only(shape: Mapping[str, Any], where: str, *known: str) -> None:
    for name in shape:
        if name not in known:
            raise Unreadable(f"{where} has a field {name!r}; known are {', '.join(known)}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"{where} must be a mapping, not {value!r}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable(f"{where} must be a list, not {value!r}")
    return value


def _key(metadata: Mapping[str, Any]) -> Key:
    namespace = metadata.get("namespace") or "default"
    return _name(namespace, "metadata.namespace"), _name(metadata.get("name"), "metadata.name")


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Unreadable(f"{where} {value!r} is no name (small letters, digits, '-' and '.')")
    return value


def _labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    return _pairs(metadata.get("labels"), "metadata.labels")


def _pairs(value: object, where: str) -> dict[str, str]:
    shape = _mapping({} if value is None else value, where)
    return {_label_key(key, where): _label_value(text, where) for key, text in shape.items()}


def _label_key(value: object, where: str) -> str:
    if not isinstance(value, str) or not _is_label_key(value):
        raise Unreadable(f"{where} has {value!r}, which is no label's key")
    return value


def _label_value(value: object, where: str) -> str:
    if not isinstance(value, str) or not _is_label_value(value):
        hint = "" if isinstance(value, str) else "; put it in quotes"
        raise Unreadable(f"{where} has {value!r}, which is no label's value{hint}")
    return value


@lru_cache(maxsize=CHECKED)
def _is_label_key(text: str) -> bool:
    return LABEL_KEY.fullmatch(text) is not None


@lru_cache(maxsize=CHECKED)
def _is_label_value(text: str) -> bool:
    return LABEL_VALUE.fullmatch(text) is not None


def _protocol(value: object, where: str) -> Protocol:
    protocol = "tcp" if value is None else str(value).lower()
    if protocol not in PROTOCOLS or value != (value and protocol.upper()):
        raise Unreadable(f"{where}.protocol {value!r} is none of TCP, UDP, SCTP")
    return protocol


def _port_number(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise Unreadable(f"{where} {value!r} is no port number (1 to 65535)")
    return value


def _network(value: object, where: str) -> tuple[int, int, int]:
    """Version, first and last address. Bits beyond the prefix are ignored, as Kubernetes does."""
    if not isinstance(value, str) or "/" not in value:
        raise Unreadable(f"{where} {value!r} is no block (ADDRESS/LENGTH)")
    text, _, length = value.partition("/")
    if not (length.isascii() and length.isdigit()) or "%" in text:
        raise Unreadable(f"{where} {value!r} is no block (ADDRESS/LENGTH)")
    try:
        address = ip_address(text)
    except ValueError as error:
        raise Unreadable(f"{where} {value!r} is no block: {error}") from error
    free_bits = address.max_prefixlen - int(length)
    if free_bits < 0:
        raise Unreadable(f"{where} {value!r} is no block: IPv{address.version} has fewer bits")
    first = int(address) >> free_bits << free_bits
    return address.version, first, first + (1 << free_bits) - 1

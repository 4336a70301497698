"""Questions about an nftables table that take microseconds, however many elements its sets have.

`nft list` reads a whole table and makes JSON of it: 5 ms where two hundred containers have their
filters. Here rules are counted, and elements found by their first field (an interface's name, in
all sets that this is for), in the kernel's own messages (linux/netfilter/nf_tables.h).
"""

import socket
import struct
from collections import Counter
from collections.abc import Collection

from weavepy.kernel.kept import Kept
from weavepy.kernel.messages import ask, attribute, attribute_list, attributes, dump
from weavepy.kernel.netlink import MAX_INTERFACE_NAME_LENGTH

_BRIDGE_FAMILY = 7
_NETLINK_NETFILTER = 12

_SUBSYSTEM = 10 << 8
_GETRULE, _GETSETELEM = _SUBSYSTEM | 7, _SUBSYSTEM | 13
_HEAD = struct.Struct("=BBH")
"""nfgenmsg: family, version, resource."""

_TABLE, _RULE_CHAIN, _SET, _ELEMENTS = 1, 2, 2, 3
_ELEMENT, _KEY, _VALUE, _USER_DATA = 1, 1, 1, 6
_COMMENT = 0

_NAME_BYTES = MAX_INTERFACE_NAME_LENGTH + 1


class _Connection:
    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def __del__(self) -> None:
        self.socket.close()


_connection = Kept(_Connection)


def rules_per_chain(table: str) -> Counter[str]:
    """Of a table of the bridge family; empty if there is none."""
    try:
        found = dump(_connection.get().socket, _GETRULE, _body(table))
    except FileNotFoundError:
        return Counter()
    chains = (attributes(content[_HEAD.size :])[_RULE_CHAIN] for content in found)
    return Counter(chain.rstrip(b"\0").decode() for chain in chains)


def has_element(table: str, set_name: str, interface: str) -> bool:
    """Whether a set of interfaces has this one; what is too long to name one, is in none."""
    if len(interface) > MAX_INTERFACE_NAME_LENGTH:
        return False
    key = attribute(_KEY, attribute(_VALUE, _name(interface)))
    body = _body(table, set_name) + attribute(_ELEMENTS, attribute(_ELEMENT, key))
    try:
        ask(_connection.get().socket, _GETSETELEM, body)
    except FileNotFoundError:
        return False
    return True


def elements_of(
    table: str, set_name: str, interfaces: Collection[str]
) -> list[tuple[str, bytes, str]]:
    """The elements whose first field is one of these: that, the bytes of the others, the comment.

    Nothing if there is no such set.
    """
    wanted = {_name(interface): interface for interface in interfaces}
    try:
        answers = dump(_connection.get().socket, _GETSETELEM, _body(table, set_name))
    except FileNotFoundError:
        return []
    found = []
    for content in answers:
        listed = attributes(content[_HEAD.size :]).get(_ELEMENTS, b"")
        for _, element in attribute_list(listed):
            if not any(name in element for name in wanted):
                continue  # before it is taken apart, which takes longer
            given = attributes(element)
            key = attributes(given[_KEY])[_VALUE]
            interface = wanted.get(key[:_NAME_BYTES])
            if interface is not None:
                found.append((interface, key[_NAME_BYTES:], _comment(given.get(_USER_DATA, b""))))
    return found


def _body(table: str, set_name: str = "") -> bytes:
    body = _HEAD.pack(_BRIDGE_FAMILY, 0, 0) + attribute(_TABLE, table.encode() + b"\0")
    return body + attribute(_SET, set_name.encode() + b"\0") if set_name else body


def _name(interface: str) -> bytes:
    return interface.encode().ljust(_NAME_BYTES, b"\0")


def _comment(user_data: bytes) -> str:
    """User data are libnftnl's own: type and length in one byte each, then the value."""
    at = 0
    while at + 2 <= len(user_data):
        kind, length = user_data[at : at + 2]
        if kind == _COMMENT:
            return user_data[at + 2 : at + 2 + length].rstrip(b"\0").decode()
        at += 2 + length
    return ""

"""Who may send us VXLAN: nobody but current peers, each with the network id of its tunnel only.

The kernel's VXLAN device takes frames of its network id from any sender. So an nftables table of
our own (family inet) stands before it, which knows tunnels as pairs of source address and network
id. A datagram to the port that is none of these is dropped and counted:

    from_container   it came in over the overlay's bridge, so from a container here or elsewhere
    forged_id        from a peer's address, with a network id that is not that peer's
    forged_source    from an address at which no peer has a tunnel
    not_encrypted    a tunnel's that must be in ESP (IPsec), and was not or would not be

A container behind a host that masquerades would send with that host's address, so what
containers send towards a peer's port is stopped where it leaves the bridge, too.

In an encrypted mesh the table is the second lock beside the kernel's IPsec policies (`xfrm.py`):
whatever others do to those, nothing leaves or enters the port in clear but between addresses whose
tunnels may be.

The table is stated whole in each transaction: what others changed in it is right again, no
packet meets half of it, and counters go on. The first four bytes of a VXLAN header are flags, the
next three the network id (RFC 7348); with UDP's 8 bytes before it, that is at bit 96.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from fastdp.core.effects import Tunnel
from fastdp.shell.device import numeric
from weavepy.kernel.nftables import counters, list_table, run_transaction

REASONS = ("from_container", "forged_id", "forged_source")
NOT_ENCRYPTED = "not_encrypted"

_KINDS = {
    "tunnels4": "typeof ip saddr . @th,96,24",
    "tunnels6": "typeof ip6 saddr . @th,96,24",
    "peers4": "type ipv4_addr",
    "peers6": "type ipv6_addr",
}

_ESP_KINDS = {
    "esp4": _KINDS["tunnels4"],
    "esp6": _KINDS["tunnels6"],
    "clear4": _KINDS["peers4"],
    "clear6": _KINDS["peers6"],
}
"""Tunnels in ESP, and addresses of those that are not."""

_COUNTED_DROP = f"counter name {NOT_ENCRYPTED} drop"

_PRIORITY = -20
"""Before the table that closes the mesh's ports to containers, so that we count those."""


class Guard:
    def __init__(self, bridge: str, port: int, esp: bool = False) -> None:
        """Without `esp`, no tunnel is encrypted."""
        self._bridge = bridge
        self._port = port
        self._esp = esp
        suffix = "" if bridge == "weave" else f"_{bridge}"
        self._table = f"inet weavepy_fastdp{suffix}"

    def install(self, tunnels: Iterable[Tunnel]) -> None:
        """Let these tunnels in and nothing else, whatever was there before. Atomic."""
        kinds = _KINDS | (_ESP_KINDS if self._esp else {})
        elements: dict[str, list[str]] = {name: [] for name in kinds}
        for tunnel in tunnels:
            address = numeric(tunnel.remote_host)
            known_as = f"{address} . {tunnel.network_id:#x}"
            elements[f"peers{address.version}"].append(str(address))
            if tunnel.encrypted:
                elements[f"esp{address.version}"].append(known_as)
                continue
            elements[f"tunnels{address.version}"].append(known_as)
            if self._esp:
                elements[f"clear{address.version}"].append(str(address))
        table = self._table
        lines = [f"add table {table}"]
        for name, kind in kinds.items():
            lines += [f"add set {table} {name} {{ {kind}; }}", f"flush set {table} {name}"]
            if elements[name]:
                listed = ", ".join(sorted(set(elements[name])))
                lines.append(f"add element {table} {name} {{ {listed} }}")
        lines += [f"add counter {table} {reason}" for reason in self._reasons()]
        for chain, (hook, rules) in self._chains().items():
            lines.append(f"add chain {table} {chain} {hook}".rstrip())
            lines.append(f"flush chain {table} {chain}")
            lines += [f"add rule {table} {chain} {rule}" for rule in rules]
        run_transaction("\n".join(lines) + "\n")

    def is_installed(self) -> bool:
        return self._listed() is not None

    def refused(self) -> dict[str, int]:
        """Datagrams dropped since the table was made, by reason."""
        return counters(self._listed() or [])

    def remove(self) -> None:
        run_transaction(f"add table {self._table}\ndelete table {self._table}\n")

    def _reasons(self) -> Sequence[str]:
        return (*REASONS, NOT_ENCRYPTED) if self._esp else REASONS

    def _listed(self) -> list[dict[str, Any]] | None:
        family, _, name = self._table.partition(" ")
        return list_table(family, name)

    def _chains(self) -> dict[str, tuple[str, Sequence[str]]]:
        """Called chains first: a rule may only go to a chain that is there."""
        bridge = f'iifname "{self._bridge}"'
        return self._esp_chains() | {
            "vxlan": (
                "",
                [
                    f"{bridge} counter name from_container drop",
                    "ip saddr . @th,96,24 @tunnels4 accept",
                    "ip6 saddr . @th,96,24 @tunnels6 accept",
                    *(
                        f"{family} saddr . @th,96,24 @esp{version} {verdict}"
                        for family, version in (("ip", 4), ("ip6", 6))
                        for verdict in ("meta ipsec exists accept", _COUNTED_DROP)
                        if self._esp
                    ),
                    "ip saddr @peers4 counter name forged_id drop",
                    "ip6 saddr @peers6 counter name forged_id drop",
                    "counter name forged_source drop",
                ],
            ),
            "arriving": (
                f"{{ type filter hook input priority {_PRIORITY}; policy accept; }}",
                [f"udp dport {self._port} goto vxlan"],
            ),
            "passing": (
                f"{{ type filter hook forward priority {_PRIORITY}; policy accept; }}",
                [
                    f"{bridge} udp dport {self._port} {peers} counter name from_container drop"
                    for peers in ("ip daddr @peers4", "ip6 daddr @peers6")
                ],
            ),
        }

    def _esp_chains(self) -> dict[str, tuple[str, Sequence[str]]]:
        if not self._esp:
            return {}
        return {
            "clear": (
                "",
                ["ip daddr @clear4 accept", "ip6 daddr @clear6 accept", _COUNTED_DROP],
            ),
            "leaving": (
                f"{{ type filter hook output priority {_PRIORITY}; policy accept; }}",
                [f"udp dport {self._port} rt ipsec missing goto clear"],
            ),
        }

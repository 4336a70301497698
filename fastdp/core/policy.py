"""Whether this host wants a fast path to an address, before any peer is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

Mode = Literal["auto", "ovs", "vxlan", "off"]
MODES: tuple[Mode, ...] = ("auto", "ovs", "vxlan", "off")
Network = IPv4Network | IPv6Network

_CLEAR_TEXT = "encrypted mesh: VXLAN is clear text"


@dataclass(frozen=True, slots=True)
class Policy:
    mode: Mode
    encrypted: bool
    """The mesh is: only trusted subnets may see its frames in clear."""
    unavailable: str = ""
    """Why this host has no driver; empty if it has."""
    trusted: tuple[Network, ...] = ()
    """`--trusted-subnets`."""
    no_esp: str = "this kernel has no ESP"
    """Why this host cannot encrypt tunnels; empty if it can."""

    @property
    def enabled(self) -> bool:
        """Whether there may be a tunnel to anybody."""
        return not self.general_refusal

    @property
    def general_refusal(self) -> str:
        """Why there shall be a tunnel to nobody."""
        if self.mode == "off":
            return "--fastdp is off"
        if self.encrypted and not self.trusted and self.no_esp:
            return f"{_CLEAR_TEXT}, {self.no_esp}, and there are no --trusted-subnets"
        return self.unavailable

    @property
    def has_esp(self) -> bool:
        return self.encrypted and not (self.mode == "off" or self.unavailable or self.no_esp)

    def without_driver(self, reason: str) -> "Policy":
        return replace(self, unavailable=reason)

    def refusal(self, host: str) -> str:
        """Why there shall be no tunnel to `host`; empty if there may be one."""
        return "" if self.has_esp else self.refusal_in_clear(host)

    def refusal_in_clear(self, host: str) -> str:
        """The same for a tunnel without ESP."""
        if self.mode == "off" or self.unavailable:
            return self.general_refusal
        if not self.must_encrypt(host):
            return ""
        no_esp = f", {self.no_esp}" if self.no_esp else ""
        return f"{_CLEAR_TEXT}{no_esp}, and {host} is not in --trusted-subnets"

    def must_encrypt(self, host: str) -> bool:
        return self.encrypted and not is_in(host, self.trusted)


def is_in(host: str, networks: Sequence[Network]) -> bool:
    """Of what is no address at all, False."""
    address = _address(host)
    return address is not None and any(address in network for network in networks)


def version_of(host: str) -> int:
    """IP's, as packets to it have; 0 of what is no address at all."""
    address = _address(host)
    return 0 if address is None else address.version


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

"""Whether this host wants a fast path to an address, before any peer is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

Mode = Literal["auto", "vxlan", "off"]
MODES: tuple[Mode, ...] = ("auto", "vxlan", "off")
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Policy:
    mode: Mode
    encrypted: bool
    """The mesh is: without ESP, only trusted subnets may see its frames in clear."""
    unavailable: str = ""
    """Why this host has no driver; empty if it has."""
    trusted: tuple[Network, ...] = ()
    """`--trusted-subnets`."""

    @property
    def enabled(self) -> bool:
        """Whether there may be a tunnel to anybody."""
        return not self.general_refusal

    @property
    def general_refusal(self) -> str:
        """Why there shall be a tunnel to nobody."""
        if self.mode == "off":
            return "--fastdp is off"
        if self.encrypted and not self.trusted:
            return "encrypted mesh: VXLAN is clear text, and there are no --trusted-subnets"
        return self.unavailable

    def without_driver(self, reason: str) -> "Policy":
        return replace(self, unavailable=reason)

    def refusal(self, host: str) -> str:
        """Why there shall be no tunnel to `host`; empty if there may be one."""
        if self.mode == "off" or self.unavailable:
            return self.general_refusal
        if self.encrypted and not is_in(host, self.trusted):
            return f"encrypted mesh: VXLAN is clear text, and {host} is not in --trusted-subnets"
        return ""


def is_in(host: str, networks: Sequence[Network]) -> bool:
    """Of what is no address at all, False."""
    try:
        address: IPv4Address | IPv6Address | None = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)

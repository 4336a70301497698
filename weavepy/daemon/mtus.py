"""How large packets may be: what the underlay carries, and what is left of that for containers."""

from dataclasses import dataclass

from fastdp.core.policy import Policy
from router.mesh.targets import parse_address
from router.shell import underlay
from weavepy.daemon.options import Options


@dataclass(frozen=True, slots=True)
class Mtus:
    underlay_bytes: int
    overlay_bytes: int
    warning: str = ""
    """What this overlay's MTU costs."""


def look(options: Options, wanted: Policy, tap: str) -> Mtus:
    """What they are now; `wanted` is the fast path that is to fit. Blocks.

    Raises `NoUnderlay` while this host has no network.
    """
    peers = [parse_address(text, options.port).host for text in options.peers]
    ours = (options.bridge, tap)
    underlay_mtu = underlay.underlay_mtu(peers, ours=ours)
    if options.mtu_bytes is not None:
        return Mtus(underlay_mtu, options.mtu_bytes)
    overhead_bytes = underlay.OVERHEAD_BYTES
    version = 6 if underlay.meets_by_ipv6(peers, ours=ours) else 4
    in_esp = wanted.has_esp and not wanted.trusted
    if wanted.mode in ("ovs", "vxlan"):
        overhead_bytes = underlay.VXLAN_OVERHEAD_BYTES[version]
        overhead_bytes += underlay.ESP_OVERHEAD_BYTES if in_esp else 0
    elif wanted.has_esp and version == 6:
        overhead_bytes = underlay.VXLAN_OVERHEAD_BYTES[6] + underlay.ESP_OVERHEAD_BYTES
    overlay = underlay.overlay_mtu(underlay_mtu, overhead_bytes)
    return Mtus(underlay_mtu, overlay.mtu_bytes, overlay.warning)

"""Letting the kernel put small UDP packets of one flow together before the datapath reads them.

A container that sends small UDP packets costs the datapath a read and a decision for each. With
GRO on the host's end of its veth, packets of one flow and size that come within
`FLUSH_TIMEOUT_NS` become one large frame, as TCP's already are; the TAP hands it over in one
read, the far kernel takes it apart again. Measured between two containers, 64 bytes of payload,
two cores: 82,000 packets/s with most lost before, 175,000 to 200,000 without loss after, at a
third of the processor time per packet; TCP and ping are the same within the noise.

The timeout is what makes the difference: a veth's packets arrive one by one, and without it each
is passed on before the next is there. Pure TCP ACKs, ICMP and other protocols never wait.

All this only makes things faster, so a kernel that lacks any of it is not an error.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from pyroute2.ethtool import ioctl

FLUSH_TIMEOUT_NS = 50_000

FEATURES = ("rx-gro", "rx-udp-gro-forwarding")
"""GRO itself, and that it takes UDP which is not for a socket of this host (Linux 5.12)."""


def coalesce(interface: str, index: int) -> bool:
    """Switch it on for what comes in by this interface. False if the kernel lacks something."""
    return _switch_features_on(interface) and _hold(interface, index)


def _switch_features_on(interface: str) -> bool:
    ethtool: Any = ioctl.IoctlEthtool
    try:
        with closing(ethtool(interface)) as tool:
            features = tool.get_features()
            for name in FEATURES:
                if name not in features or not features.is_available(name):
                    return False
                features[name] = True
            tool.set_features(features)
    except (ioctl.EthtoolError, OSError):
        return False
    return True


def _hold(interface: str, index: int) -> bool:
    directory = Path("/sys/class/net", interface)
    try:
        # /sys shows the namespace in which it was mounted, which need not be this thread's.
        if int((directory / "ifindex").read_text()) != index:
            return False
        (directory / "napi_defer_hard_irqs").write_text("1")
        (directory / "gro_flush_timeout").write_text(str(FLUSH_TIMEOUT_NS))
    except (OSError, ValueError):
        return False
    return True

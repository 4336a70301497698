"""What the kernel lists, and which of it are VXLAN devices."""

import struct

import pytest

from fastdp.shell import device
from weavepy.kernel.messages import attribute


def test_a_kernel_that_lists_all_links_has_no_vxlan_device_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does before it has loaded the module, for it knows no such kind to ask for."""
    loopback = struct.pack("=BxHiII", 0, 772, 1, 0x49, 0) + attribute(3, b"lo\0")
    veth = struct.pack("=BxHiII", 0, 1, 2, 0x43, 0) + attribute(18, attribute(1, b"veth\0"))
    monkeypatch.setattr(device, "dump", lambda *_: [loopback, veth])
    assert device.devices() == []

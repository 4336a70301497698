"""Policies on a host where bridged frames would pass the packet filter by."""

from pathlib import Path
from random import Random

import pytest

from policy.core.table import Table
from policy.shell.filter import PolicyFilter
from weavepy.kernel import netlink


def test_without_br_netfilter_nothing_is_said_to_be_in_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(netlink, "SYSCTLS", str(tmp_path))
    packet_filter = PolicyFilter("weave", Random(1))
    with pytest.raises(netlink.HostError, match="modprobe br_netfilter"):
        packet_filter.restore(Table())
    assert not packet_filter.owned

"""Requests of the CNI plugin on a host that fails on demand, which a kernel does not."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, cast

from weavepy.client import schema
from weavepy.daemon.addresses import Interface
from weavepy.daemon.attachments import Attachments
from weavepy.daemon.pods import Pods
from weavepy.kernel.netlink import HostError


class Ring:
    """Whose addresses there are."""

    def __init__(self, held: dict[str, str]) -> None:
        self.held = {owner: ip_interface(address) for owner, address in held.items()}

    def owners(self) -> list[str]:
        return sorted(self.held)

    def release(self, owner: str, address: Interface | None) -> list[Interface]:
        return [self.held.pop(owner)] if owner in self.held else []


class Host:
    def __init__(self, fails_for: str) -> None:
        self._fails_for = fails_for

    def attachments(self) -> list[Any]:
        return []

    def remove_pod(self, owner: str) -> bool:
        if owner == self._fails_for:
            raise HostError("the kernel is busy")
        return True


class Gate:
    async def left(self, owner: str, addresses: object = ()) -> None:
        pass


@contextmanager
def pods(host: Host, ring: Ring, journal: Path) -> Iterator[Pods]:
    gate = cast(Any, Gate())
    with ThreadPoolExecutor(1) as thread:
        made = Attachments(cast(Any, host), cast(Any, ring), thread, 1400, "tap", gate)
        yield Pods(
            cast(Any, host),
            made,
            cast(Any, ring),
            gate,
            journal_directory=str(journal),
            has_datapath=lambda: True,
        )


def test_gc_goes_on_after_an_error_and_reports_it(tmp_path: Path) -> None:
    ring = Ring({f"cni:net/{each}/eth0": f"10.32.0.{each[1]}/12" for each in ("c1", "c2", "c3")})
    ring.held["cni:other/c2/eth0"] = ip_interface("10.32.0.9/12")
    request = schema.CniGcRequest(network="net", kind="interface", valid=[])
    with pods(Host(fails_for="cni:net/c2/eth0"), ring, tmp_path) as made:
        answer = asyncio.run(made.gc(request))

    assert answer.freed == ["c1/eth0", "c3/eth0"]
    assert answer.errors == ["c2/eth0: the kernel is busy"]
    assert ring.owners() == ["cni:net/c2/eth0", "cni:other/c2/eth0"], "what it still has stays its"

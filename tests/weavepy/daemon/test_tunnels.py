"""What the core asks of a driver happens in order, and every answer goes back to the core."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

from fastdp.core.effects import (
    AddAssociation,
    AdoptedTunnel,
    Arrange,
    Association,
    Carry,
    FastEffect,
    KeepAssociations,
    Point,
    ReadMacs,
    Retire,
    Tunnel,
)
from fastdp.core.paths import FastPaths
from fastdp.core.policy import Policy
from fastdp.shell.driver import Arranged, Counters
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName
from weavepy.daemon.tunnels import Input, Tunnels

PEER = PeerName("7a:0c:00:00:00:02")
CLEAR = Policy("auto", encrypted=False)
LEFT = AdoptedTunnel(PEER, 2, 4098, "10.0.0.2", True)


class ListDriver:
    """Writes down what it is asked; refuses what is in `refuses`."""

    title = "list"

    def __init__(
        self,
        refuses: Collection[str] = (),
        left: Sequence[AdoptedTunnel] = (),
        guarded: bool = False,
        name: str = "list",
    ) -> None:
        self.name = name
        self.asked: list[str] = []
        self._refuses = refuses
        self._left = list(left)
        self._guarded = guarded

    def available(self) -> str:
        self.asked.append("available")
        return "no VXLAN" if "available" in self._refuses else ""

    def adopt(self) -> list[AdoptedTunnel]:
        self.asked.append("adopt")
        return self._left

    def left(self) -> bool:
        self.asked.append("left")
        return bool(self._left) or self._guarded

    def arrange(self, tunnels: Sequence[Tunnel], mtu_bytes: int) -> Arranged:
        self._ask("arrange")
        return Arranged({}, {PEER: "no such device"})

    def macs(self, peer: PeerName) -> list[bytes]:
        self._ask("macs")
        return [b"\x02\0\0\0\0\x01"]

    def carry(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        self._ask("carry")

    def retire(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        self._ask("retire")

    def point(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        self._ask("point")

    def add_association(self, short_id: int, association: Association) -> None:
        self._ask("add_association")

    def keep_associations(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        self._ask("keep_associations")

    def counters(self) -> Counters:
        self._ask("counters")
        return Counters({}, {"forged_id": 3})

    def remove_tunnels(self) -> None:
        self._ask("remove_tunnels")

    def remove_all(self) -> None:
        self._ask("remove_all")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self._refuses:
            raise WeavepyError(f"{what} is refused")


class ListeningPaths(FastPaths):
    """Writes down the answers it gets."""

    def __init__(self) -> None:
        super().__init__(Random(1), 0.0, policy=CLEAR, mtu_bytes=1400, ourself=PEER)
        self.heard: list[tuple[object, ...]] = []

    def handle_arranged(
        self,
        errors: Mapping[PeerName, str],
        error: str,
        now: float,
        associations: object = None,
        silent: Collection[PeerName] = (),
    ) -> list[FastEffect]:
        self.heard.append(("arranged", dict(errors), error))
        return []

    def handle_macs(self, peer: PeerName, macs: Sequence[bytes], now: float) -> list[FastEffect]:
        self.heard.append(("macs", list(macs)))
        return []

    def handle_carried(self, peer: PeerName, error: str, now: float) -> list[FastEffect]:
        self.heard.append(("carried", error))
        return []

    def handle_association_added(
        self, peer: PeerName, spi: int, error: str, now: float
    ) -> list[FastEffect]:
        self.heard.append(("added", spi, error))
        return []

    def handle_retired(self, peer: PeerName, error: str, now: float) -> list[FastEffect]:
        self.heard.append(("retired", error))
        return []


async def perform_all(driver: ListDriver) -> list[tuple[object, ...]]:
    """Returns what the core heard of one call of each kind."""
    paths = ListeningPaths()

    def tell(answer: Input) -> None:
        answer(paths, 0.0)

    with ThreadPoolExecutor(1) as thread:
        tunnels = Tunnels(driver, thread, tell)
        for effect in (
            Arrange((), 1400),
            Carry(PEER, ()),
            Point(PEER, ()),
            ReadMacs(PEER),
            Retire(PEER, ()),
            AddAssociation(PEER, 7, Association(256, bytes(36), "", "10.0.0.2")),
            KeepAssociations(PEER, 7, (256,), None),
        ):
            tunnels.perform(effect)
        async with asyncio.timeout(5):
            while len(paths.heard) < 5:
                await asyncio.sleep(0)
        assert (await tunnels.counters()).refused in ({"forged_id": 3}, {})
        await tunnels.close(keep=False)
    return paths.heard


async def test_calls_are_made_in_order_and_each_is_answered() -> None:
    driver = ListDriver()
    assert await perform_all(driver) == [
        ("arranged", {PEER: "no such device"}, ""),
        ("carried", ""),
        ("macs", [b"\x02\0\0\0\0\x01"]),
        ("retired", ""),
        ("added", 256, ""),
    ]
    assert driver.asked == [
        *("arrange", "carry", "point", "macs", "retire"),
        *("add_association", "keep_associations", "counters", "remove_all"),
    ]


async def test_what_the_driver_refuses_reaches_the_core_as_text() -> None:
    refused = ("arrange", "carry", "point", "macs", "retire", "remove_all", "add_association")
    driver = ListDriver(refuses=refused)
    assert await perform_all(driver) == [
        ("arranged", {}, "arrange is refused"),
        ("carried", "carry is refused"),
        ("macs", []),
        ("retired", "retire is refused"),
        ("added", 256, "add_association is refused"),
    ]

"""Who changes the policies' table is heard at once, and does not get all of our time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.namespaces import Namespaces, can_make_namespaces, inside
from tests.policy.interpreter import tell
from tests.policy.nodes import OldKernel
from tests.policy.objects import labels, pod, policy
from tests.weavepy.daemon.filtered_host import FilteredHost
from weavepy.daemon.tampering import PAUSE_S, Tampering
from weavepy.lab.system import in_namespace

pytestmark = pytest.mark.root
A = "10.32.0.1"
REPAIRED_S = 5.0


class Guarded(FilteredHost):
    """As on a kernel where whoever may change one table may change all."""

    def __init__(self, world: Namespaces) -> None:
        super().__init__(world)
        self.session = OldKernel
        self.policies = self.service()
        self.looks = 0

    async def close_a_pod(self) -> None:
        tell(self.policies.policies, pod("a", A, node="here", app="web"))
        tell(self.policies.policies, policy("deny", labels(app="web")))
        async with self.policies.changing:
            await self.policies.enforce()

    async def repair(self) -> None:
        self.looks += 1
        await self.policies.repair()

    async def until_repaired(self) -> None:
        async with asyncio.timeout(REPAIRED_S):
            while not (await self.policies.status()).repairs:
                await asyncio.sleep(0.01)
        assert A in self.tables()


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    world = Namespaces()
    try:
        host = Guarded(world)
        watch = in_namespace(host.namespace.name, host.filter.watch)
        guard = Tampering(lambda: watch, host.repair)
        guard.start()
        repairing = asyncio.create_task(guard.repair_for_ever())
        await host.close_a_pod()
        try:
            yield host
        finally:
            repairing.cancel()
            guard.close()
            host.close()
    finally:
        world.remove()


@pytest.mark.parametrize(
    "harm",
    ["flush ruleset", "flush map inet weavepy_policy ingress4", "delete table inet weavepy_policy"],
)
async def test_a_flush_by_somebody_else_is_undone_at_once(harm: str) -> None:
    async with guarded() as host:
        inside(host.namespace, "nft", harm)
        await host.until_repaired()


async def test_neither_our_own_changes_nor_those_of_other_tables_are_looked_into() -> None:
    async with guarded() as host:
        tell(host.policies.policies, policy("more", labels(app="web"), policyTypes=["Egress"]))
        async with host.policies.changing:
            await host.policies.enforce()
        inside(host.namespace, "nft", "add table inet weavepy; add chain inet weavepy c")
        await asyncio.sleep(3 * PAUSE_S)
        assert host.looks == 0
        inside(host.namespace, "nft", "flush ruleset")
        await host.until_repaired()
        await asyncio.sleep(3 * PAUSE_S)
        assert host.looks == 1


async def test_a_storm_of_changes_gets_a_look_now_and_then() -> None:
    async with guarded() as host:
        rules = "add rule inet weavepy_policy unjudged counter accept\n" * 5
        began = asyncio.get_running_loop().time()
        for _ in range(40):
            await asyncio.to_thread(inside, host.namespace, "nft", rules)
        lasted = asyncio.get_running_loop().time() - began
        await host.until_repaired()
        assert 1 <= host.looks <= lasted / PAUSE_S + 2

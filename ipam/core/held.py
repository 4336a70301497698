"""Addresses that are in use on this host, whatever the ring says about them.

A container holds its address, however its host came to know: after a lost disk it runs with what
no row speaks of (*held*), and after a take-over or an old disk with what is another peer's range
(*displaced*). Both are claimed from the owner about once a minute, and listed in the status until
that succeeds. Rows of an old disk that nothing is known to run with are *doubtful*: who asks again
is not answered with them before the ring is up to date.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from ipam.core.allocator import Allocator, Waiting
from ipam.core.effects import PersistedAddress, RunningAddress
from ipam.core.outbox import Outbox
from ipam.core.replica import Replica
from ipam.core.space import Space

CLAIM_INTERVAL_S = 60.0
"""How often addresses that containers hold in other peers' ranges are asked for."""


class HeldAddresses:
    def __init__(
        self, replica: Replica, space: Space, allocator: Allocator, outbox: Outbox
    ) -> None:
        self._replica = replica
        self._space = space
        self._allocator = allocator
        self._outbox = outbox
        self._held: dict[int, PersistedAddress] = {}
        self._displaced: dict[int, PersistedAddress] = {}
        self._loaded: dict[int, None] = {}
        """Addresses in use as far as our disk knows, until `handle_running` says what runs."""
        self._claim_at = math.inf
        self._next_request = 0

    def rows(self) -> Sequence[PersistedAddress]:
        """Return what is in use here and not ours, as far as we know."""
        for row in list(self._displaced.values()):
            if self._space.row(row.address) != row:
                del self._displaced[row.address]
        return [*self._held.values(), *self._displaced.values()]

    # --- what the host says ----------------------------------------------------------------

    def handle_loaded(self) -> None:
        self._loaded = {row.address: None for row in self._space.rows()}

    def handle_running(self, rows: Iterable[RunningAddress], now: float) -> None:
        """Running containers have these, after a restart."""
        for row in rows:
            stored = self._space.row(row.address)
            if stored and stored.owner == row.owner:
                self._loaded.pop(row.address, None)
            elif row.address in self._replica.universe:
                self._hold(row)
        self._allocator.doubtful, self._loaded = self._loaded, {}
        self._claim_at = now

    def reconcile(self, live: Sequence[RunningAddress], busy: Collection[str], now: float) -> None:
        """Forget what nothing runs with any more, and take up what runs and is not recorded."""
        running = {(one.address, one.owner) for one in live}
        for held in list(self._held.values()):
            gone = (held.address, held.owner) not in running and held.owner not in busy
            if gone and held.kind == "attachment":
                del self._held[held.address]
        for one in live:
            known = self._space.row(one.address) or self._held.get(one.address)
            if known is None and one.address in self._replica.universe and one.owner not in busy:
                self._hold(one)
                self._claim_at = now

    def release(self, owner: str, address: int | None) -> None:
        """Forget one address that this owner holds, or all."""
        for held in [row for row in self._held.values() if row.owner == owner]:
            if address in (None, held.address):
                del self._held[held.address]

    def _hold(self, row: RunningAddress) -> None:
        self._held[row.address] = PersistedAddress(
            row.address, row.owner, row.prefix_length, kind="attachment"
        )

    # --- what the ring says ----------------------------------------------------------------

    def handle_ranges_changed(self, now: float) -> None:
        before = self._displaced
        self._displaced = {
            row.address: row for row in self._space.rows() if not self._is_ours(row.address)
        }
        if self._displaced.keys() - before.keys():
            self._claim_at = now

    def take(self) -> None:
        """Put into use what running containers hold, as far as it lies in our ranges."""
        if not self._held or self._replica.ring is None:
            return
        for row in list(self._held.values()):
            if not self._is_ours(row.address):
                continue
            stored = self._space.row(row.address)
            if stored is not None and stored.owner != row.owner:
                text = self._replica.universe.text(row.address)
                self._outbox.log(
                    "warning",
                    f"{text} was stored as {stored.owner}'s, but {row.owner} runs with it",
                )
            self._space.use(row)
            del self._held[row.address]

    def settle_doubts(self, now: float) -> None:
        """Now that the ring is up to date: what our disk took for in use here, nothing is known
        to run with, and is another's, may long be in use there."""
        if not self._allocator.doubtful:
            return
        for address in self._allocator.doubtful:
            row = self._space.row(address)
            if row is not None and not self._is_ours(address):
                self._space.forget(address)
                if row.kind == "manual":
                    # No interface tells whether it is in use: ask the owner for it.
                    self._held[address] = row
                    self._claim_at = now
        self._allocator.doubtful.clear()

    def next_claim_at(self) -> float:
        return self._claim_at if self._held or self._displaced else math.inf

    def claim(self, now: float) -> None:
        """Ask the owners of what our containers hold elsewhere for it, under negative numbers."""
        if now < self._claim_at or not (self._held or self._displaced):
            return
        self._claim_at = now + CLAIM_INTERVAL_S
        for row in self.rows():
            self._next_request -= 1
            waiting = Waiting(
                self._next_request,
                "claim",
                row.owner,
                None,
                row.address,
                row.prefix_length,
                now,
                now + CLAIM_INTERVAL_S / 2,
                row.kind,
            )
            self._outbox.add(self._allocator.add(waiting))

    def _is_ours(self, address: int) -> bool:
        entry = self._replica.ring.covering(address) if self._replica.ring else None
        return entry is not None and entry.owner == self._replica.ourself

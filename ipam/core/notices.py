"""What an operator is told unasked: warnings in the status, each with what can be done about it."""

from __future__ import annotations

from ipam.core.held import HeldAddresses
from ipam.core.outbox import Outbox
from ipam.core.ranges import Network
from ipam.core.replica import Replica
from ipam.core.restart import COPIED, RestartCheck
from weavepy.base.names import PeerName


class Notices:
    def __init__(
        self,
        replica: Replica,
        network: Network,
        restart: RestartCheck,
        held: HeldAddresses,
        outbox: Outbox,
    ) -> None:
        self._replica = replica
        self._network = network
        self._restart = restart
        self._held = held
        self._outbox = outbox
        self._lasting: dict[str, str] = {}

    def add(self, topic: str, text: str) -> None:
        """Warn until the next start; of one topic only the latest is shown."""
        self._lasting[topic] = text
        self._outbox.log("warning", text)

    def warnings(self, now: float) -> tuple[str, ...]:
        warnings = list(self._lasting.values())
        warnings += [self.foreign_text(p, what) for p, what in self._replica.foreign.items()]
        if self._restart.is_copied(now):
            warnings.append(COPIED)
        if self._outbox.disk_error:
            warnings.append(f"addresses cannot be given out: {self._outbox.disk_error}")
        if self._restart.promised_by and not self._restart.passed:
            warnings.append(self.restart_reason(now))
        ring, universe = self._replica.ring, self._replica.universe
        for row in self._held.rows():
            entry = ring.covering(row.address) if ring is not None else None
            known = entry is not None and row.address in universe
            whose = self._replica.label(entry.owner) if entry and known else "nobody we know"
            warnings.append(
                f"{row.owner} runs with {universe.text(row.address)}, which belongs to"
                f" {whose}: detach and attach it again to give it another address"
            )
        return tuple(warnings)

    def restart_reason(self, now: float) -> str:
        """Return why a restarted host does not give out addresses yet."""
        if not self._restart.promised_by:
            return self._restart.reason(now)
        names = ", ".join(map(self._replica.label, self._restart.promised_by))
        return (
            f"this host was declared dead (`weavepy rmpeer`), and {names} agreed, but cannot say"
            " whether its addresses were taken over: start the host on which that command ran, or"
            f" run `weavepy rmpeer {self._replica.label(self._replica.ourself)} --force` on another"
            " while this one is stopped"
        )

    def foreign_text(self, peer: PeerName, what: str) -> str:
        """`what`: the ring or the range that the peer lives with."""
        if what.startswith("ring"):
            ring = self._replica.ring
            ours, same = (ring.ring_id.hex() if ring else "none"), ""
        else:
            ours, same = str(self._network), f", with --ipalloc-range {self._network} for this one"
        return (
            f"{self._replica.label(peer)} lives with another address {what} (ours: {ours}): both"
            " go on, but may give the same address to two containers. Choose which of the two is to"
            " stay; on each host of the other detach what is attached, run `weavepy reset`, and"
            f" then the line that `weavepy join --show` prints on a host that stays{same}"
        )

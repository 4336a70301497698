"""Requests for addresses, from the moment they are made until they are answered.

Most are answered at once, from our own space. The others wait, each with a deadline and with a
reason that says what it waits for and what an operator can do; `work` tries them again, in the
order in which they came, whenever something has changed. The allocator is given a replica whose
ring exists; while there is none, or while a restart is being checked, `Ipam` does not let it work
and says itself what the requests wait for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from ipam.core.donors import ASK_TIMEOUT_S, DonorSearch, Stage
from ipam.core.effects import (
    RING_CHANNEL,
    AnswerRequest,
    ErrorKind,
    IpamEffect,
    OwnerKind,
    PersistedAddress,
    Unicast,
)
from ipam.core.messages import AddressRequest, Answer, Message, SpaceRequest, encode_message
from ipam.core.ranges import Network, usable
from ipam.core.replica import Replica
from ipam.core.space import Space
from weavepy.base.deadline import NEVER, Deadline, earliest
from weavepy.base.names import PeerName

MAX_WAITING = 4096
"""Requests that may wait at a time; more means that nobody takes their deadlines seriously."""

RETRY_S = 1.0
"""How long to wait before asking a peer again that was not ready."""


@dataclass(slots=True)
class Waiting:
    """A request that is not answered yet."""

    request: int
    kind: Literal["allocate", "claim", "prime"]
    owner: str
    network: Network | None
    """The subnet to allocate in."""
    address: int
    """The address that is claimed."""
    prefix_length: int
    since: float
    deadline: float
    owner_kind: OwnerKind = "manual"
    reason: str = ""
    asked: PeerName | None = None
    ask_id: int = 0
    ask_until: float = 0.0


class Allocator:
    def __init__(self, replica: Replica, space: Space, rng: Random) -> None:
        self._replica = replica
        self._space = space
        self._rng = rng
        self._waiting: dict[int, Waiting] = {}
        self._searches: dict[Network, DonorSearch] = {}
        self._next_id = rng.randrange(1, 2**32)
        self._reachable: Mapping[PeerName, None] = {}
        self._out: list[IpamEffect] = []
        self.doubtful: dict[int, None] = {}
        """Addresses in use as far as an old disk knows, which may be another's by now. Nobody is
        answered with them before that is settled."""

    @property
    def waiting(self) -> Mapping[int, Waiting]:
        return self._waiting

    def add(self, waiting: Waiting) -> list[IpamEffect]:
        assert waiting.request not in self._waiting, "request numbers are unique"
        if len(self._waiting) >= MAX_WAITING:
            text = f"{MAX_WAITING} requests are waiting already; see `weavepy ipam status`"
            return [AnswerRequest(waiting.request, None, text, "too-many")]
        self._waiting[waiting.request] = waiting
        return []

    def cancel(self, request: int) -> list[IpamEffect]:
        if self._waiting.pop(request, None) is None:
            return []
        return [AnswerRequest(request, None, "cancelled", "cancelled")]

    def fail_all(self, error: str, kind: ErrorKind) -> list[IpamEffect]:
        answers: list[IpamEffect] = [
            AnswerRequest(request, None, error, kind) for request in self._waiting
        ]
        self._waiting.clear()
        self._searches.clear()
        return answers

    def expire(self, now: float) -> list[IpamEffect]:
        """Answer the requests whose time is up."""
        over = [waiting for waiting in self._waiting.values() if waiting.deadline <= now]
        for waiting in over:
            del self._waiting[waiting.request]
        return [
            AnswerRequest(
                waiting.request,
                None,
                f"timed out after {max(0.0, now - waiting.since):.0f} s: {waiting.reason}",
                "timeout",
            )
            for waiting in over
        ]

    def explain(self, reason: str) -> None:
        """Give all that waits the same reason."""
        for waiting in self._waiting.values():
            waiting.reason = reason

    def answer_held(self) -> list[IpamEffect]:
        """Answer what was asked before and needs no decision: the owner has it already."""
        self._out = []
        for waiting in list(self._waiting.values()):
            if waiting.kind == "allocate":
                self._answer_from_rows(waiting)
            elif waiting.kind == "claim":
                row = self._space.row(waiting.address)
                held = row is not None and row.owner == waiting.owner and waiting.request > 0
                if held and waiting.address not in self.doubtful:
                    self._give(waiting, waiting.address)
        return self._out

    def work(self, reachable: Mapping[PeerName, None], now: float) -> list[IpamEffect]:
        """Go on with everything that waits, as far as it goes."""
        self._out = []
        self._reachable = reachable
        for waiting in list(self._waiting.values()):
            if waiting.kind == "prime":
                del self._waiting[waiting.request]
                self._out.append(AnswerRequest(waiting.request, None, None))
            elif waiting.kind == "claim":
                self._try_claim(waiting, now)
            else:
                self._try_allocate(waiting, now)
        wanted = {waiting.network for waiting in self._waiting.values()}
        for network in [network for network in self._searches if network not in wanted]:
            del self._searches[network]
        return self._out

    def restart_searches(self) -> None:
        """Peers came or went: who could not be asked may be asked now."""
        for search in self._searches.values():
            if search.stage is Stage.RESTING:
                search.restart()
        for waiting in self._waiting.values():
            if waiting.asked is not None and waiting.asked not in self._reachable:
                waiting.asked = None
                waiting.ask_until = 0.0

    def handle_answer(self, source: PeerName, answer: Answer, now: float) -> list[IpamEffect]:
        """A peer that we asked has answered; its update is merged already."""
        for search in self._searches.values():
            if search.asked == source and search.ask_id == answer.id:
                if answer.granted:
                    search.restart()
                else:
                    search.handle_refusal()
                return []
        for waiting in self._waiting.values():
            if waiting.asked == source and waiting.ask_id == answer.id:
                return self._handle_claim_answer(waiting, source, answer, now)
        return []

    def next_deadline(self, works: bool) -> Deadline:
        """`works` says whether `work` will be called: only then do time-outs of asks matter."""
        first = min((waiting.deadline for waiting in self._waiting.values()), default=math.inf)
        if works and self._waiting:
            for waiting in self._waiting.values():
                if waiting.kind == "claim" and waiting.ask_until > 0:
                    first = min(first, waiting.ask_until)
            for search in self._searches.values():
                if search.waits:
                    first = min(first, search.until)
        return earliest(Deadline(first, "a waiting request"), NEVER)

    # --- allocating ------------------------------------------------------------------------

    def _try_allocate(self, waiting: Waiting, now: float) -> None:
        network = waiting.network
        assert network is not None
        if self._answer_from_rows(waiting) or self._answer_from_free(waiting):
            return
        search = self._searches.setdefault(network, DonorSearch(usable(network)))
        donors = {} if search.waits and now < search.until else self._replica.donors(search.bounds)
        for _ in Stage:
            donor = search.choose(donors, self._reachable, self._rng, now)
            if donor is not None:
                self._ask_for_space(search, donor, now)
            if search.stage is Stage.PRESSED:
                oldest = self._space.oldest_cooling(search.bounds)
                if oldest is not None:
                    self._give(waiting, oldest)
                    return
            if search.waits:
                break
            if search.stage is Stage.ENDED:
                self._refuse(waiting, self._no_space(network, search), "no-space")
                return
        waiting.reason = self._search_reason(network, search)

    def _answer_from_rows(self, waiting: Waiting) -> bool:
        network = waiting.network
        assert network is not None
        bounds = usable(network)
        for row in self._space.rows_of(waiting.owner):
            fits = row.address in bounds and row.prefix_length == waiting.prefix_length
            if fits and row.address not in self.doubtful:
                self._give(waiting, row.address)
                return True
        return False

    def _answer_from_free(self, waiting: Waiting) -> bool:
        assert waiting.network is not None
        address = self._space.next_free(usable(waiting.network))
        if address is None:
            return False
        self._give(waiting, address)
        return True

    def _ask_for_space(self, search: DonorSearch, donor: PeerName, now: float) -> None:
        ring = self._replica.ring
        assert ring is not None
        search.ask(donor, self._new_id(), now)
        offset = search.bounds.start - ring.universe.first
        self._send(
            donor,
            SpaceRequest(
                search.ask_id,
                ring.ring_id,
                offset,
                search.bounds.size - 1,
                search.stage is Stage.PRESSED,
            ),
        )

    def _search_reason(self, network: Network, search: DonorSearch) -> str:
        if search.asked is not None:
            return (
                f"no free address in {network} on this host: asked"
                f" {self._replica.label(search.asked)} for space"
            )
        missing = self._labels([*search.silent, *search.unreachable])
        return (
            f"no free address in {network} on the hosts that answer: waiting for {missing};"
            " start or reconnect them (`weavepy status connections`), or release addresses"
        )

    def _no_space(self, network: Network, search: DonorSearch) -> str:
        others = len(search.refused)
        where = f"on this host and {others} others" if others else "on this host"
        text = (
            f"no free address in {network} {where}: release addresses (`weavepy ps`), or use"
            " another subnet, or start the mesh with a larger --ipalloc-range"
        )
        ring = self._replica.ring
        if ring is not None and any(piece.meet(search.bounds) for piece in ring.contested()):
            text += "; part of it is frozen by a contradiction, see `weavepy ipam status`"
        return text

    # --- claiming --------------------------------------------------------------------------

    def _try_claim(self, waiting: Waiting, now: float) -> None:
        ring = self._replica.ring
        assert ring is not None
        address = waiting.address
        text = ring.universe.text(address)
        row = self._space.row(address)
        if row is not None and row.owner != waiting.owner:
            self._refuse(waiting, self.in_use_text(row), "in-use")
            return
        # Requests of our own, with negative numbers, are for rows whose range is not ours.
        if (row is not None and waiting.request > 0) or self._space.owns(address):
            self._give(waiting, address)
            return
        entry = ring.covering(address)
        if entry is None or entry.owner not in self._reachable:
            waiting.ask_until = 0.0  # asked or not, there is nothing to wait for now
        if entry is None:
            waiting.reason = f"waiting for news of who owns {text}: the ring is incomplete here"
        elif entry.owner == self._replica.ourself:
            self._refuse(waiting, frozen_text(text), "frozen")
        elif entry.owner in self._replica.avoid:
            waiting.ask_until = 0.0
            waiting.reason = f"{self._replica.label(entry.owner)} is just being taken over"
        elif entry.owner not in self._reachable:
            waiting.reason = (
                f"{text} lies in the range of {self._replica.label(entry.owner)}, which is not"
                " reachable: start or reconnect it, or take another address"
            )
        elif waiting.ask_until <= now:
            waiting.asked, waiting.ask_id = entry.owner, self._new_id()
            waiting.ask_until = now + ASK_TIMEOUT_S
            waiting.reason = f"asked {self._replica.label(entry.owner)} to hand over {text}"
            self._send(
                entry.owner,
                AddressRequest(waiting.ask_id, ring.ring_id, address - ring.universe.first),
            )

    def _handle_claim_answer(
        self, waiting: Waiting, source: PeerName, answer: Answer, now: float
    ) -> list[IpamEffect]:
        waiting.asked = None
        assert self._replica.ring is not None
        entry = self._replica.ring.covering(waiting.address)
        moved = entry is not None and entry.owner != source
        waiting.ask_until = now if moved else now + RETRY_S
        if answer.granted or answer.kind in ("moved", "busy"):
            return []
        self._out = []
        self._refuse(waiting, answer.error, "frozen" if answer.kind == "frozen" else "in-use")
        return self._out

    def in_use_text(self, row: PersistedAddress) -> str:
        text = self._replica.universe.text(row.address)
        host = self._replica.label(self._replica.ourself)
        return f"{text} is in use by container {row.owner} on {host}"

    # --- answering -------------------------------------------------------------------------

    def _give(self, waiting: Waiting, address: int) -> None:
        row = PersistedAddress(
            address, waiting.owner, waiting.prefix_length, kind=waiting.owner_kind
        )
        before = self._space.row(address)
        if before is None or replace(before, kind=row.kind) != row:
            self._space.use(row)
        del self._waiting[waiting.request]
        self._out.append(
            AnswerRequest(waiting.request, address, None, prefix_length=waiting.prefix_length)
        )

    def _refuse(self, waiting: Waiting, error: str, kind: ErrorKind) -> None:
        del self._waiting[waiting.request]
        self._out.append(AnswerRequest(waiting.request, None, error, kind))

    def _send(self, peer: PeerName, message: Message) -> None:
        self._out.append(Unicast(RING_CHANNEL, peer, encode_message(message)))

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _labels(self, peers: list[PeerName]) -> str:
        names = [self._replica.label(peer) for peer in dict.fromkeys(peers)]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def frozen_text(address: str) -> str:
    return (
        f"{address} is frozen: two peers contradict each other about who owns it; see"
        " `weavepy ipam status`"
    )

"""Taking a dead peer's ranges over, with the consent of a majority.

**Who is asked.** The *electorate* are the owners of ranges, as the ring names them, the dead one
among them. The ring is what all peers replicate and keep on disk; whom somebody happens to be
connected to is not. Consent takes more than half of the electorate, or exactly half with the
lowest name in it. The dead peer counts in the total although it has no say: then any two
majorities of one electorate have a member in common, whoever they declare dead, and the two halves
of a mesh that is cut in two cannot take each other over. Peers that own nothing may object if they
see the dead one alive, but their consent does not count. An asker and a voter whose electorates
differ first tell each other what they know.

**What is agreed on** is one value, who the taker is and in which epoch, by single-decree Paxos per
dead peer (and per earlier fence of it, as a peer may die again). So two operators on two hosts get
one outcome, and whoever comes later is told of it. A voter answers the first step with what it
knows of the ranges in question; the taker therefore knows of every donation that the dead peer
made known to any of a majority. Promises are on disk before they are told.

**Who objects.** A voter that can reach the peer, or whose datapath still has a session with it,
or that hears of anybody who has. One objection ends the request.

All of it goes to the one that asked: it has most likely a need, and from there space moves by
donation, as always. With `force` nobody is asked: the operator vouches that the peer is dead.

**With a register outside** (Kubernetes) that knows who is gone for good, those have no say and are
not counted: the others are asked what they know and whether they object, as ever, and a majority
of them suffices, be it one. Then no second step among the peers decides, since two askers might
not agree on who is gone and so have disjoint majorities, but a compare-and-swap on the register.
Its word is final: it is applied by whoever reads it, also where somebody objects by then.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec

from ipam.core.effects import AnswerRequest, ErrorKind, SettleTakeOver
from ipam.core.messages import ConsentAnswer, ConsentRequest
from ipam.core.promise import Promise
from ipam.core.ranges import Range, normalise
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Fence
from weavepy.base.names import PeerName

GATHER_S = 1.0
"""How long those who are reachable may take to answer the first step, when enough have."""

STEP_S = 2.0
"""How long a ballot may take before it is given up for a higher one."""

AGAIN_S = 0.2
"""The shortest wait between two ballots; a random part comes on top."""

AVOID_S = 60.0
"""How long a voter takes no space from a peer that it has promised away. A ballot that was not
decided by then never will be: its asker has long opened another."""

MAX_TAKE_OVERS = 64
MAX_PROMISES = 4096
MAX_AREA_ENTRIES = 8192
"""What fits into one frame, with room to spare."""

Send = Callable[[PeerName, ConsentRequest | ConsentAnswer], None]
NO_BALLOT = (0, "")


@dataclass(slots=True)
class TakeOver:
    """A request of an operator on this host."""

    request: int
    peer: PeerName
    since: float
    deadline: float
    gone: Mapping[PeerName, None] | None = None
    """Who has no say; None: there is no register, and the peers decide."""
    id: int = 0
    round: int = 0
    started_at: float = 0.0
    again_at: float = 0.0
    """When to open the next ballot, if this one comes to nothing."""
    wake_at: float = math.inf
    """When enough have consented, and the others have had their time to object."""
    value: tuple[PeerName, int] | None = None
    """Taker and epoch, in the second step, or while the register is asked."""
    asked: dict[PeerName, None] = field(default_factory=dict)
    consent: dict[PeerName, ConsentAnswer] = field(default_factory=dict)
    refused: dict[PeerName, str] = field(default_factory=dict)
    unheard: tuple[PeerName, ...] = ()
    """Members of the electorate that did not say what they know."""
    reason: str = ""


class Consent:
    """The asker's side and the voter's side of one peer. See the file's opening."""

    def __init__(self, replica: Replica, rng: Random, send: Send) -> None:
        self._replica = replica
        self._rng = rng
        self._send = send
        self._asking: dict[int, TakeOver] = {}
        self._next_id = rng.randrange(1, 2**32)
        self._rounds: dict[PeerName, int] = {}
        self._promised_at: dict[PeerName, float] = {}
        self._alive: Mapping[PeerName, None] = {}
        self._reachable: Mapping[PeerName, None] = {}
        self.changed = False
        """A promise or a fence was made: it must be on disk before anything else is said."""

    def handle_peers(
        self, reachable: Mapping[PeerName, None], alive: Mapping[PeerName, None]
    ) -> None:
        """`alive` are those who are reachable, or with whom anybody has a session."""
        self._reachable, self._alive = reachable, alive

    def avoided(self, now: float) -> list[PeerName]:
        """Return the peers whose ranges may be somebody else's already, as we have agreed to."""
        return [peer for peer, at in self._promised_at.items() if at + AVOID_S > now]

    def handle_loaded(self, now: float) -> None:
        """Promises of our last run are as good as new ones."""
        self._promised_at = dict.fromkeys(self._replica.promises, now)

    def promised(self, peer: PeerName) -> bytes:
        """Return to whom we have consented that this peer's ranges go, outcome unknown."""
        promise = self._replica.promises.get(peer)
        if promise is None or promise.accepted is None or promise.after < self._after(peer):
            return b""
        return _raw(PeerName(promise.taker))

    def handle_fences(self, fenced: Iterable[PeerName]) -> None:
        """These take-overs are settled: what we promised about them has served its purpose."""
        for peer in fenced:
            promise = self._replica.promises.get(peer)
            if promise is not None and promise.after < self._after(peer):
                del self._replica.promises[peer]
            self._promised_at.pop(peer, None)
            for one in self._asking.values():
                if one.peer == peer and one.gone is not None:
                    # The register has answered. If the peer has got more since, we ask again.
                    one.value, one.again_at = None, one.since

    def next_at(self) -> float:
        return min(
            (min(one.deadline, one.again_at, one.wake_at) for one in self._asking.values()),
            default=math.inf,
        )

    # --- asking ----------------------------------------------------------------------------

    def ask(
        self,
        request: int,
        peer: PeerName,
        force: bool,
        deadline: float,
        now: float,
        gone: Iterable[PeerName] | None = None,
    ) -> None:
        """Begin to take over; `work` goes on with it, and answers."""
        absent = None if gone is None else dict.fromkeys(gone)
        one = TakeOver(request, peer, now, deadline, absent, again_at=now)
        self._asking[request] = one
        if force and self._objection(one.peer) is None and self._owned(one.peer):
            ring = self._replica.ring
            assert ring is not None
            self._decide(peer, Fence(ring.highest_epoch() + 1, self._replica.ourself))

    @property
    def under_way(self) -> Mapping[int, TakeOver]:
        return self._asking

    def cancel(self, request: int) -> bool:
        return self._asking.pop(request, None) is not None

    def work(self, now: float) -> list[AnswerRequest | SettleTakeOver]:
        """Go on with everything that is under way; returns answers to those who asked."""
        answers: list[AnswerRequest | SettleTakeOver] = []
        for one in list(self._asking.values()):
            answer = self._advance(one, now)
            if answer is not None:
                answers.append(answer)
            if isinstance(answer, AnswerRequest):
                del self._asking[one.request]
        return answers

    def _advance(self, one: TakeOver, now: float) -> AnswerRequest | SettleTakeOver | None:
        ring = self._replica.ring
        label = self._replica.label(one.peer)
        if ring is None:
            return _refuse(one, "there is no ring yet, so there is nothing to take over", "unknown")
        if (one.value is None or one.gone is not None) and not self._owned(one.peer):
            fence = ring.fences().get(one.peer)
            if fence is None:
                return _refuse(one, f"{label} owns no part of the ring", "unknown")
            return _done(one, self._outcome(one, fence))
        objection = self._objection(one.peer)
        if objection is not None:
            return _refuse(one, *objection)
        seen_by = [peer for peer, why in one.refused.items() if why == "alive"]
        if seen_by:
            names = ", ".join(map(self._replica.label, seen_by))
            text = (
                f"{names} still sees {label} alive: only a peer that is gone can be taken over;"
                " stop its router (or `weavepy reset` there) and repeat this"
            )
            return _refuse(one, text, "alive")
        electorate = self._counted(one)
        possible = {peer: None for peer in electorate if self._has_say(peer, one.peer)}
        if electorate and not is_majority(possible, electorate):
            return _refuse(one, self._missing(possible, electorate, one.peer), "no-majority")
        if now >= one.deadline:
            why = one.reason or "not enough of them answered"
            return _refuse(one, f"timed out after {now - one.since:.0f} s: {why}", "timeout")
        if now >= one.again_at:
            self._open(one, now)
        return self._count(one, electorate, now)

    def _objection(self, peer: PeerName) -> tuple[str, ErrorKind] | None:
        label = self._replica.label(peer)
        if peer == self._replica.ourself:
            text = "this host cannot take itself over: to leave the mesh, run `weavepy reset`"
            return text, "usage"
        if peer in self._alive:
            text = (
                f"{label} is alive, as this host sees it: to take it out of the mesh, run `weavepy"
                " reset` on it"
            )
            return text, "alive"
        return None

    def _has_say(self, voter: PeerName, dead: PeerName) -> bool:
        return voter != dead and (voter == self._replica.ourself or voter in self._reachable)

    def _missing(
        self,
        possible: Mapping[PeerName, None],
        electorate: Sequence[PeerName],
        dead: PeerName,
    ) -> str:
        away = [peer for peer in electorate if peer not in possible and peer != dead]
        names = ", ".join(map(self._replica.label, away[:8]))
        needed = len(electorate) // 2 + 1
        text = (
            f"{len(possible)} of {needed} peers needed are reachable (more than half of the"
            f" {len(electorate)} that own addresses, the dead one counted)"
        )
        if away:
            text += f": start or reconnect {names}"
        elif 2 * len(possible) == len(electorate):
            tie = self._replica.label(min(electorate))
            text += f"; half of them would do only with {tie}"
        return (
            f"{text}; or, if you know that {self._replica.label(dead)} is dead and will not"
            " return with containers, repeat this with --force"
        )

    def _open(self, one: TakeOver, now: float) -> None:
        """Open a ballot, higher than all we know of."""
        ring = self._replica.ring
        assert ring is not None
        promise = self._promise(one.peer)
        known = max(self._rounds.get(one.peer, 0), promise.ballot[0], one.round)
        self._next_id += 1
        one.id, one.round = self._next_id, known + 1
        one.started_at, one.again_at = now, now + STEP_S
        one.value = None
        one.wake_at = math.inf
        one.consent.clear()
        one.refused.clear()
        one.asked = {peer: None for peer in self._reachable if peer != one.peer}
        self._tell(one, now)

    def _tell(self, one: TakeOver, now: float) -> None:
        request = self._request(one)
        for peer in one.asked:
            self._send(peer, request)
        mine = self._vote(self._replica.ourself, request, (), now)
        if mine.granted:
            one.consent[self._replica.ourself] = mine

    def _request(self, one: TakeOver) -> ConsentRequest:
        ring = self._replica.ring
        assert ring is not None
        taker, epoch = one.value or ("", 0)
        return ConsentRequest(
            one.id,
            ring.ring_id,
            _raw(one.peer),
            self._after(one.peer),
            one.round,
            _electorate_hash(self.electorate()),
            _raw(PeerName(taker)) if taker else b"",
            epoch,
            self._replica.encode_entries(self._area(one.peer)[:MAX_AREA_ENTRIES]),
        )

    def handle_answer(self, source: PeerName, answer: ConsentAnswer, now: float) -> None:
        """A voter has answered; its update is merged already."""
        for one in self._asking.values():
            if one.id != answer.id or source not in one.asked:
                continue
            self._rounds[one.peer] = max(self._rounds.get(one.peer, 0), answer.round)
            if answer.granted:
                one.consent[source] = answer
                continue
            one.refused[source] = answer.kind
            one.reason = f"{self._replica.label(source)}: {answer.error}"
            if answer.kind in ("stale", "outbid", "busy"):
                again_at = now + AGAIN_S * (1 + 2 * self._rng.random())
                one.again_at = min(one.again_at, max(again_at, one.started_at + AGAIN_S))

    def _count(
        self, one: TakeOver, electorate: Sequence[PeerName], now: float
    ) -> AnswerRequest | SettleTakeOver | None:
        consenting = {peer: None for peer in one.consent if peer in electorate}
        if electorate and not is_majority(consenting, electorate):
            return None
        if one.value is not None and one.gone is not None:
            return None
        if one.value is not None:
            taker, epoch = one.value
            fence = Fence(epoch, taker)
            self._decide(one.peer, fence)
            if self._owned(one.peer):
                # An old ballot was brought to its end, and the peer has got more since.
                one.value, one.again_at = None, now
                return self._advance(one, now)
            return _done(one, self._outcome(one, fence))
        silent = [p for p in one.asked if p not in one.consent and p not in one.refused]
        if silent and now < one.started_at + GATHER_S:
            one.wake_at = one.started_at + GATHER_S
            one.again_at = max(one.again_at, one.started_at + STEP_S)
            return None
        one.wake_at = math.inf
        ring = self._replica.ring
        assert ring is not None
        accepted = [a.accepted for a in one.consent.values() if a.accepted is not None]
        if accepted:
            _, _, taker_raw, epoch = max(accepted, key=lambda found: found[:2])
            one.value = (PeerName(taker_raw.hex(":")), epoch)
        else:
            one.value = (self._replica.ourself, ring.highest_epoch() + 1)
        if one.gone is not None:
            one.again_at = math.inf
            taker, epoch = one.value
            return SettleTakeOver(one.request, one.peer, self._after(one.peer), epoch, taker)
        self._next_id += 1
        one.id = self._next_id
        one.unheard = tuple(p for p in electorate if p not in one.consent and p != one.peer)
        one.asked = {peer: None for peer in one.consent if peer != self._replica.ourself}
        one.consent.clear()
        one.again_at = now + STEP_S
        self._tell(one, now)
        return self._count(one, electorate, now) if not one.asked else None

    def _decide(self, peer: PeerName, fence: Fence) -> None:
        ring = self._replica.ring
        assert ring is not None
        ring.join_fences({peer: fence})
        self.changed = True

    def _outcome(self, one: TakeOver, fence: Fence) -> str:
        label, taker = self._replica.label(one.peer), self._replica.label(fence.taker)
        heir = "this host" if fence.taker == self._replica.ourself else taker
        text = f"{label} is taken over: its addresses went to {heir}"
        if one.unheard:
            names = ", ".join(map(self._replica.label, one.unheard[:8]))
            text += (
                f"; {names} could not be asked, and loses what {label} gave it in its last moments"
                " without anybody else hearing of it"
            )
        return text

    # --- voting ----------------------------------------------------------------------------

    def handle_request(
        self, source: PeerName, request: ConsentRequest, told: Sequence[Entry], now: float
    ) -> ConsentAnswer:
        """Consent or say why not. What the asker `told` is merged already."""
        return self._vote(source, request, told, now)

    def _vote(
        self, source: PeerName, request: ConsentRequest, told: Sequence[Entry], now: float
    ) -> ConsentAnswer:
        ring = self._replica.ring
        if ring is None or request.ring_id != ring.ring_id:
            return ConsentAnswer(
                request.id, False, "foreign", "it lives with another ring", 0, None, b""
            )
        peer = PeerName(request.peer.hex(":"))
        promise = self._promise(peer)
        area = self._area(peer, told)
        ballot = (request.round, str(source))
        kind, error = self._why_not(peer, request, ballot, len(area))
        if kind:
            return self._answer(request, peer, area, kind, error)
        if request.taker:
            taker = request.taker.hex(":")
            promise = Promise(request.after, ballot, ballot, taker, request.epoch)
        else:
            promise = msgspec.structs.replace(promise, ballot=ballot)
        self._replica.promises[peer] = promise
        self._promised_at[peer] = now
        self.changed = True
        return self._answer(request, peer, area)

    def _why_not(
        self, peer: PeerName, request: ConsentRequest, ballot: tuple[int, str], pieces: int
    ) -> tuple[str, str]:
        """Return the kind and the text of what speaks against it; empty if nothing does."""
        promises = self._replica.promises
        if peer == self._replica.ourself or peer in self._alive:
            return "alive", "it is alive"
        if request.after != self._after(peer):
            return "stale", "it has been taken over meanwhile"
        if request.electorate != _electorate_hash(self.electorate()):
            return "stale", "it knows of other owners of ranges"
        if pieces > MAX_AREA_ENTRIES:
            return "too-many", "its ranges are in too many pieces for one message"
        if ballot < self._promise(peer).ballot:
            return "outbid", "another host asks the same at this moment"
        if peer not in promises and len(promises) >= MAX_PROMISES:
            return "busy", "too many take-overs are under way"
        return "", ""

    def _answer(
        self,
        request: ConsentRequest,
        peer: PeerName,
        area: Sequence[Entry],
        kind: str = "",
        error: str = "",
    ) -> ConsentAnswer:
        promise = self._promise(peer)
        accepted = None
        if promise.accepted is not None:
            opener, taker = PeerName(promise.accepted[1]), PeerName(promise.taker)
            accepted = (promise.accepted[0], _raw(opener), _raw(taker), promise.epoch)
        update = self._replica.encode_entries(area[:MAX_AREA_ENTRIES])
        return ConsentAnswer(request.id, not kind, kind, error, promise.ballot[0], accepted, update)

    # --- what both need --------------------------------------------------------------------

    def electorate(self) -> list[PeerName]:
        ring = self._replica.ring
        return list(ring.owners()) if ring is not None else []

    def _counted(self, one: TakeOver) -> list[PeerName]:
        """Of whom a majority is needed. Nobody, if all owners of ranges are gone for good."""
        return [peer for peer in self.electorate() if one.gone is None or peer not in one.gone]

    def _after(self, peer: PeerName) -> int:
        ring = self._replica.ring
        fence = ring.fences().get(peer) if ring is not None else None
        return 0 if fence is None else fence.epoch

    def _promise(self, peer: PeerName) -> Promise:
        """Return what was promised about the take-over of this peer that is the next."""
        promise = self._replica.promises.get(peer)
        after = self._after(peer)
        if promise is None or promise.after < after:
            return Promise(after, NO_BALLOT)
        return promise

    def _owned(self, peer: PeerName) -> list[Entry]:
        ring = self._replica.ring
        return ring.owned_by(peer) if ring is not None else []

    def _area(self, peer: PeerName, told: Sequence[Entry] = ()) -> list[Entry]:
        """Return all our entries where this peer owns something, or did as we were `told`."""
        ring = self._replica.ring
        assert ring is not None
        unroll = ring.universe.unroll
        was = [piece for entry in told for piece in unroll(entry.token, entry.size)]
        ranges = normalise([*ring.ranges_of(peer), *was])
        return [
            entry
            for entry in ring.entries()
            if entry.owner == peer
            or any(_touches(ranges, piece) for piece in unroll(entry.token, entry.size))
        ]


def is_majority(consenting: Mapping[PeerName, None], electorate: Sequence[PeerName]) -> bool:
    """More than half, or half with the lowest name: any two have a member in common."""
    count = sum(peer in consenting for peer in electorate)
    if 2 * count == len(electorate):
        return count > 0 and min(electorate) in consenting
    return 2 * count > len(electorate)


def _touches(ranges: Sequence[Range], piece: Range) -> bool:
    at = bisect_right(ranges, piece.start, key=lambda mine: mine.start)
    return any(mine.meet(piece) is not None for mine in ranges[max(0, at - 1) : at + 1])


def _electorate_hash(electorate: Sequence[PeerName]) -> bytes:
    return hashlib.blake2b(" ".join(electorate).encode(), digest_size=8).digest()


def _raw(peer: PeerName) -> bytes:
    return bytes.fromhex(peer.replace(":", ""))


def _refuse(one: TakeOver, error: str, kind: ErrorKind) -> AnswerRequest:
    return AnswerRequest(one.request, None, error, kind)


def _done(one: TakeOver, text: str) -> AnswerRequest:
    return AnswerRequest(one.request, None, None, text=text)

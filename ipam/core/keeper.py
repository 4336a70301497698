"""Whoever changes the ring, or hears that others have, ends here: what follows from it.

Our own writes are saved and announced; what others wrote is passed on, and looked at for what it
means to this host: ranges gained, lost, or taken over by a fence. In each case the space is told
which ranges are ours now. The ring itself comes into being here too, from votes, a seed or by
hearsay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipam.core.allocator import Allocator
from ipam.core.compactor import Compactor
from ipam.core.consent import Consent
from ipam.core.election import Election
from ipam.core.held import HeldAddresses
from ipam.core.hints import HintTeller
from ipam.core.history import History
from ipam.core.messages import Repair
from ipam.core.notices import Notices
from ipam.core.outbox import Outbox
from ipam.core.paxos import Vote
from ipam.core.replica import Learnt, Replica
from ipam.core.restart import RestartCheck
from ipam.core.ring import Entry, Fence, Ring
from ipam.core.rumours import Rumours
from ipam.core.space import Space
from weavepy.base.names import PeerName

TAKE_OVER = "`weavepy rmpeer`, or its Kubernetes node was deleted"


class RingKeeper:
    """`expects_peers`: see `Ipam`."""

    def __init__(
        self,
        replica: Replica,
        space: Space,
        *,
        allocator: Allocator,
        compactor: Compactor,
        consent: Consent,
        election: Election,
        expects_peers: bool,
        held: HeldAddresses,
        hints: HintTeller,
        history: History,
        notices: Notices,
        outbox: Outbox,
        restart: RestartCheck,
    ) -> None:
        self._replica = replica
        self._space = space
        self._allocator = allocator
        self._compactor = compactor
        self._consent = consent
        self._election = election
        self._expects_peers = expects_peers
        self._held = held
        self._hints = hints
        self._history = history
        self._notices = notices
        self._outbox = outbox
        self._restart = restart
        self._rumours = Rumours()
        self._told_fences: dict[PeerName, Fence] = {}
        self.reachable: Mapping[PeerName, None] = {}

    # --- how a ring comes into being -------------------------------------------------------

    def handle_loaded(self, now: float) -> None:
        """The replica has been restored from the disk, or is new."""
        self._told_fences = dict(self._replica.fences)
        if self._replica.ring is not None:
            self._check_restart(now)
            self._outbox.save_ring()

    def begin_ring(self, ring: Ring, reason: str) -> None:
        """This is the first ring of the mesh. Whoever calls saves it, and tells others."""
        self._replica.ring = ring
        ranges = ring.ranges_of(self._replica.ourself)
        self._history.note("ring-made", ranges, None, reason)

    def begin_seed(self, ring: Ring, names: Sequence[PeerName], now: float) -> None:
        self.begin_ring(ring, f"from the seed of {len(names)} peers")
        self._outbox.save_ring()
        self._check_restart(now)  # a seed that lost its disk looks just like a new one

    def begin_appointed(self, ring: Ring, new: bool, now: float) -> None:
        """`new`: it was decided on at this moment, so nobody can have changed anything yet."""
        self.begin_ring(ring, "the Kubernetes API server has it")
        if not new:
            self._check_restart(now)
        self.wrote(ring.entries(), now)

    def adopt_decided_ring(self, now: float) -> None:
        if self._replica.ring is not None or not self._election.votes:
            return
        proposal = self._replica.paxos.decided()
        if proposal is None:
            return
        ring = Ring.divide(proposal.ring_id, self._replica.universe, proposal.peers)
        count = len(proposal.peers)
        self._outbox.log("info", f"the first ring was agreed on by {count} peers")
        self.begin_ring(ring, f"{count} peers agreed on it")
        # Everyone who finds out says so: from here on we no longer pass votes on.
        self.wrote(ring.entries(), now)

    def tell_votes(self, votes: Mapping[PeerName, Vote]) -> None:
        """Everyone hears of who opens a ballot; the others' votes matter to the opener alone.

        Fifty peers that pass each vote on would send ninety thousand messages for one ring.
        """
        if not votes:
            return
        self._outbox.save_ring()
        for peer, vote in votes.items():
            opener = vote.promised.opener
            if vote.leads(peer) or opener not in self.reachable:
                self._outbox.announce(Learnt(votes={peer: vote}))
            else:
                told = self._replica.encode_votes({peer: vote})
                self._outbox.send(opener, Repair(told, []))

    def _check_restart(self, now: float) -> None:
        assert self._replica.ring is not None
        ourself = self._replica.ourself
        owners = [peer for peer in self._replica.ring.owners() if peer != ourself]
        self._restart.begin(owners, self._expects_peers, now)

    # --- what we write ---------------------------------------------------------------------

    def wrote(self, entries: Sequence[Entry], now: float) -> None:
        """We changed entries of ours: on disk first, then to everyone."""
        self._outbox.save_ring()
        self.refresh_space(now)
        self._outbox.announce(Learnt(entries=list(entries)))

    def take_over(self, now: float) -> None:
        """Go on with take-overs, and write down as ours what fences have made ours."""
        if self._outbox.disk_error:
            return
        self._outbox.add(self._consent.work(now))
        if self._consent.changed:
            self._consent.changed = False
            self._outbox.save_ring()
        ring = self._replica.ring
        if ring is None or not ring.fences() or not self._restart.passed:
            return
        fences = dict(ring.fences())
        told = fences != self._told_fences
        self._told_fences = fences
        ourself = self._replica.ourself
        for dead, entries in ring.inherited_by(ourself).items():
            self._history.note_entries("took-over", entries, dead, TAKE_OVER)
            label = self._replica.label(dead)
            self._outbox.log("info", f"took over {len(entries)} ranges of {label}")
        written = ring.stamp(ourself, self._replica.generation)
        if written or told:
            self._consent.handle_fences(fences)
            self.wrote(written, now)
            self._allocator.restart_searches()

    def compact(self, stays: bool, now: float) -> None:
        """Merge neighbouring ranges of ours when it is time. `stays`: we do not leave the mesh."""
        may_write = stays and self._restart.passed and not self._outbox.disk_error
        written = self._compactor.work(may_write and self._replica.ring is not None, now)
        if written:
            self.wrote(written, now)

    def refresh_space(self, now: float) -> None:
        """Tell the space which ranges are ours."""
        ring = self._replica.ring
        if ring is None:
            return
        inherited = [
            piece
            for entry in ring.owned_by(self._replica.ourself)
            if entry.epoch
            for piece in ring.universe.unroll(entry.token, entry.size)
        ]
        owned = ring.ranges_of(self._replica.ourself)
        self._space.set_ranges(owned, ring.contested(), inherited)
        self._held.handle_ranges_changed(now)
        self._compactor.handle_ranges_changed()

    def tell_hint(self, now: float) -> None:
        """Tell how much is free here, and what others have told of themselves, when it is time."""
        if self._replica.ring is None:
            return
        told = self._hints.pass_on(now)
        ourself = self._replica.ourself
        hint = self._hints.tell(self._replica.hints.get(ourself), now)
        if hint is not None:
            self._replica.hints[ourself] = told[ourself] = hint
        if told:
            self._outbox.announce(Learnt(hints=told))

    def rumours_at(self) -> float:
        return self._rumours.next_at

    def tell_rumours(self, now: float) -> None:
        """Pass on what others wrote, when it is time."""
        ring = self._replica.ring
        if ring is None:
            return
        entries, source = self._rumours.take(ring, len(self.reachable), now)
        if entries:
            self._outbox.announce(Learnt(entries=list(entries)), source)

    # --- what others have written ----------------------------------------------------------

    def handle_learnt(self, source: PeerName, learnt: Learnt, now: float) -> None:
        """Pass on what a merge taught us, and do what follows from it."""
        if learnt.votes:
            self.tell_votes(self._election.think(self.reachable, now))
        if learnt:
            self._outbox.save_ring_soon(now)
        learnt.votes = {peer: vote for peer, vote in learnt.votes.items() if vote.leads(peer)}
        self._hints.hear(learnt.hints, len(self.reachable), now)
        learnt.hints = {}
        if learnt.votes or learnt.fences or learnt.ring_adopted:
            self._outbox.announce(learnt, source)
        else:
            self._rumours.hear(source, learnt.entries, now)
            self.tell_rumours(now)
        if learnt.lost:
            self._report_lost(learnt.lost)
        if learnt.fences:
            self._handle_fences(learnt.fences, now)
        if learnt.ring_adopted:
            self._history.note("adopted", (), source, "this host had no ring yet")
            self._check_restart(now)
        if learnt.gained or learnt.lost or learnt.ring_adopted:
            self._outbox.save_ring()
            self.refresh_space(now)
        elif self._touch_ours([*learnt.entries, *learnt.gone]):
            self.refresh_space(now)
        self.adopt_decided_ring(now)

    def _touch_ours(self, entries: Sequence[Entry]) -> bool:
        return any(
            self._space.touches(piece)
            for entry in entries
            for piece in self._replica.universe.unroll(entry.token, entry.size)
        )

    def handle_verdicts(self, fences: Mapping[PeerName, Fence], now: float) -> None:
        """A register outside has decided on these."""
        ring = self._replica.ring
        news = {} if ring is None else ring.join_fences(fences)
        if news:
            self._handle_fences(news, now)
            self._outbox.announce(Learnt(fences=news))

    def _handle_fences(self, fences: Mapping[PeerName, Fence], now: float) -> None:
        self._consent.handle_fences(fences)
        self._outbox.save_ring()
        if self._replica.ourself in fences:
            self._report_fenced(fences[self._replica.ourself])
        self.refresh_space(now)
        # They were passed on with the news.
        self._told_fences = dict(self._replica.fences)

    def _report_lost(self, lost: Sequence[Entry]) -> None:
        newest = max(entry.generation for entry in lost)
        if newest >= self._replica.generation:
            cause = (
                "a later run of this peer wrote them: its disk was restored from an older copy,"
                " or another host runs with a copy of its state directory"
            )
            self._replica.generation = newest + 1
        else:
            cause = "the last writes before its disk was lost"
        self._history.note_entries("lost", lost, None, cause)
        text = (
            f"{len(lost)} ranges that this host took for its own have been changed ({cause});"
            " it has learnt the ring anew"
        )
        self._notices.add("lost", text)

    def _report_fenced(self, fence: Fence) -> None:
        taker = self._replica.label(fence.taker)
        text = (
            f"while this host was away, {taker} took its addresses over ({TAKE_OVER}):"
            " it has come back empty, and gets addresses from the others as it needs them"
        )
        self._notices.add("fenced", text)
        before = self._space.owned()
        self._history.note("taken-over", before, fence.taker, f"{TAKE_OVER}, while we were away")

"""The address ring of one peer: what the daemon and the simulator drive.

`Ipam` takes requests for addresses, what other peers say, and the passing of time; it returns
effects. It is also the gossip channel "ring". It is a facade: within, the replica knows the ring,
the space knows our addresses, the allocator holds requests until they can be answered, the
conversation understands what others say, the keeper does what follows when the ring changes, the
election makes the first ring and the restart check keeps an old copy of ourself from doing harm.

Every input ends in `_settle`, which lets whatever waits go on and then empties the outbox: one
`Persist` of all that changed in front of all that was said.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

from ipam.core.allocator import Allocator, Waiting
from ipam.core.audit import Finding, audit
from ipam.core.compactor import Compactor
from ipam.core.consent import MAX_TAKE_OVERS, Consent
from ipam.core.conversation import Conversation
from ipam.core.departure import Departure
from ipam.core.effects import (
    AnswerRequest,
    IpamEffect,
    OwnerKind,
    PersistedAddress,
    RunningAddress,
    Saved,
)
from ipam.core.election import (
    Appointed,
    Consensus,
    Election,
    InitMode,
    Observer,
    Seed,
    check_init,
    seed_ring_id,
)
from ipam.core.giver import Giver
from ipam.core.held import HeldAddresses
from ipam.core.hints import HintTeller
from ipam.core.history import History
from ipam.core.keeper import RingKeeper
from ipam.core.leaks import LeakWatch
from ipam.core.loading import load
from ipam.core.messages import Consult
from ipam.core.notices import Notices
from ipam.core.outbox import Outbox
from ipam.core.ranges import Network, Universe, check_subnet, usable, why_reserved
from ipam.core.replica import Replica
from ipam.core.restart import GRACE_S, RestartCheck
from ipam.core.ring import Fence, Ring
from ipam.core.space import Space
from ipam.core.status import AddressOwner, IpamStatus, status_of
from weavepy.base.deadline import Deadline, earliest
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName

NOT_ON_RECORD = (
    "this host is not on record with Kubernetes yet, and nobody could ever reclaim what it got:"
    " waiting for the API server"
)
LEAVING = "this host is leaving the mesh and gives out no addresses"

__all__ = [
    "Appointed",
    "Consensus",
    "InitMode",
    "Ipam",
    "Observer",
    "RunningAddress",
    "Saved",
    "Seed",
]


class Ipam:
    """See the file's opening. `expects_peers`: peers were given or are remembered, so a restarted
    peer waits a little for them. `known_owners`: attachments that still exist; the addresses that
    others held are freed; None keeps them all."""

    def __init__(
        self,
        *,
        ourself: PeerName,
        nickname: str,
        universe: Network,
        default_subnet: Network | None,
        init: InitMode,
        saved: Saved | None,
        rng: Random,
        now: float,
        known_owners: Collection[str] | None = None,
        expects_peers: bool = True,
    ) -> None:
        self.ourself = ourself
        self.network = universe
        self.universe = Universe.of(universe)
        self.default_subnet = universe if default_subnet is None else default_subnet
        check_subnet(self.default_subnet, self.network)
        self._reachable: dict[PeerName, None] = {}
        self._neighbours: dict[PeerName, None] = {}
        self._deadline: Deadline | None = None
        """What `next_deadline` said last, if nothing came in since."""
        quorum = check_init(init)
        replica = self._replica = Replica(ourself, nickname, self.universe, quorum)
        space = self._space = Space()
        history = self._history = History(replica)
        outbox = self._outbox = Outbox(replica, space, history)
        allocator = self._allocator = Allocator(replica, space, rng)
        self._election = Election(replica, init, rng)
        self._awaits_record = isinstance(init, Appointed)
        """Whether we must be put on record outside before we ask for space."""
        self._restart = RestartCheck(rng, awaits_word=isinstance(init, Appointed))
        self._consent = Consent(replica, rng, outbox.send)
        self._leaks = LeakWatch()
        self._hints = HintTeller(space)
        self._held = HeldAddresses(replica, space, allocator, outbox)
        self._notices = Notices(replica, universe, self._restart, self._held, outbox)
        self._compactor = Compactor(replica, history)
        self._keeper = RingKeeper(
            replica,
            space,
            allocator=allocator,
            compactor=self._compactor,
            consent=self._consent,
            election=self._election,
            expects_peers=expects_peers,
            held=self._held,
            hints=self._hints,
            history=history,
            notices=self._notices,
            outbox=outbox,
            restart=self._restart,
        )
        self._departure = Departure(replica, self._keeper, history, outbox)
        self._conversation = Conversation(
            replica,
            allocator=allocator,
            consent=self._consent,
            departure=self._departure,
            giver=Giver(replica, space),
            held=self._held,
            history=history,
            keeper=self._keeper,
            notices=self._notices,
            outbox=outbox,
            restart=self._restart,
        )
        if saved is not None:
            load(saved, replica, space, self.network, known_owners, now)
        self._held.handle_loaded()
        self._keeper.handle_loaded(now)
        self._consent.handle_loaded(now)
        if replica.ring is None and expects_peers:
            self._election.look_around(now + GRACE_S)
        if replica.ring is None and isinstance(init, Seed):
            ring = Ring.divide(seed_ring_id(self.universe, init.names), self.universe, init.names)
            self._keeper.begin_seed(ring, init.names, now)
        self._keeper.refresh_space(now)

    # --- requests --------------------------------------------------------------------------

    def allocate(
        self,
        request: int,
        owner: str,
        subnet: Network | None,
        deadline: float,
        now: float,
        kind: OwnerKind = "manual",
    ) -> list[IpamEffect]:
        """Find an address for this owner; the same one if it has one in this subnet."""
        network = self.default_subnet if subnet is None else subnet
        try:
            check_subnet(network, self.network)
        except UsageError as error:
            return [AnswerRequest(request, None, str(error), "usage")]
        prefix = network.prefixlen
        waiting = Waiting(request, "allocate", owner, network, 0, prefix, now, deadline, kind)
        return self._add(waiting, now)

    def claim(
        self,
        request: int,
        owner: str,
        address: int,
        prefix_length: int | None,
        deadline: float,
        now: float,
        kind: OwnerKind = "manual",
    ) -> list[IpamEffect]:
        """Reserve this very address for the owner, wherever in the ring it lies."""
        if address not in self.universe:
            text = f"{self.universe.text(address)} lies outside the address range {self.network}"
            return [AnswerRequest(request, None, text, "outside-universe")]
        prefix = self.default_subnet.prefixlen if prefix_length is None else prefix_length
        reserved = why_reserved(self.universe, address, prefix)
        if reserved:
            return [AnswerRequest(request, None, reserved, "reserved")]
        waiting = Waiting(request, "claim", owner, None, address, prefix, now, deadline, kind)
        return self._add(waiting, now)

    def release(
        self, request: int, owner: str, address: int | None, now: float
    ) -> list[IpamEffect]:
        """Free one address, or all of an owner; an empty owner means whoever has the address.

        Answered at once with what was freed, which may be nothing.
        """
        if address is None:
            rows = self._space.rows_of(owner)
        else:
            row = self._space.row(address)
            rows = (row,) if row is not None and owner in ("", row.owner) else ()
        for row in rows:
            self._free(row.address, now)
        self._held.release(owner, address)
        released = tuple(row.address for row in rows)
        self._outbox.add([AnswerRequest(request, None, None, released=released)])
        return self._settle(now)

    def cancel(self, request: int, now: float) -> list[IpamEffect]:
        """The asker is gone; it is answered all the same. Answered requests are ignored."""
        self._outbox.add(self._allocator.cancel(request))
        if self._consent.cancel(request):
            self._outbox.add([AnswerRequest(request, None, "cancelled", "cancelled")])
        return self._settle(now)

    def prime(self, request: int, deadline: float, now: float) -> list[IpamEffect]:
        """Answered when there is a ring."""
        return self._add(Waiting(request, "prime", "", None, 0, 0, now, deadline), now)

    def claim_running(self, rows: Sequence[RunningAddress], now: float) -> list[IpamEffect]:
        """Take over what running containers hold, after a restart.

        What lies in our own ranges is in use from here on, whatever was stored. What does not is
        claimed from its owner when there is one to be reached, and listed in the status till then.
        """
        self._held.handle_running(rows, now)
        return self._settle(now)

    def find_peers(self, text: str) -> list[PeerName]:
        """Return the peers of this name or nickname that own something or have been fenced."""
        ring = self._replica.ring
        known = {self.ourself, *(ring.owners() if ring else ()), *(ring.fences() if ring else ())}
        return [p for p in sorted(known) if text in (p, self._replica.nicknames.get(p))]

    def take_over(
        self, request: int, peer: PeerName, force: bool, deadline: float, now: float
    ) -> list[IpamEffect]:
        """Make the ranges of a dead peer ours, if a majority consents; see `ipam.core.consent`."""
        return self._take_over(request, peer, force, None, deadline, now)

    def reclaim(
        self,
        request: int,
        peer: PeerName,
        gone: Collection[PeerName],
        deadline: float,
        now: float,
    ) -> list[IpamEffect]:
        """The same on the word of a register outside that all of `gone` are gone for good; it
        decides between two that ask at one time. See `SettleTakeOver` and `ipam.core.consent`."""
        return self._take_over(request, peer, False, gone, deadline, now)

    def handle_verdicts(
        self,
        verdicts: Mapping[PeerName, tuple[int, PeerName]],
        now: float,
        on_record: bool = True,
    ) -> list[IpamEffect]:
        """The register outside was read: it knows these take-overs, each epoch and taker.

        `on_record`: it knows us, too, so that what we get can be taken over when we are gone.
        """
        self._restart.handle_word()
        self._awaits_record &= not on_record
        fences = {peer: Fence(epoch, taker) for peer, (epoch, taker) in sorted(verdicts.items())}
        self._keeper.handle_verdicts(fences, now)
        return self._settle(now)

    def appoint(
        self, ring_id: bytes, peers: Sequence[PeerName], new: bool, now: float
    ) -> list[IpamEffect]:
        """This is the first ring, in equal shares; see `Appointed`. Nothing if we have one.

        `new`: this host has just made it so.
        """
        if self._replica.ring is None:
            ring = Ring.divide(ring_id, self.universe, peers)
            self._keeper.begin_appointed(ring, new, now)
        return self._settle(now)

    def reconcile(
        self, live: Sequence[RunningAddress], busy: Collection[str], now: float
    ) -> list[IpamEffect]:
        """Compare what is recorded with what the kernel shows; call it about once a minute.

        Addresses of attachments that have been gone for two sightings are freed. What runs and
        is not recorded is taken up as after a restart, unless it is recorded for somebody else.
        `busy` are owners whose attachment changed while the kernel was looked at.
        """
        for row in self._leaks.look(self._space.rows(), live, busy, now):
            self._outbox.log(
                "warning",
                f"freed {self.universe.text(row.address)}: the interface of {row.owner} is gone",
            )
            self._free(row.address, now)
        self._held.reconcile(live, busy, now)
        return self._settle(now)

    def hand_over(self, peer: PeerName, now: float) -> list[IpamEffect]:
        """Give everything we own to this peer and stop giving out addresses: we leave for good.

        Repeated until the peer has confirmed it; see `handed_over`.
        """
        self._outbox.add(self._allocator.fail_all(LEAVING, "leaving"))
        for row in self._space.rows():
            self._space.forget(row.address)
        self._departure.begin(peer, now)
        return self._settle(now)

    @property
    def handed_over(self) -> bool:
        """True once the peer of `hand_over` has everything on its disk."""
        return self._departure.done

    # --- what others say -------------------------------------------------------------------

    def handle_gossip(self, source: PeerName, update: bytes, now: float) -> list[IpamEffect]:
        self._conversation.merge(source, update, now)
        return self._settle(now)

    def handle_unicast(self, source: PeerName, payload: bytes, now: float) -> list[IpamEffect]:
        self._conversation.handle_unicast(source, payload, now)
        return self._settle(now)

    def handle_peers_changed(
        self,
        reachable: Sequence[PeerName],
        now: float,
        sessions: Collection[PeerName] = (),
        neighbours: Iterable[PeerName] = (),
    ) -> list[IpamEffect]:
        """Say which peers can be reached now, over relays or not; ourself may be among them.

        `sessions`: with whom anybody has a session, even if their routers are down. `neighbours`:
        who can be reached without a relay.
        """
        self._neighbours = dict.fromkeys(neighbours)
        self._reachable = {peer: None for peer in sorted(reachable) if peer != self.ourself}
        alive = {peer: None for peer in sorted({*reachable, *sessions}) if peer != self.ourself}
        self._keeper.reachable = self._reachable
        self._consent.handle_peers(self._reachable, alive)
        self._compactor.handle_peers(self._reachable)
        self._conversation.handle_peers(self._reachable)
        self._allocator.restart_searches()
        return self._settle(now)

    def handle_identity_copied(self, text: str, now: float) -> list[IpamEffect]:
        """Another router that lives has our name: give out nothing before a peer has confirmed
        what is ours. Of two, the one with whom the others do not speak stands still."""
        ring = self._replica.ring
        owners = [] if ring is None else [peer for peer in ring.owners() if peer != self.ourself]
        self._restart.handle_copied(owners, now)
        return self._settle(now)

    # --- time ------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> list[IpamEffect]:
        self._space.cooled(now)
        self._outbox.handle_timeout(now)
        if self._departure.heir is None:
            self._keeper.tell_hint(now)
        self._keeper.tell_rumours(now)
        self._departure.handle_timeout(now)
        return self._settle(now)

    def next_deadline(self) -> Deadline:
        if self._deadline is None:
            self._deadline = self._find_deadline()
        return self._deadline

    def _find_deadline(self) -> Deadline:
        wanted = bool(self._allocator.waiting)
        works = self._replica.ring is not None and self._restart.passed
        tells = self._replica.ring is not None and self._departure.heir is None
        take_over_at = math.inf if self._outbox.disk_error else self._consent.next_at()
        claim_at = self._held.next_claim_at() if works else math.inf
        return earliest(
            self._allocator.next_deadline(works),
            Deadline(_or_never(self._restart.next_at()), "the check after a restart"),
            Deadline(_or_never(self._election.next_at(wanted)), "another ballot"),
            Deadline(_or_never(self._space.next_cooled_at()), "an address has cooled down"),
            Deadline(claim_at, "addresses held elsewhere"),
            Deadline(self._keeper.rumours_at(), "news to pass on"),
            Deadline(self._outbox.save_at, "news to save"),
            Deadline(_or_never(self._hints.next_at() if tells else None), "a hint to tell"),
            Deadline(self._departure.again_at, "the hand-over is not confirmed"),
            Deadline(take_over_at, "a take-over"),
            Deadline(self._compactor.next_at(), "entries to merge"),
        )

    def handle_disk(self, error: str, now: float) -> list[IpamEffect]:
        """Say why the disk takes nothing any more, or with "" that it does again.

        Meanwhile new requests fail with the error, nobody is given anything, and digests are not
        answered, as they would tell what is not on disk. Whoever performs effects must hold
        those behind the `Persist` that failed, in order, until the disk has taken it.
        """
        self._outbox.disk_error = error
        return self._settle(now)

    # --- the channel -----------------------------------------------------------------------

    def digest(self) -> bytes:
        return self._replica.digest()

    def answer(self, digest: bytes) -> bytes | None:
        self._deadline = None
        return self._conversation.answer(digest)

    def combine(self, first: bytes, second: bytes) -> bytes:
        return self._replica.codec.combine(first, second)

    # --- queries ---------------------------------------------------------------------------

    @property
    def ring(self) -> Ring | None:
        """For looking at, by status pages and checkers."""
        return self._replica.ring

    def addresses(self) -> Sequence[PersistedAddress]:
        """Return all addresses in use on this host."""
        return self._space.rows()

    def lookup(self, owner: str) -> Sequence[PersistedAddress]:
        return self._space.rows_of(owner)

    def owner_of(self, address: int) -> AddressOwner:
        row = self._space.row(address)
        entry = self._replica.ring.covering(address) if self._replica.ring else None
        peer = entry.owner if entry is not None and address in self.universe else None
        nickname = self._replica.nicknames.get(peer, "") if peer else ""
        return AddressOwner(peer, nickname, row.owner if row else "")

    def why_no_address(self, subnet: Network) -> str:
        """Why an allocation in this subnet would fail now; "" if it should not. Cheap."""
        if self._outbox.disk_error:
            return self._outbox.disk_error
        try:
            check_subnet(subnet, self.network)
        except UsageError as error:
            return str(error)
        if self._replica.ring is None:
            can = self._election.can_begin(self._reachable)
            return "" if can else self._election.reason(self._reachable)
        bounds = usable(subnet)
        free = self._space.next_free(bounds) is not None
        if free or self._space.oldest_cooling(bounds) is not None:
            return ""
        donors = self._replica.donors(bounds)
        if any(free for peer, free in donors.items() if peer in self._reachable):
            return ""
        return f"no free address in {subnet} on this host and those that it reaches"

    def status(self, now: float) -> IpamStatus:
        return status_of(
            self._replica,
            self._space,
            self._election,
            network=self.network,
            default_subnet=self.default_subnet,
            reachable=self._reachable,
            waiting=self._allocator.waiting,
            warnings=self._notices.warnings(now),
            now=now,
        )

    def audit(
        self, saved: Saved | None, live: Sequence[RunningAddress], busy: Collection[str]
    ) -> list[Finding]:
        """Return where ring, disk and interfaces do not say the same."""
        return audit(self._replica, self._space, saved, live, busy)

    @property
    def is_up_to_date(self) -> bool:
        """Whether the check after a restart is over."""
        return self._restart.passed

    def foreigners(self) -> list[PeerName]:
        """Return the peers that live with another ring than ours."""
        return list(self._replica.foreign)

    def check(self) -> None:
        """Assert everything that must hold between two inputs; for tests and simulators."""
        self._space.check()
        ring = self._replica.ring
        if ring is not None and not ring.contested() and not ring.gaps():
            ring.check_tiles()

    # --- helpers ---------------------------------------------------------------------------

    def _take_over(
        self,
        request: int,
        peer: PeerName,
        force: bool,
        gone: Collection[PeerName] | None,
        deadline: float,
        now: float,
    ) -> list[IpamEffect]:
        refusal = self._refusal(request)
        if refusal is not None:
            return [refusal]
        if len(self._consent.under_way) >= MAX_TAKE_OVERS:
            text = f"{MAX_TAKE_OVERS} take-overs are under way already: wait for them"
            return [AnswerRequest(request, None, text, "too-many")]
        self._consent.ask(request, peer, force, deadline, now, gone)
        return self._settle(now)

    def _add(self, waiting: Waiting, now: float) -> list[IpamEffect]:
        refusal = self._refusal(waiting.request)
        if refusal is not None:
            return [refusal]
        self._outbox.add(self._allocator.add(waiting))
        return self._settle(now)

    def _refusal(self, request: int) -> AnswerRequest | None:
        """Return the answer while nothing can be asked of this host."""
        if self._departure.heir is not None:
            return AnswerRequest(request, None, LEAVING, "leaving")
        if self._outbox.disk_error:
            return AnswerRequest(request, None, self._outbox.disk_error, "disk")
        return None

    def _free(self, address: int, now: float) -> None:
        if self._space.owns(address):
            self._space.cool(address, now)
        else:
            self._space.forget(address)

    def _settle(self, now: float) -> list[IpamEffect]:
        """Let what waits go on, then return everything, with what must be on disk first."""
        self._deadline = None
        self._outbox.add(self._allocator.expire(now))
        # First: what fences have made ours must be written down before the next input asks for it.
        self._consult(now)
        self._keeper.take_over(now)
        self._keeper.compact(self._departure.heir is None, now)
        self._replica.avoid = self._consent.avoided(now)
        self._held.take()
        if self._replica.ring is not None and self._restart.passed:
            self._held.settle_doubts(now)
            self._held.claim(now)
        if self._allocator.waiting:
            self._work(now)
        return self._outbox.drain()

    def _consult(self, now: float) -> None:
        """Ask what others know of the ring, as long as the check after a restart goes on."""
        was_passed = self._restart.passed
        for peer in self._restart.ask(self._reachable, now, self._neighbours):
            self._outbox.send(peer, Consult(1, self.digest()))
        if self._restart.passed and not was_passed:
            self._outbox.log("info", "the address ring is up to date, as far as anyone tells")

    def _work(self, now: float) -> None:
        if self._replica.ring is None:
            self._keeper.tell_votes(self._election.handle_wanted(self._reachable, now))
            self._keeper.adopt_decided_ring(now)
        if self._replica.ring is None:
            self._allocator.explain(self._election.reason(self._reachable))
            return
        self._outbox.add(self._allocator.answer_held())
        if not self._restart.passed:
            self._allocator.explain(self._notices.restart_reason(now))
            return
        if self._awaits_record and not self._replica.ring.owned_by(self.ourself):
            self._allocator.explain(NOT_ON_RECORD)
            return
        self._outbox.add(self._allocator.work(self._reachable, now))


def _or_never(at: float | None) -> float:
    return math.inf if at is None else at

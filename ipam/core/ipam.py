"""The address ring of one peer: what the daemon and the simulator drive.

`Ipam` takes requests for addresses, what other peers say, and the passing of time; it returns
effects. It is also the gossip channel "ring". Within, the replica knows the ring, the space knows
our addresses, the allocator holds requests until they can be answered, the giver serves other
peers' requests, the election makes the first ring and the restart check keeps an old copy of
ourself from doing harm.

Every input ends in `_settle`, which lets whatever waits go on and then puts one `Persist` of all
that changed in front of all that was said. What only others wrote is saved a little later: it is
their promise, not ours, and they have it on disk.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

from ipam.core.allocator import Allocator, Waiting
from ipam.core.audit import Finding, audit
from ipam.core.consent import MAX_TAKE_OVERS, Consent
from ipam.core.effects import (
    RING_CHANNEL,
    Announce,
    AnswerRequest,
    IpamEffect,
    LogLine,
    OwnerKind,
    Persist,
    PersistedAddress,
    RunningAddress,
    Saved,
    Unicast,
)
from ipam.core.election import IDLE, Consensus, Election, InitMode, Observer, Seed, seed_ring_id
from ipam.core.giver import Giver, Verdict
from ipam.core.hints import HintTeller
from ipam.core.history import History
from ipam.core.leaks import LeakWatch
from ipam.core.messages import (
    AddressRequest,
    Answer,
    ConsentAnswer,
    ConsentRequest,
    Consult,
    ConsultAnswer,
    ForeignUniverse,
    HandOver,
    HandOverDone,
    Message,
    Repair,
    SpaceRequest,
    Update,
    decode_message,
    encode_message,
)
from ipam.core.paxos import Vote
from ipam.core.ranges import Network, Range, Universe, check_subnet, subtract, why_reserved
from ipam.core.replica import MAX_ENTRIES_PER_UPDATE, Learnt, Replica
from ipam.core.restart import COPIED, GRACE_S, RestartCheck
from ipam.core.ring import Entry, Fence, Ring
from ipam.core.space import Space
from ipam.core.status import AddressOwner, IpamStatus, owner_rows, picture_of, waiting_rows
from weavepy.base.deadline import Deadline, earliest
from weavepy.base.errors import ProtocolError, UsageError, WeavepyError
from weavepy.base.names import PeerName

SAVE_NEWS_AFTER_S = 1.0
"""How long news that others wrote may wait for the disk."""

HAND_OVER_AGAIN_S = 1.0

TELL_RING_INTERVAL_S = 2.0
"""How often a peer that votes on the first ring is told, at most, that there is one."""

HELD_CLAIM_INTERVAL_S = 60.0
"""How often addresses that containers hold in other peers' ranges are asked for."""

LEAVING = "this host is leaving the mesh and gives out no addresses"

__all__ = [
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
        self._now = now
        self._rng = rng
        self._expects_peers = expects_peers
        self._reachable: dict[PeerName, None] = {}
        quorum = init.quorum if isinstance(init, Consensus) else 1
        if isinstance(init, Consensus) and init.peers < 1:
            raise UsageError("--ipalloc-init consensus needs at least one peer")
        if isinstance(init, Seed) and not init.names:
            raise UsageError("--ipalloc-init seed needs the names of the first peers")
        self._replica = Replica(ourself, nickname, self.universe, quorum)
        self._space = Space()
        self._allocator = Allocator(self._replica, self._space, rng)
        self._giver = Giver(self._replica, self._space)
        self._election = Election(self._replica, init, rng)
        self._restart = RestartCheck(rng)
        self._consent = Consent(self._replica, rng, self._send)
        self._leaks = LeakWatch()
        self._history = History(self._replica)
        self._held: dict[int, PersistedAddress] = {}
        self._displaced: dict[int, PersistedAddress] = {}
        self._loaded: dict[int, None] = {}
        """Addresses in use as far as our disk knows, until `claim_running` says what runs."""
        self._held_claim_at = math.inf
        self._warnings: dict[str, str] = {}
        self._told_ring_at: dict[PeerName, float] = {}
        self._next_own_request = 0
        self._out: list[IpamEffect] = []
        self._save_now = False
        self._save_at = math.inf
        self._disk_error = ""
        self._hints = HintTeller(self._space)
        self._leaving_to: PeerName | None = None
        self._hand_over_again_at = math.inf
        self._hand_over: dict[int, Sequence[Entry]] = {}
        """Pieces of the hand-over that are not confirmed yet, by their numbers."""
        self._handed_over = False
        self._malformed = 0
        self._load(saved, known_owners)
        self._consent.handle_loaded(now)
        self._told_fences: dict[PeerName, Fence] = dict(self._replica.fences)
        if self._replica.ring is None and expects_peers:
            self._election.look_around(now + GRACE_S)
        if self._replica.ring is None and isinstance(init, Seed):
            ring_id = seed_ring_id(self.universe, init.names)
            self._replica.ring = Ring.divide(ring_id, self.universe, init.names)
            self._history.note(
                "ring-made",
                self._replica.ring.ranges_of(ourself),
                None,
                f"from the seed of {len(init.names)} peers",
            )
            self._save_now = True
            self._begin_restart_check()  # a seed that lost its disk looks just like a new one
        self._refresh_space()

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
        self._now = now
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
        self._now = now
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
        self._now = now
        if address is None:
            rows = self._space.rows_of(owner)
        else:
            row = self._space.row(address)
            rows = (row,) if row is not None and owner in ("", row.owner) else ()
        for row in rows:
            self._free(row.address, now)
        for held in [row for row in self._held.values() if row.owner == owner]:
            if address in (None, held.address):
                del self._held[held.address]
        self._out.append(AnswerRequest(request, None, None, released=_addresses(rows)))
        return self._settle(now)

    def cancel(self, request: int, now: float) -> list[IpamEffect]:
        """The asker is gone; it is answered all the same. Answered requests are ignored."""
        self._now = now
        self._out += self._allocator.cancel(request)
        if self._consent.cancel(request):
            self._out.append(AnswerRequest(request, None, "cancelled", "cancelled"))
        return self._settle(now)

    def prime(self, request: int, deadline: float, now: float) -> list[IpamEffect]:
        """Answered when there is a ring."""
        self._now = now
        return self._add(Waiting(request, "prime", "", None, 0, 0, now, deadline), now)

    def claim_running(self, rows: Sequence[RunningAddress], now: float) -> list[IpamEffect]:
        """Take over what running containers hold, after a restart.

        What lies in our own ranges is in use from here on, whatever was stored. What does not is
        claimed from its owner when there is one to be reached, and listed in the status till then.
        """
        self._now = now
        for row in rows:
            stored = self._space.row(row.address)
            if stored and stored.owner == row.owner:
                self._loaded.pop(row.address, None)
            elif row.address in self.universe:
                self._hold(row)
        self._allocator.doubtful, self._loaded = self._loaded, {}
        self._held_claim_at = now
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
        self._now = now
        if self._leaving_to is not None:
            return [AnswerRequest(request, None, LEAVING, "leaving")]
        if self._disk_error:
            return [AnswerRequest(request, None, self._disk_error, "disk")]
        if len(self._consent.under_way) >= MAX_TAKE_OVERS:
            text = f"{MAX_TAKE_OVERS} take-overs are under way already: wait for them"
            return [AnswerRequest(request, None, text, "too-many")]
        self._consent.ask(request, peer, force, deadline, now)
        return self._settle(now)

    def reconcile(
        self, live: Sequence[RunningAddress], busy: Collection[str], now: float
    ) -> list[IpamEffect]:
        """Compare what is recorded with what the kernel shows; call it about once a minute.

        Addresses of attachments that have been gone for two sightings are freed. What runs and
        is not recorded is taken up as after a restart, unless it is recorded for somebody else.
        `busy` are owners whose attachment changed while the kernel was looked at.
        """
        self._now = now
        for row in self._leaks.look(self._space.rows(), live, busy, now):
            self._log(
                "warning",
                f"freed {self.universe.text(row.address)}: the interface of {row.owner} is gone",
            )
            self._free(row.address, now)
        running = {(one.address, one.owner) for one in live}
        for held in list(self._held.values()):
            gone = (held.address, held.owner) not in running and held.owner not in busy
            if gone and held.kind == "attachment":
                del self._held[held.address]
        for one in live:
            known = self._space.row(one.address) or self._held.get(one.address)
            if known is None and one.address in self.universe and one.owner not in busy:
                self._hold(one)
                self._held_claim_at = now
        return self._settle(now)

    def _hold(self, row: RunningAddress) -> None:
        self._held[row.address] = PersistedAddress(
            row.address, row.owner, row.prefix_length, kind="attachment"
        )

    def hand_over(self, peer: PeerName, now: float) -> list[IpamEffect]:
        """Give everything we own to this peer and stop giving out addresses: we leave for good.

        Repeated until the peer has confirmed it; see `handed_over`.
        """
        self._now = now
        ring = self._replica.ring
        self._leaving_to = peer
        self._out += self._allocator.fail_all(LEAVING, "leaving")
        for row in self._space.rows():
            self._space.forget(row.address)
        if ring is None or not self._space_to_hand_over():
            self._handed_over = True
            return self._settle(now)
        written: list[Entry] = []
        for piece in self._space_to_hand_over():
            written += ring.donate(
                self.ourself, piece.start, piece.size, peer, self._replica.generation
            )
        pieces = range(0, len(written), MAX_ENTRIES_PER_UPDATE)
        self._hand_over = {
            number: tuple(written[at : at + MAX_ENTRIES_PER_UPDATE])
            for number, at in enumerate(pieces, 1)
        }
        self._hand_over_again_at = now
        self._history.note_entries("handed-over", written, peer, "this host leaves (`reset`)")
        self._wrote(written)
        return self._settle(now)

    @property
    def handed_over(self) -> bool:
        """True once the peer of `hand_over` has everything on its disk."""
        return self._handed_over

    # --- what others say -------------------------------------------------------------------

    def handle_gossip(self, source: PeerName, update: bytes, now: float) -> list[IpamEffect]:
        self._now = now
        self._merge(source, update, now)
        return self._settle(now)

    def handle_unicast(self, source: PeerName, payload: bytes, now: float) -> list[IpamEffect]:
        self._now = now
        try:
            message = decode_message(payload)
        except ProtocolError as error:
            self._count_malformed(source, error)
            return self._settle(now)
        if isinstance(message, SpaceRequest | AddressRequest):
            self._handle_ask(source, message)
        elif isinstance(message, Answer):
            self._merge(source, message.update, now, gave="we asked for space")
            self._take_held()
            self._out += self._allocator.handle_answer(source, message, now)
        elif isinstance(message, Consult) and self._disk_error:
            pass
        elif isinstance(message, Consult):
            update = self.answer(message.digest) or b""
            promised = self._consent.promised(source)
            self._send(source, ConsultAnswer(message.id, update, promised))
        elif isinstance(message, ConsultAnswer):
            if message.update:
                self._merge(source, message.update, now)
            if message.promised and self.ourself not in self._replica.fences:
                self._restart.handle_promised(source, now)
            else:
                self._restart.handle_heard(source)
        elif isinstance(message, HandOver):
            self._merge(source, message.update, now, gave="it left and handed its ranges over")
            self._save_now = True
            self._send(source, HandOverDone(message.id))
        elif isinstance(message, HandOverDone):
            if source == self._leaving_to:
                self._hand_over.pop(message.id, None)
            if source == self._leaving_to and not self._hand_over:
                self._handed_over = True
                self._hand_over_again_at = math.inf
        elif isinstance(message, ConsentRequest):
            self._handle_consent_request(source, message, now)
        elif isinstance(message, ConsentAnswer):
            if message.update:
                self._merge(source, message.update, now)
            if message.kind == "stale":
                self._send(source, Consult(0, self.digest()))
            self._consent.handle_answer(source, message, now)
        else:
            self._handle_repair(source, message, now)
        return self._settle(now)

    def handle_peers_changed(
        self, reachable: Sequence[PeerName], now: float, sessions: Collection[PeerName] = ()
    ) -> list[IpamEffect]:
        """Say which peers can be reached now, over relays or not; ourself may be among them.

        `sessions`: with whom anybody has a session, even if their routers are down.
        """
        self._now = now
        self._reachable = {peer: None for peer in sorted(reachable) if peer != self.ourself}
        alive = {peer: None for peer in sorted({*reachable, *sessions}) if peer != self.ourself}
        self._consent.handle_peers(self._reachable, alive)
        for peer in [peer for peer in self._replica.foreign if peer not in self._reachable]:
            del self._replica.foreign[peer]
        for peer in [peer for peer in self._told_ring_at if peer not in self._reachable]:
            del self._told_ring_at[peer]
        self._allocator.restart_searches()
        return self._settle(now)

    def handle_identity_copied(self, text: str, now: float) -> list[IpamEffect]:
        """Another router that lives has our name: give out nothing before a peer has confirmed
        what is ours. Of two, the one with whom the others do not speak stands still."""
        self._now = now
        ring = self._replica.ring
        owners = [] if ring is None else [peer for peer in ring.owners() if peer != self.ourself]
        self._restart.handle_copied(owners, now)
        return self._settle(now)

    # --- time ------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> list[IpamEffect]:
        self._now = now
        self._space.cooled(now)
        if now >= self._save_at:
            self._save_now = True
        self._tell_hint(now)
        if now >= self._hand_over_again_at and self._leaving_to is not None:
            self._hand_over_again_at = now + HAND_OVER_AGAIN_S
            for number, entries in self._hand_over.items():
                update = self._replica.encode_entries(entries)
                self._send(self._leaving_to, HandOver(number, update))
        return self._settle(now)

    def next_deadline(self) -> Deadline:
        wanted = bool(self._allocator.waiting)
        works = self._replica.ring is not None and self._restart.passed
        tells = self._replica.ring is not None and self._leaving_to is None
        return earliest(
            self._allocator.next_deadline(works),
            Deadline(_or_never(self._restart.next_at()), "the check after a restart"),
            Deadline(_or_never(self._election.next_at(wanted)), "another ballot"),
            Deadline(_or_never(self._space.next_cooled_at()), "an address has cooled down"),
            Deadline(self._next_held_claim_at(), "addresses held elsewhere"),
            Deadline(self._save_at, "news to save"),
            Deadline(_or_never(self._hints.next_at() if tells else None), "a hint to tell"),
            Deadline(self._hand_over_again_at, "the hand-over is not confirmed"),
            Deadline(math.inf if self._disk_error else self._consent.next_at(), "a take-over"),
        )

    def handle_disk(self, error: str, now: float) -> list[IpamEffect]:
        """Say why the disk takes nothing any more, or with "" that it does again.

        Meanwhile new requests fail with the error, nobody is given anything, and digests are not
        answered, as they would tell what is not on disk. Whoever performs effects must hold
        those behind the `Persist` that failed, in order, until the disk has taken it.
        """
        self._now = now
        self._disk_error = error
        return self._settle(now)

    # --- the channel -----------------------------------------------------------------------

    def digest(self) -> bytes:
        return self._replica.digest()

    def answer(self, digest: bytes) -> bytes | None:
        return None if self._disk_error else self._replica.answer(digest)

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

    def status(self, now: float) -> IpamStatus:
        replica = self._replica
        ring = replica.ring
        owners = owner_rows(replica, self._reachable, self._space.free_count)
        return IpamStatus(
            state=self._state(),
            reason=self._state_reason(),
            universe=str(self.network),
            default_subnet=str(self.default_subnet),
            ring_id=ring.ring_id.hex() if ring else "",
            entries=len(ring) if ring else 0,
            allocated=self._space.in_use_count,
            cooling=self._space.cooling_count,
            free=self._space.free_count,
            owners=owners,
            frozen=tuple(self.universe.range_text(piece) for piece in self._contested()),
            waiting=waiting_rows(replica, self._allocator.waiting, now),
            warnings=self._all_warnings(),
            picture=picture_of(replica, owners),
        )

    def audit(
        self, saved: Saved | None, live: Sequence[RunningAddress], busy: Collection[str]
    ) -> list[Finding]:
        """Return where ring, disk and interfaces do not say the same."""
        return audit(self._replica, self._space, saved, live, busy)

    def _state(self) -> str:
        if self._replica.ring is not None:
            return "ready"
        return "idle" if self._election.can_begin(self._reachable) else "waiting"

    def _state_reason(self) -> str:
        match self._state():
            case "ready":
                return ""
            case "idle":
                return IDLE
        return self._election.reason(self._reachable)

    def foreigners(self) -> list[PeerName]:
        """Return the peers that live with another ring than ours."""
        return list(self._replica.foreign)

    def check(self) -> None:
        """Assert everything that must hold between two inputs; for tests and simulators."""
        self._space.check()
        ring = self._replica.ring
        if ring is not None and not ring.contested() and not ring.gaps():
            ring.check_tiles()

    # --- helpers: starting -----------------------------------------------------------------

    def _load(self, saved: Saved | None, known_owners: Collection[str] | None) -> None:
        if saved is None:
            return
        if saved.ring is not None:
            try:
                self._replica.restore(saved.ring)
            except ForeignUniverse as error:
                raise WeavepyError(
                    f"the stored address ring is for {error.universe}, not for {self.network}:"
                    f" launch with --ipalloc-range {error.universe}, or run `weavepy reset` to"
                    " leave that ring"
                ) from error
            except ProtocolError as error:
                raise WeavepyError(
                    f"the stored address ring cannot be read ({error}): move the database aside"
                    " and start again; the ring is learnt anew from the other hosts"
                ) from error
        for row in saved.addresses:
            self._space.use(replace(row, freed_at=None))
            gone = known_owners is not None and row.owner not in known_owners
            if row.freed_at is not None or gone:
                self._space.cool(row.address, self._now)
        self._loaded = {row.address: None for row in self._space.rows()}
        if self._replica.ring is not None:
            self._begin_restart_check()
            self._save_now = True

    def _begin_restart_check(self) -> None:
        assert self._replica.ring is not None
        owners = [peer for peer in self._replica.ring.owners() if peer != self.ourself]
        self._restart.begin(owners, self._expects_peers, self._now)

    # --- helpers: requests -----------------------------------------------------------------

    def _add(self, waiting: Waiting, now: float) -> list[IpamEffect]:
        if self._leaving_to is not None:
            return [AnswerRequest(waiting.request, None, LEAVING, "leaving")]
        if self._disk_error:
            return [AnswerRequest(waiting.request, None, self._disk_error, "disk")]
        self._out += self._allocator.add(waiting)
        return self._settle(now)

    def _free(self, address: int, now: float) -> None:
        if self._space.owns(address):
            self._space.cool(address, now)
        else:
            self._space.forget(address)

    def _take_held(self) -> None:
        """Put into use what running containers hold, as far as it lies in our ranges."""
        if not self._held or self._replica.ring is None:
            return
        for row in list(self._held.values()):
            if not self._mine(row.address):
                continue
            stored = self._space.row(row.address)
            if stored is not None and stored.owner != row.owner:
                text = self.universe.text(row.address)
                self._log(
                    "warning",
                    f"{text} was stored as {stored.owner}'s, but {row.owner} runs with it",
                )
            self._space.use(row)
            del self._held[row.address]

    def _mine(self, address: int) -> bool:
        entry = self._replica.ring.covering(address) if self._replica.ring else None
        return entry is not None and entry.owner == self.ourself

    # --- helpers: other peers --------------------------------------------------------------

    def _handle_ask(self, source: PeerName, message: SpaceRequest | AddressRequest) -> None:
        ring = self._replica.ring
        if ring is None or message.ring_id != ring.ring_id:
            verdict = Verdict(kind="foreign", error="this host has another ring")
        elif not self._restart.passed or self._disk_error or self._leaving_to is not None:
            verdict = Verdict(kind="busy", error="this host cannot give anything just now")
        elif isinstance(message, SpaceRequest):
            verdict = self._giver.give_space(source, message)
        else:
            verdict = self._giver.give_address(source, message)
        if verdict.written:
            given = [entry for entry in verdict.written if entry.owner == source]
            self._history.note_entries("donated", given, source, "it asked for space")
            self._wrote(verdict.written)
        update = self._replica.encode_entries(verdict.told)
        granted = not verdict.kind
        self._send(source, Answer(message.id, granted, verdict.kind, verdict.error, update))

    def _handle_consent_request(
        self, source: PeerName, message: ConsentRequest, now: float
    ) -> None:
        update = self._merge(source, message.update, now)
        if update is None or self._disk_error or not self._restart.passed:
            answer = ConsentAnswer(
                message.id, False, "busy", "it cannot say anything just now", 0, None, b""
            )
        else:
            answer = self._consent.handle_request(source, message, update.entries, now)
        if answer.kind == "stale":
            self._send(source, Consult(0, self.digest()))
        self._send(source, answer)

    def _handle_repair(self, source: PeerName, message: Repair, now: float) -> None:
        update = self._merge(source, message.update, now)
        if update is None or self._disk_error:
            return
        told = set(update.entries)
        entries = [entry for entry in self._replica.in_slices(message.wanted) if entry not in told]
        if entries:
            self._send(source, Repair(self._replica.encode_repair(entries), []))

    def _wrote(self, entries: Sequence[Entry]) -> None:
        """We changed entries of ours: on disk first, then to everyone."""
        self._save_now = True
        self._refresh_space()
        for update in self._replica.encode_news(Learnt(entries=list(entries))):
            self._out.append(Announce(RING_CHANNEL, update))

    def _merge(self, source: PeerName, data: bytes, now: float, gave: str = "") -> Update | None:
        """Join what a peer said; returns it decoded, or None if it is not for us."""
        try:
            update = self._replica.codec.decode(data)
        except ForeignUniverse as error:
            if self._replica.note_foreign_universe(source, error.universe):
                self._log("warning", self._foreign_text(source, f"range {error.universe}"))
            return None
        except ProtocolError as error:
            self._count_malformed(source, error)
            return None
        learnt = self._replica.merge(source, update)
        if learnt.foreign_ring:
            what = f"ring {update.ring_id.hex()}"
            self._log("warning", self._foreign_text(source, what))
        if learnt.received:
            giver = source if gave else None
            self._history.note_entries("received", learnt.received, giver, gave or "by gossip")
        self._handle_learnt(source, learnt, now)
        if not update.ring_id:
            self._tell_ring(source, now)
        if update.more and (learnt.entries or learnt.ring_adopted):
            self._send(source, Consult(0, self.digest()))
        if update.slices:
            wanted, entries = self._replica.compare_slices(update)
            if wanted and not self._disk_error:
                self._send(source, Repair(self._replica.encode_repair(entries), wanted))
        return update

    def _tell_ring(self, peer: PeerName, now: float) -> None:
        """Somebody speaks as if there were no ring yet: tell it, once in a while."""
        if self._replica.ring is None or peer not in self._reachable:
            return
        if now < self._told_ring_at.get(peer, -math.inf) + TELL_RING_INTERVAL_S:
            return
        answer = self.answer(b"V")
        if answer is not None:
            self._told_ring_at[peer] = now
            self._send(peer, Repair(answer, []))

    def _handle_learnt(self, source: PeerName, learnt: Learnt, now: float) -> None:
        if learnt.votes:
            self._tell_votes(self._election.think(self._reachable, now))
        if learnt:
            self._save_at = min(self._save_at, now + SAVE_NEWS_AFTER_S)
        learnt.votes = {peer: vote for peer, vote in learnt.votes.items() if vote.leads(peer)}
        self._hints.hear(learnt.hints, now)
        learnt.hints = {}
        if learnt:
            for update in self._replica.encode_news(learnt):
                self._out.append(Announce(RING_CHANNEL, update, learnt_from=source))
        if learnt.lost:
            self._report_lost(learnt.lost)
        if learnt.fences:
            self._consent.handle_fences(learnt.fences)
            self._save_now = True
            if self.ourself in learnt.fences:
                self._report_fenced(learnt.fences[self.ourself])
            self._refresh_space()
            # To be passed on by the news below.
            self._told_fences = dict(self._replica.fences)
        if learnt.ring_adopted:
            self._history.note("adopted", (), source, "this host had no ring yet")
            self._begin_restart_check()
        if learnt.gained or learnt.lost or learnt.ring_adopted:
            self._save_now = True
            self._refresh_space()
        elif learnt.entries and self._touch_ours(learnt.entries):
            self._refresh_space()
        self._adopt_decided_ring()

    def _touch_ours(self, entries: Sequence[Entry]) -> bool:
        return any(
            self._space.touches(piece)
            for entry in entries
            for piece in self.universe.unroll(entry.token, entry.size)
        )

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
        self._warnings["lost"] = text
        self._log("warning", text)

    def _report_fenced(self, fence: Fence) -> None:
        taker = self._replica.label(fence.taker)
        text = (
            f"while this host was away, {taker} took its addresses over (`weavepy rmpeer`):"
            " it has come back empty, and gets addresses from the others as it needs them"
        )
        self._warnings["fenced"] = text
        self._log("warning", text)
        before = self._space.owned()
        self._history.note("taken-over", before, fence.taker, "`weavepy rmpeer` while we were away")

    def _take_over(self, now: float) -> None:
        """Go on with take-overs, and write down as ours what fences have made ours."""
        if self._disk_error:
            return
        self._out += self._consent.work(now)
        if self._consent.changed:
            self._consent.changed = False
            self._save_now = True
        ring = self._replica.ring
        if ring is None or not ring.fences() or not self._restart.passed:
            return
        fences = dict(ring.fences())
        told = fences != self._told_fences
        self._told_fences = fences
        for dead, entries in ring.inherited_by(self.ourself).items():
            self._history.note_entries("took-over", entries, dead, "`weavepy rmpeer`")
            label = self._replica.label(dead)
            self._log("info", f"took over {len(entries)} ranges of {label}")
        written = ring.stamp(self.ourself, self._replica.generation)
        if written or told:
            self._consent.handle_fences(fences)
            self._wrote(written)
            self._allocator.restart_searches()

    def _adopt_decided_ring(self) -> None:
        if self._replica.ring is not None or not self._election.votes:
            return
        proposal = self._replica.paxos.decided()
        if proposal is None:
            return
        self._replica.ring = Ring.divide(proposal.ring_id, self.universe, proposal.peers)
        self._log("info", f"the first ring was agreed on by {len(proposal.peers)} peers")
        self._history.note(
            "ring-made",
            self._replica.ring.ranges_of(self.ourself),
            None,
            f"{len(proposal.peers)} peers agreed on it",
        )
        # Everyone who finds out says so: from here on we no longer pass votes on.
        self._wrote(self._replica.ring.entries())

    def _tell_votes(self, votes: Mapping[PeerName, Vote]) -> None:
        """Everyone hears of who opens a ballot; the others' votes matter to the opener alone.

        Fifty peers that pass each vote on would send ninety thousand messages for one ring.
        """
        if not votes:
            return
        self._save_now = True
        for peer, vote in votes.items():
            opener = vote.promised.opener
            if vote.leads(peer) or opener not in self._reachable:
                for update in self._replica.encode_news(Learnt(votes={peer: vote})):
                    self._out.append(Announce(RING_CHANNEL, update))
            else:
                self._send(opener, Repair(self._replica.encode_votes({peer: vote}), []))

    def _send(self, peer: PeerName, message: Message) -> None:
        self._out.append(Unicast(RING_CHANNEL, peer, encode_message(message)))

    # --- helpers: after each input ---------------------------------------------------------

    def _settle(self, now: float) -> list[IpamEffect]:
        """Let what waits go on, then return everything, with what must be on disk first."""
        self._out += self._allocator.expire(now)
        self._take_over(now)
        self._replica.avoid = self._consent.avoided(now)
        self._take_held()
        self._consult(now)
        self._settle_doubts()
        self._claim_held(now)
        if self._allocator.waiting:
            self._work(now)
        effects, self._out = self._out, []
        effects = [effect for effect in effects if not _is_our_own_answer(effect)]
        persist = self._take_persist()
        return effects if persist is None else [persist, *effects]

    def _next_held_claim_at(self) -> float:
        can_claim = self._replica.ring is not None and self._restart.passed
        return self._held_claim_at if can_claim and (self._held or self._displaced) else math.inf

    def _settle_doubts(self) -> None:
        """Now that the ring is up to date: what our disk took for in use here, nothing is known
        to run with, and is another's, may long be in use there."""
        if not self._allocator.doubtful or self._replica.ring is None or not self._restart.passed:
            return
        for address in self._allocator.doubtful:
            row = self._space.row(address)
            if row is not None and not self._mine(address):
                self._space.forget(address)
                if row.kind == "manual":
                    # No interface tells whether it is in use: ask the owner for it.
                    self._held[address] = row
                    self._held_claim_at = self._now
        self._allocator.doubtful.clear()

    def _claim_held(self, now: float) -> None:
        """Ask the owners of what our containers hold elsewhere for it, under negative numbers."""
        if now < self._held_claim_at or not (self._held or self._displaced):
            return
        if self._replica.ring is None or not self._restart.passed:
            return
        self._held_claim_at = now + HELD_CLAIM_INTERVAL_S
        for row in [*self._held.values(), *self._displaced_rows()]:
            self._next_own_request -= 1
            waiting = Waiting(
                self._next_own_request,
                "claim",
                row.owner,
                None,
                row.address,
                row.prefix_length,
                now,
                now + HELD_CLAIM_INTERVAL_S / 2,
                row.kind,
            )
            self._out += self._allocator.add(waiting)

    def _consult(self, now: float) -> None:
        """Ask what others know of the ring, as long as the check after a restart goes on."""
        was_passed = self._restart.passed
        for peer in self._restart.ask(self._reachable, now):
            self._send(peer, Consult(1, self.digest()))
        if self._restart.passed and not was_passed:
            self._log("info", "the address ring is up to date, as far as anyone tells")

    def _work(self, now: float) -> None:
        if self._replica.ring is None:
            self._tell_votes(self._election.handle_wanted(self._reachable, now))
            self._adopt_decided_ring()
        if self._replica.ring is None:
            self._allocator.explain(self._election.reason(self._reachable))
            return
        self._out += self._allocator.answer_held()
        if not self._restart.passed:
            self._allocator.explain(self._restart_reason())
            return
        self._out += self._allocator.work(self._reachable, now)

    def _restart_reason(self) -> str:
        if not self._restart.promised_by:
            return self._restart.reason(self._now)
        names = ", ".join(map(self._replica.label, self._restart.promised_by))
        return (
            f"this host was declared dead (`weavepy rmpeer`), and {names} agreed, but cannot say"
            " whether its addresses were taken over: start the host on which that command ran, or"
            f" run `weavepy rmpeer {self._replica.label(self.ourself)} --force` on another while"
            " this one is stopped"
        )

    def _take_persist(self) -> Persist | None:
        written, gone = self._space.drain_changes()
        history = self._history.drain()
        if not (written or gone or history or self._save_now):
            return None
        ring = self._replica.snapshot() if self._save_now else None
        if self._save_now:
            self._save_now = False
            self._save_at = math.inf
        return Persist(ring, written, gone, history)

    def _refresh_space(self) -> None:
        ring = self._replica.ring
        if ring is not None:
            inherited = [
                piece
                for entry in ring.owned_by(self.ourself)
                if entry.epoch
                for piece in self.universe.unroll(entry.token, entry.size)
            ]
            owned = ring.ranges_of(self.ourself)
            self._space.set_ranges(owned, ring.contested(), inherited)
            before = self._displaced
            self._displaced = {
                row.address: row for row in self._space.rows() if not self._mine(row.address)
            }
            if self._displaced.keys() - before.keys():
                self._held_claim_at = self._now

    def _space_to_hand_over(self) -> list[Range]:
        assert self._replica.ring is not None
        ring = self._replica.ring
        return subtract(ring.ranges_of(self.ourself), ring.contested())

    # --- helpers: hints, warnings ----------------------------------------------------------

    def _tell_hint(self, now: float) -> None:
        if self._replica.ring is None or self._leaving_to is not None:
            return
        told = self._hints.pass_on(now)
        hint = self._hints.tell(self._replica.hints.get(self.ourself), now)
        if hint is not None:
            self._replica.hints[self.ourself] = told[self.ourself] = hint
        if told:
            for update in self._replica.encode_news(Learnt(hints=told)):
                self._out.append(Announce(RING_CHANNEL, update))

    def _contested(self) -> list[Range]:
        return self._replica.ring.contested() if self._replica.ring else []

    def _all_warnings(self) -> tuple[str, ...]:
        warnings = list(self._warnings.values())
        warnings += [self._foreign_text(p, what) for p, what in self._replica.foreign.items()]
        if self._restart.is_copied(self._now):
            warnings.append(COPIED)
        if self._disk_error:
            warnings.append(f"addresses cannot be given out: {self._disk_error}")
        if self._restart.promised_by and not self._restart.passed:
            warnings.append(self._restart_reason())
        for row in [*self._held.values(), *self._displaced_rows()]:
            owner = self.owner_of(row.address).peer
            whose = self._replica.label(owner) if owner else "nobody we know"
            warnings.append(
                f"{row.owner} runs with {self.universe.text(row.address)}, which belongs to"
                f" {whose}: detach and attach it again to give it another address"
            )
        return tuple(warnings)

    def _displaced_rows(self) -> list[PersistedAddress]:
        """What is in use here and lies in the range of another."""
        for row in list(self._displaced.values()):
            if self._space.row(row.address) != row:
                del self._displaced[row.address]
        return list(self._displaced.values())

    def _foreign_text(self, peer: PeerName, what: str) -> str:
        if what.startswith("ring"):
            ours, same = (self._replica.ring.ring_id.hex() if self._replica.ring else "none"), ""
        else:
            ours, same = str(self.network), f", with --ipalloc-range {self.network} for this one"
        return (
            f"{self._replica.label(peer)} lives with another address {what} (ours: {ours}): both"
            " go on, but may give the same address to two containers. Choose which of the two is to"
            " stay; on each host of the other detach what is attached, run `weavepy reset`, and"
            f" then the line that `weavepy join --show` prints on a host that stays{same}"
        )

    def _count_malformed(self, source: PeerName, error: ProtocolError) -> None:
        self._malformed += 1
        if self._malformed & (self._malformed - 1) == 0:
            fields = (("peer", source), ("count", str(self._malformed)))
            self._out.append(LogLine("warning", f"ignored what a peer said: {error}", fields))

    def _log(self, level: str, message: str) -> None:
        self._out.append(LogLine(level, message))


def _or_never(at: float | None) -> float:
    return math.inf if at is None else at


def _is_our_own_answer(effect: IpamEffect) -> bool:
    return isinstance(effect, AnswerRequest) and effect.request < 0


def _addresses(rows: Sequence[PersistedAddress]) -> tuple[int, ...]:
    return tuple(row.address for row in rows)

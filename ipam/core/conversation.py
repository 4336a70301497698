"""What other peers say to this one, in whatever kind of message, and what they are answered.

Nearly every message carries an update, which is merged before anything else is done with it. An
update that is not for us (of another ring, another range, or not to be understood) changes
nothing and closes no connection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ipam.core.allocator import Allocator
from ipam.core.consent import Consent
from ipam.core.departure import Departure
from ipam.core.giver import Giver, Verdict
from ipam.core.held import HeldAddresses
from ipam.core.history import History
from ipam.core.keeper import RingKeeper
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
    Repair,
    SpaceRequest,
    Update,
    decode_message,
)
from ipam.core.notices import Notices
from ipam.core.outbox import Outbox
from ipam.core.replica import Replica
from ipam.core.restart import RestartCheck
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName

TELL_RING_INTERVAL_S = 2.0
"""How often a peer that votes on the first ring is told, at most, that there is one."""


class Conversation:
    def __init__(
        self,
        replica: Replica,
        *,
        allocator: Allocator,
        consent: Consent,
        departure: Departure,
        giver: Giver,
        held: HeldAddresses,
        history: History,
        keeper: RingKeeper,
        notices: Notices,
        outbox: Outbox,
        restart: RestartCheck,
    ) -> None:
        self._replica = replica
        self._allocator = allocator
        self._consent = consent
        self._departure = departure
        self._giver = giver
        self._held = held
        self._history = history
        self._keeper = keeper
        self._notices = notices
        self._outbox = outbox
        self._restart = restart
        self._told_ring_at: dict[PeerName, float] = {}
        self._malformed = 0

    def answer(self, digest: bytes) -> bytes | None:
        """Return what whoever sent this digest lacks. Nothing is told that is not on disk."""
        return None if self._outbox.disk_error else self._replica.answer(digest)

    def handle_peers(self, reachable: Mapping[PeerName, None]) -> None:
        for peer in [peer for peer in self._replica.foreign if peer not in reachable]:
            del self._replica.foreign[peer]
        for peer in [peer for peer in self._told_ring_at if peer not in reachable]:
            del self._told_ring_at[peer]

    def handle_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        try:
            message = decode_message(payload)
        except ProtocolError as error:
            self._count_malformed(source, error)
            return
        if isinstance(message, SpaceRequest | AddressRequest):
            self._handle_ask(source, message, now)
        elif isinstance(message, Answer):
            self.merge(source, message.update, now, gave="we asked for space")
            self._held.take()
            self._outbox.add(self._allocator.handle_answer(source, message, now))
        elif isinstance(message, Consult):
            self._handle_consult(source, message)
        elif isinstance(message, ConsultAnswer):
            self._handle_consult_answer(source, message, now)
        elif isinstance(message, HandOver):
            self.merge(source, message.update, now, gave="it left and handed its ranges over")
            self._outbox.save_ring()
            self._outbox.send(source, HandOverDone(message.id))
        elif isinstance(message, HandOverDone):
            self._departure.handle_done(source, message.id)
        elif isinstance(message, ConsentRequest):
            self._handle_consent_request(source, message, now)
        elif isinstance(message, ConsentAnswer):
            self._handle_consent_answer(source, message, now)
        else:
            self._handle_repair(source, message, now)

    def merge(self, source: PeerName, data: bytes, now: float, gave: str = "") -> Update | None:
        """Join what a peer said; returns it decoded, or None if it is not for us.

        `gave`: why this peer gives us whatever it gives us with this.
        """
        try:
            update = self._replica.codec.decode(data)
        except ForeignUniverse as error:
            if self._replica.note_foreign_universe(source, error.universe):
                self._warn_of_foreigner(source, f"range {error.universe}")
            return None
        except ProtocolError as error:
            self._count_malformed(source, error)
            return None
        learnt = self._replica.merge(source, update)
        if learnt.foreign_ring:
            self._warn_of_foreigner(source, f"ring {update.ring_id.hex()}")
        if learnt.received:
            giver = source if gave else None
            self._history.note_entries("received", learnt.received, giver, gave or "by gossip")
        self._keeper.handle_learnt(source, learnt, now)
        if not update.ring_id:
            self._tell_ring(source, now)
        if update.more and (learnt.entries or learnt.ring_adopted):
            self._ask_for_more(source)
        if update.slices:
            wanted, entries = self._replica.compare_slices(update)
            if wanted and not self._outbox.disk_error:
                self._outbox.send(source, Repair(self._replica.encode_repair(entries), wanted))
        return update

    # --- asks for space --------------------------------------------------------------------

    def _handle_ask(
        self, source: PeerName, message: SpaceRequest | AddressRequest, now: float
    ) -> None:
        verdict = self._judge(source, message)
        if verdict.written:
            given = [entry for entry in verdict.written if entry.owner == source]
            self._history.note_entries("donated", given, source, "it asked for space")
            self._keeper.wrote(verdict.written, now)
        update = self._replica.encode_entries(verdict.told)
        granted = not verdict.kind
        self._outbox.send(source, Answer(message.id, granted, verdict.kind, verdict.error, update))

    def _judge(self, source: PeerName, message: SpaceRequest | AddressRequest) -> Verdict:
        ring = self._replica.ring
        if ring is None or message.ring_id != ring.ring_id:
            return Verdict(kind="foreign", error="this host has another ring")
        leaving = self._departure.heir is not None
        if not self._restart.passed or self._outbox.disk_error or leaving:
            return Verdict(kind="busy", error="this host cannot give anything just now")
        if isinstance(message, SpaceRequest):
            return self._giver.give_space(source, message)
        return self._giver.give_address(source, message)

    # --- what do you know that I do not ----------------------------------------------------

    def _handle_consult(self, source: PeerName, message: Consult) -> None:
        if self._outbox.disk_error:
            return
        update = self.answer(message.digest) or b""
        promised = self._consent.promised(source)
        self._outbox.send(source, ConsultAnswer(message.id, update, promised))

    def _handle_consult_answer(self, source: PeerName, message: ConsultAnswer, now: float) -> None:
        if message.update:
            self.merge(source, message.update, now)
        if message.promised and self._replica.ourself not in self._replica.fences:
            self._restart.handle_promised(source, now)
        else:
            self._restart.handle_heard(source)

    def _handle_repair(self, source: PeerName, message: Repair, now: float) -> None:
        update = self.merge(source, message.update, now)
        if update is None or self._outbox.disk_error:
            return
        told = set(update.entries)
        entries = [entry for entry in self._replica.in_slices(message.wanted) if entry not in told]
        if entries:
            self._outbox.send(source, Repair(self._replica.encode_repair(entries), []))

    def _ask_for_more(self, peer: PeerName) -> None:
        self._outbox.send(peer, Consult(0, self._replica.digest()))

    def _tell_ring(self, peer: PeerName, now: float) -> None:
        """Somebody speaks as if there were no ring yet: tell it, once in a while."""
        if self._replica.ring is None or peer not in self._keeper.reachable:
            return
        if now < self._told_ring_at.get(peer, -math.inf) + TELL_RING_INTERVAL_S:
            return
        answer = self.answer(b"V")
        if answer is not None:
            self._told_ring_at[peer] = now
            self._outbox.send(peer, Repair(answer, []))

    # --- take-overs ------------------------------------------------------------------------

    def _handle_consent_request(
        self, source: PeerName, message: ConsentRequest, now: float
    ) -> None:
        update = self.merge(source, message.update, now)
        if update is None or self._outbox.disk_error or not self._restart.passed:
            answer = ConsentAnswer(
                message.id, False, "busy", "it cannot say anything just now", 0, None, b""
            )
        else:
            answer = self._consent.handle_request(source, message, update.entries, now)
        if answer.kind == "stale":
            self._ask_for_more(source)
        self._outbox.send(source, answer)

    def _handle_consent_answer(self, source: PeerName, message: ConsentAnswer, now: float) -> None:
        if message.update:
            self.merge(source, message.update, now)
        if message.kind == "stale":
            self._ask_for_more(source)
        self._consent.handle_answer(source, message, now)

    # --- what is not for us ----------------------------------------------------------------

    def _warn_of_foreigner(self, peer: PeerName, what: str) -> None:
        self._outbox.log("warning", self._notices.foreign_text(peer, what))

    def _count_malformed(self, source: PeerName, error: ProtocolError) -> None:
        self._malformed += 1
        if self._malformed & (self._malformed - 1) == 0:
            fields = (("peer", source), ("count", str(self._malformed)))
            self._outbox.log("warning", f"ignored what a peer said: {error}", fields)

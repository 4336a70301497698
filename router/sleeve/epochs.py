"""The generations of keys of one session, and which of them is sent on.

Both ends receive on every epoch they have. An epoch is *confirmed* once an authentic record came
in on it: now we know that the other end has it too, and the newest confirmed epoch is the one we
send on. So no change of keys can lose a frame, whoever began it, in whatever order the two ends
learn of it, and however many happen at once.

An old epoch goes when the peer could have used it for 10 s and did not, and not before: the two
ends may for a while disagree on which epoch is the newest (each counts in its own order), and
then each still understands the other. An epoch that the other end never confirms is given up
after a minute during which the session worked without it. Time only counts while both ends
provably hear each other.

Two ends that have no epoch in common are deaf to each other until their routers agree on a new
one, and there may be no router. So whatever else comes, each keeps the epochs on which it was
lately proven that the peer hears us: both had them then, and both go by the same rule.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from router.sleeve.control import Acceptance
from router.sleeve.effects import Endpoint, Hearer, ReceiveEpoch, SendEpoch
from router.sleeve.keys import aead_of, derive_epoch_keys, epoch_id
from router.sleeve.window import ReplayWindow

MAX_EPOCHS = 6
"""Per session. Normally there are one or two; more if routers are restarted over and over."""

OLD_EPOCH_S = 10.0
UNCONFIRMED_EPOCH_S = 60.0

MAX_IDS_REMEMBERED = 1024
"""Of epochs that were. Their keys must not come back, as their counters would begin anew."""


@dataclass(slots=True, eq=False)
class Generation:
    """Both directions of an epoch, and what only the session needs to know of it."""

    send: SendEpoch
    receive: ReceiveEpoch
    secret: bytes
    id: bytes
    """The same at both ends; names the epoch when a rekey goes on from it."""
    initiator: bool
    guess: Endpoint | None
    """Where the router thinks that the peer is, as long as we do not know better."""
    installed_at: float
    next_probe_at: float
    probes: int = 0
    """Sent while not yet confirmed."""
    confirmed: bool = False
    heard_at: float = -math.inf
    proof_at: float = -math.inf
    """When we last knew that the peer heard us on it."""
    unused_since: float = -math.inf
    """When we ceased to send on it."""
    acceptance: Acceptance | None = None
    """Our answer to the peer's offer to go on from this epoch, to be repeated if it asks again."""
    successor: "Generation | None" = None
    """The epoch that came of that answer."""

    @property
    def number(self) -> int:
        return self.receive.number


class Epochs:
    """Those of one session, in the order in which this end learnt of them."""

    def __init__(self, session: Hearer, encrypted: bool) -> None:
        self._session = session
        self._encrypted = encrypted
        self._by_number: dict[int, Generation] = {}
        self._last_number = 0
        self._ids: dict[bytes, None] = {}
        """Of all epochs that were added, the latest last."""
        self._interrupted_until = -math.inf
        self.sending: Generation | None = None

    def __iter__(self) -> Iterator[Generation]:
        """Oldest first; the epochs may be changed meanwhile."""
        return iter(list(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_number)

    def add(
        self,
        *,
        secret: bytes,
        initiator: bool,
        local_index: int,
        remote_index: int,
        guess: Endpoint | None,
        probe_at: float,
        now: float,
    ) -> tuple[Generation, list[Generation]]:
        """Add an epoch; returns it and those that must go for it to have room."""
        self._last_number += 1
        send_aead = receive_aead = None
        if self._encrypted:
            send_key, receive_key = derive_epoch_keys(secret, initiator)
            send_aead, receive_aead = aead_of(send_key), aead_of(receive_key)
        generation = Generation(
            send=SendEpoch(remote_index, send_aead, 0, remote_index.to_bytes(4, "big")),
            receive=ReceiveEpoch(
                local_index, receive_aead, ReplayWindow(), self._session, self._last_number
            ),
            secret=secret,
            id=epoch_id(secret),
            initiator=initiator,
            guess=guess,
            installed_at=now,
            next_probe_at=probe_at,
        )
        self._ids[generation.id] = None
        if len(self._ids) > MAX_IDS_REMEMBERED:
            del self._ids[next(iter(self._ids))]
        gone = [old for old in self if old.receive.local_index == local_index]
        for old in gone:
            self.remove(old)
        if len(self._by_number) >= MAX_EPOCHS:
            victim = self._least_useful()
            self.remove(victim)
            gone.append(victim)
        self._by_number[self._last_number] = generation
        return generation, gone

    def of(self, epoch: ReceiveEpoch) -> Generation | None:
        """None if the epoch was retired meanwhile."""
        return self._by_number.get(epoch.number)

    def named(self, id: bytes) -> Generation | None:
        return next((one for one in self._by_number.values() if one.id == id), None)

    def had(self, secret: bytes) -> bool:
        """Whether an epoch of this secret was ever added (within memory)."""
        return epoch_id(secret) in self._ids

    def confirm(self, generation: Generation, now: float) -> bool:
        """An authentic record came in on it. True if from now on it is the one to send on."""
        generation.confirmed = True
        former = self.sending
        if former is not None and former.number > generation.number:
            generation.unused_since = now
            return False
        self.send_on(generation, now)
        return True

    def send_on(self, generation: Generation, now: float) -> None:
        if self.sending is not None:
            self.sending.unused_since = now
        self.sending = generation

    def note_interruption(self, now: float) -> None:
        """The two ends did not hear each other, so an epoch may have been of no use until now."""
        self._interrupted_until = now

    def remove(self, generation: Generation) -> None:
        self._by_number.pop(generation.number, None)
        if self.sending is generation:
            self.sending = None
        for one in self._by_number.values():
            if one.successor is generation:
                one.successor = one.acceptance = None

    def expire(self, now: float) -> list[Generation]:
        """Take out and return those whose time has come."""
        gone = [one for one in self._by_number.values() if now >= self._expires_at(one)]
        for one in gone:
            self.remove(one)
        return gone

    def next_expiry_at(self) -> float:
        return min((self._expires_at(one) for one in self._by_number.values()), default=math.inf)

    def _least_useful(self) -> Generation:
        proven_at = max(one.proof_at for one in self._by_number.values())

        def usefulness(one: Generation) -> tuple[bool, bool, int]:
            return one.confirmed, proven_at - one.proof_at < OLD_EPOCH_S, one.number

        return min((one for one in self if one is not self.sending), key=usefulness)

    def _expires_at(self, generation: Generation) -> float:
        if generation is self.sending:
            return math.inf
        if generation.confirmed:
            used_at = max(generation.heard_at, generation.unused_since, self._interrupted_until)
            return used_at + OLD_EPOCH_S
        give_up_at = max(
            generation.installed_at + UNCONFIRMED_EPOCH_S, self._interrupted_until + OLD_EPOCH_S
        )
        worked = self.sending is not None and self.sending.heard_at >= give_up_at - OLD_EPOCH_S
        return give_up_at if worked else math.inf

"""Whether a restarted peer may write to the ring again.

Its disk may be older than it thinks: restored from a backup, cloned, or short of the last writes.
What it then takes for its own may long be another's. The others know, since it told them, so
before it gives out anything new it asks. The rule:

1. Nobody could know better, because it was given no peers and its ring names no other owner:
   it goes on at once.
2. It asks owners of ranges first, and goes on when all whom it asked have answered and those whom
   it has not heard could not have declared it dead, as they are no majority; or when the time is up
   and at least one has answered. Peers that come to be reachable meanwhile are asked, too.
3. Nobody is reachable for 5 s: it is alone, and goes on with what it owns. The peers that are down
   cannot have taken anything from it: ranges move only by the owner's own hand, or else by the
   consent of a majority. Peers that are reachable but do not answer get 5 s more.

A peer that was away may have been declared dead, and a majority have consented that its ranges go
to another. Whoever consented and has not heard the outcome says so, and as long as somebody does,
the check goes on: the taker may have used them.

4. It has heard that another router with its identity lives: then being alone proves nothing, as
   the others may just refuse to speak with a copy. It goes on when a peer has answered it, or when
   nothing was heard of the other for ten minutes.

5. Where a register outside can have had us declared dead (`Appointed`), any number of peers may
   have sufficed: being alone proves nothing either, until that register has been read. Once it has
   been, sixteen will do of however many owners: what is left to ask for is only what this peer
   may have written itself, which whoever it told has told everybody. It asks neighbours first,
   whose answers need no way through a mesh that has not heard of us yet. (A thousand routers that
   are upgraded would else ask half a million questions.)

What a disk that is too old has cost in case 3, if it was, shows when a peer comes back: the ring
tells (`Learnt.lost`), and the addresses in question are listed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

from weavepy.base.names import PeerName

GRACE_S = 5.0
"""How long to wait for the first peer to be reachable, and how long for answers after that."""

ASK_AGAIN_S = 0.25
"""Short, as what gets lost gets lost while routes are new, and somebody waits for an address. But
each time twice as long, up to `MAX_ASK_AGAIN_S`, as that may be many questions."""

MAX_ASK_AGAIN_S = 1.0

WORD_S = 1.0
"""How long the register's word, and neighbours, are waited for before more peers are asked."""

COPIED_FOR_S = 600.0
MAX_ASKED = 16
"""Of few owners, or where a register knows who was declared dead. Of many, just more than half
are asked."""

COPIED = (
    "another router with the identity of this host is running, and no peer has told this one that"
    " its addresses are its own: one of the two has a copied state directory; stop that one, remove"
    " its state directory, and launch it anew"
)


class RestartCheck:
    """Begun when the ring may be older than what others know; over when `passed`."""

    def __init__(self, rng: Random, awaits_word: bool = False) -> None:
        self._rng = rng
        self._has_register = self._awaits_word = awaits_word
        """Whether there is a register outside, and whether it has not been read yet."""
        self.passed = True
        self._until = 0.0
        self._copied_until = -math.inf
        self._ask_at = 0.0
        self._again_s = ASK_AGAIN_S
        self._met = False
        """Whether anybody could be reached since it began."""
        self._widen_at = 0.0
        self._widened = False
        """Whether others than neighbours are asked."""
        self._owners: dict[PeerName, None] = {}
        self._asked: dict[PeerName, None] = {}
        self._answered: dict[PeerName, None] = {}
        self._waits = False
        """Whether somebody who can be reached has not answered yet."""
        self.promised_by: dict[PeerName, None] = {}
        """Who says that our ranges may be another's by now."""

    def begin(self, owners: Iterable[PeerName], expects_peers: bool, now: float) -> None:
        """`owners` are the other owners of ranges; see the rule in the file's opening."""
        self._owners = dict.fromkeys(owners)
        self._answered.clear()
        self._asked.clear()
        self.promised_by.clear()
        self.passed = not self._owners and not expects_peers
        self._met = False
        self._until = now + GRACE_S
        self._widen_at = now + WORD_S

    def handle_copied(self, owners: Iterable[PeerName], now: float) -> None:
        """Another router with our identity lives; see the rule in the file's opening."""
        if self.passed:
            self.begin(owners, True, now)
        self._copied_until = now + COPIED_FOR_S

    def handle_word(self) -> None:
        """The register outside was read, and what it says of us is known."""
        self._awaits_word = False

    def handle_heard(self, peer: PeerName) -> None:
        """This peer has told us what it knows and we do not."""
        if not self.passed:
            self._answered[peer] = None
            self.promised_by.pop(peer, None)

    def handle_promised(self, by: PeerName, now: float) -> None:
        """This peer has consented to a take-over of ours, and does not know whether it was."""
        if not self.passed:
            self.promised_by[by] = None
            self._until = now + GRACE_S

    def ask(
        self,
        reachable: Mapping[PeerName, None],
        now: float,
        neighbours: Collection[PeerName] = (),
    ) -> Sequence[PeerName]:
        """Return the peers to consult now; call it whenever something changed or time passed.

        `neighbours`: those of the reachable ones that a message gets to without a relay.
        """
        if self.passed:
            return ()
        if not self._asked and reachable and not self._met:
            self._met = True
            self._until = now + GRACE_S
            self._widen_at = now + WORD_S
        if self._choose(reachable, neighbours, now):
            self._ask_at = now
            self._again_s = ASK_AGAIN_S
        waited_for = [
            peer for peer in self._asked if peer in reachable and peer not in self._answered
        ]
        self._waits = bool(waited_for)
        over = now >= self._until
        if self._answered and (over or not (waited_for or self._others_may_know())):
            self.passed = True
            self._copied_until = -math.inf
            return ()
        if over and (now < self._copied_until or self._awaits_word):
            self._asked.clear()
            self._met = False
            self._until = now + GRACE_S
            return ()
        if over:
            self.passed = True
            return ()
        if now < self._ask_at or not waited_for:
            return ()
        self._ask_at = now + self._again_s
        self._again_s = min(MAX_ASK_AGAIN_S, 2 * self._again_s)
        return waited_for

    def is_copied(self, now: float) -> bool:
        return not self.passed and now < self._copied_until

    def next_at(self) -> float | None:
        if self.passed:
            return None
        at = min(self._until, self._ask_at) if self._waits else self._until
        return at if self._widened else min(at, self._widen_at)

    def reason(self, now: float) -> str:
        if self.is_copied(now):
            return COPIED
        if self._awaits_word and not self._answered:
            return (
                "just restarted: waiting for the Kubernetes API server, or a peer, to say whether"
                " this host's addresses are up to date"
            )
        if not self._asked:
            return (
                "just restarted: looking for peers that know whether this host's addresses are"
                f" up to date; without any it goes on after {GRACE_S:g} s"
            )
        silent = len(self._asked) - len(self._answered)
        if not silent:
            return (
                "just restarted: looking for more of the owners of addresses, who may have taken"
                f" over those of this host; without them it goes on after {GRACE_S:g} s"
            )
        return f"just restarted: waiting for {silent} peers to say whether the ring is up to date"

    def _others_may_know(self) -> bool:
        """Whether the owners that were not heard might be a majority, with ourself in the total;
        and, where the register has told what a majority knows, whether few were heard."""
        heard = sum(peer in self._answered for peer in self._owners)
        if self._has_register and not self._awaits_word and heard >= MAX_ASKED:
            return False
        return 2 * heard < len(self._owners)

    def _choose(
        self, reachable: Mapping[PeerName, None], neighbours: Collection[PeerName], now: float
    ) -> bool:
        """Add to those who are asked; returns True if there are more of them now."""
        self._widened = not self._has_register or now >= self._widen_at
        wanted = MAX_ASKED
        if not self._has_register or (self._awaits_word and self._widened):
            wanted = max(MAX_ASKED, len(self._owners) // 2 + 1)
        room = max(0, wanted - len(self._asked))
        owners = [peer for peer in self._owners if peer in reachable and peer not in self._asked]
        others = [peer for peer in reachable if peer not in self._owners]
        pool = owners if owners or self._asked else others
        if self._has_register:
            near = [peer for peer in pool if peer in neighbours]
            pool = near if near or not self._widened else pool
        chosen = self._rng.sample(pool, min(len(pool), room))
        self._asked.update(dict.fromkeys(chosen))
        return bool(chosen)

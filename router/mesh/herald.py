"""When we say something new of ourself.

Whatever a peer says of itself is told to all others, each of which works on it. While a thousand
join, or are upgraded one after another, every peer's links change all the time. What changes for
the worse is said at once, as frames are lost until others know. A link more can wait if much was
said lately: until it is told nobody uses it. And that a neighbour's router is down, but its overlay
works, is said only if it lasts: it is being upgraded, and then it never needs to be said.

So a few changes go out as they come, and of many, all that is new goes out together, one time per
spacing. The spacing grows with the number of peers: each of n hears what all n say.
"""

from enum import Enum

from router.mesh.records import Record
from weavepy.base.deadline import NEVER, Deadline

SPACING_S = 0.01
"""For each peer of the mesh."""

MAX_SPACING_S = 5.0
"""Well below the time after which a peer to which no link is known is forgotten."""

BURST = 3
"""So many may be said in a row before the spacing counts."""

SETTLING_S = 0.005
"""For each peer of the mesh, so long others are waited for: a connection comes seldom alone, and
its overlay a moment later."""

MAX_SETTLING_S = 0.25


LATER_S = 5.0
"""A router that is upgraded is back by then, if all goes well."""


class Haste(Enum):
    NOTHING = "nothing is new"
    NOW = "frames may be lost"
    SOON = "a new way"
    LATER = "it may pass, or is only good to know"


class Herald:
    def __init__(self) -> None:
        self._at = NEVER.at
        self._paid_until = 0.0
        """When all that was said so far has had its spacing."""

    def handle_change(self, said: Record, true: Record, peers: int, now: float) -> None:
        haste = _haste(said, true)
        spacing_s = min(MAX_SPACING_S, peers * SPACING_S)
        not_before = self._paid_until - (BURST - 1) * spacing_s
        match haste:
            case Haste.NOTHING:
                self._at = NEVER.at
            case Haste.NOW:
                self._at = now
            case Haste.SOON:
                settled_at = now + min(MAX_SETTLING_S, peers * SETTLING_S)
                self._at = min(self._at, max(not_before, settled_at))
            case Haste.LATER:
                self._at = min(self._at, max(not_before, now + LATER_S))

    def handle_said(self, peers: int, now: float) -> None:
        spacing_s = min(MAX_SPACING_S, peers * SPACING_S)
        self._paid_until = max(self._paid_until, now) + spacing_s
        self._at = NEVER.at

    def next_deadline(self) -> Deadline:
        return Deadline(self._at, "say what is new of ourself")


def _haste(said: Record, true: Record) -> Haste:
    if said == true:
        return Haste.NOTHING
    if said.links & ~true.links or said.established & ~true.established:
        return Haste.NOW
    gained = true.control & ~said.control or true.established & ~said.established
    return Haste.SOON if gained or said.addresses != true.addresses else Haste.LATER

"""When we say something new of ourself.

Whatever a peer says of itself is told to all others, each of which works on it. While a thousand
join, or are upgraded one after another, every peer's links change all the time. What changes for
the worse is said at once, as frames are lost until others know. A link more can wait if much was
said lately: until it is told nobody uses it. It waits the longer if both ends have others, as all
that it gives then is a shorter way; unless it turns out that the others lead nowhere, and it joins
two halves of the mesh. And that a neighbour's router is down, but its overlay works, is said only
if it lasts: it is being upgraded, and then it never needs to be said.

So a few changes go out as they come, and of many, all that is new goes out together, one time per
spacing. The spacing grows with the number of peers: each of n hears what all n say.
"""

import math
from dataclasses import dataclass
from enum import Enum

from router.mesh.records import Record
from weavepy.base.deadline import Deadline

SPACING_S = 0.01
"""For each peer of the mesh."""

MAX_SPACING_S = 5.0
"""Well below the time after which a peer to which no link is known is forgotten."""

LEISURE_S = 0.03
"""The spacing of what can wait, for each peer of the mesh."""

MAX_LEISURE_S = 30.0

BURST = 3
"""So many may be said in a row before a spacing counts."""

SETTLING_S = 0.005
"""For each peer of the mesh, so long others are waited for: a connection comes seldom alone, and
its overlay a moment later."""

MAX_SETTLING_S = 0.25

LATER_S = 5.0
"""A router that is upgraded is back by then, if all goes well."""

CUT_OFF_S = 8.0
"""Who joined a mesh of a thousand is known to all by then. Below the time after which a peer to
which no link is known is forgotten."""


class Haste(Enum):
    NOW = "frames may be lost"
    SOON = "a new way"
    IF_CUT_OFF = "a new way, if others do not tell of one"
    LEISURELY = "a shorter way"
    LATER = "it may pass, or is only good to know"


@dataclass(frozen=True, slots=True)
class Standing:
    """Sets of neighbours."""

    lonely: int = 0
    """To whom others may have no way but our link, as they have hardly any other."""
    cut_off: int = 0
    """To whom there is no way that we know of without what we have not said yet."""


class _Pace:
    """How often: a burst, and then once per spacing."""

    def __init__(self, per_peer_s: float, most_s: float) -> None:
        self._per_peer_s = per_peer_s
        self._most_s = most_s
        self._paid_until = -math.inf
        """When all that was said so far has had its spacing."""

    def _spacing_s(self, peers: int) -> float:
        return min(self._most_s, self._per_peer_s * peers)

    def not_before(self, peers: int) -> float:
        return self._paid_until - (BURST - 1) * self._spacing_s(peers)

    def handle_said(self, peers: int, now: float) -> None:
        """What had to be said at once counts, too, but for no more than one spacing to wait."""
        spacing_s = self._spacing_s(peers)
        paid_until = max(self._paid_until, now) + spacing_s
        self._paid_until = min(paid_until, now + BURST * spacing_s)


class Herald:
    def __init__(self) -> None:
        self._due: dict[Haste, float] = {}
        self._soon = _Pace(SPACING_S, MAX_SPACING_S)
        self._leisurely = _Pace(LEISURE_S, MAX_LEISURE_S)

    def handle_change(
        self, said: Record, true: Record, standing: Standing, peers: int, now: float
    ) -> None:
        """Call it when either has changed, and again before something is said."""
        self._due = {
            haste: min(self._due.get(haste, math.inf), self._earliest(haste, peers, now))
            for haste in _reasons(said, true, standing)
        }

    def handle_said(self, peers: int, now: float) -> None:
        self._soon.handle_said(peers, now)
        self._leisurely.handle_said(peers, now)
        self._due.clear()

    def next_deadline(self) -> Deadline:
        return Deadline(min(self._due.values(), default=math.inf), "say what is new of ourself")

    def _earliest(self, haste: Haste, peers: int, now: float) -> float:
        settled_at = now + min(MAX_SETTLING_S, peers * SETTLING_S)
        match haste:
            case Haste.NOW:
                return now
            case Haste.SOON:
                return max(self._soon.not_before(peers), settled_at)
            case Haste.IF_CUT_OFF:
                return now + CUT_OFF_S
            case Haste.LEISURELY:
                return max(self._leisurely.not_before(peers), settled_at)
            case Haste.LATER:
                return max(self._soon.not_before(peers), now + LATER_S)


def _reasons(said: Record, true: Record, standing: Standing) -> list[Haste]:
    if said == true:
        return []
    if said.links & ~true.links or said.established & ~true.established:
        return [Haste.NOW]
    gained = true.control & ~said.control | true.established & ~said.established
    if gained & standing.lonely or said.addresses != true.addresses:
        return [Haste.SOON]
    if not gained:
        return [Haste.LATER]
    return [Haste.LEISURELY, *([Haste.IF_CUT_OFF] if gained & standing.cut_off else [])]

"""Is there another router with our identity? Somebody may have copied a disk image.

There are two signs. A host at which we dialled has our key, and the same handshake does not show
at our own door. And the topology keeps bringing records of us that we did not write, and
that outbid ours again after we outbid them. (Once is normal: that was our previous run.)
"""

from collections import deque

from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.names import PeerUid

ECHO_S = 2.0
"""A connection to ourself shows at both of its ends within this time."""

STRIKES = 3
STRIKES_WITHIN_S = 30.0
WARN_FOR_S = 600.0

MAX_MEETINGS = 16
MAX_OUTBID = 64


class CloneWatch:
    def __init__(self) -> None:
        self._meetings: deque[tuple[float, str, bytes]] = deque(maxlen=MAX_MEETINGS)
        self._outbid: deque[PeerUid] = deque(maxlen=MAX_OUTBID)
        self._strikes: deque[float] = deque(maxlen=STRIKES)
        self._warnings: dict[str, float] = {}

    def met_our_key(self, address: str, mark: bytes, now: float) -> None:
        """The peer that we dialled there has our key: it is ourself, or a clone."""
        self._meetings.append((now, address, mark))

    def heard_our_key(self, mark: bytes) -> str | None:
        """One who dialled us says that we have its key. Returns where, if it was ourself.

        The mark of the handshake tells: clones that dial each other see both signs, too.
        """
        for meeting in self._meetings:
            if meeting[2] == mark:
                self._meetings.remove(meeting)
                return meeting[1]
        return None

    def contested(self, uid: PeerUid, now: float) -> str | None:
        """A record of ourself by this run outbids ours. Returns a warning when it is new."""
        if uid not in self._outbid:
            self._outbid.append(uid)
            return None
        self._strikes.append(now)
        if len(self._strikes) < STRIKES or now > self._strikes[0] + STRIKES_WITHIN_S:
            return None
        return self._warn(
            "another router with our identity is in the mesh: one of the two hosts has a copied "
            "state directory; `weavepy stop` there, remove that directory, and launch it anew",
            now,
        )

    def handle_timeout(self, now: float) -> str | None:
        """Returns a new warning, if a meeting turned out to be with a clone."""
        if not self._meetings or now < self._meetings[0][0] + ECHO_S:
            return None
        address = self._meetings.popleft()[1]
        return self._warn(
            f"the router at {address} has our identity: one of the two hosts has a copied state "
            "directory; `weavepy stop` there, remove that directory, and launch it anew",
            now,
        )

    def next_deadline(self) -> Deadline:
        if not self._meetings:
            return NEVER
        at, address, _ = self._meetings[0]
        return Deadline(at + ECHO_S, f"was {address} ourself")

    def warnings(self, now: float) -> list[str]:
        return [text for text, at in self._warnings.items() if now < at + WARN_FOR_S]

    def _warn(self, text: str, now: float) -> str | None:
        is_new = now >= self._warnings.get(text, float("-inf")) + WARN_FOR_S
        self._warnings.pop(text, None)
        self._warnings[text] = now
        while len(self._warnings) > MAX_MEETINGS:
            self._warnings.pop(next(iter(self._warnings)))
        return text if is_new else None

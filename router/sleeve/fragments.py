"""Cutting a frame that fits no datagram of the path, and putting it together again.

A fragment is  id 4 | number 1 | count 1 | bytes. Each travels in a record of its own, so it is
authentic or not there at all, and only loss and reordering are left to deal with. There is one
reassembler per session, and a frame is put together at each hop, because the next path may be
wider.
"""

from dataclasses import dataclass, field
from struct import Struct

FRAGMENT_HEADER = Struct("!IBB")
FRAGMENT_HEADER_BYTES = FRAGMENT_HEADER.size

MAX_FRAGMENTS = 255
MAX_FRAMES = 64
"""Unfinished at a time, per session. The oldest gives way."""
MAX_BYTES = 1024 * 1024
"""Of unfinished frames, per session. The oldest gives way."""
MAX_WAIT_S = 2.0


def split(frame: bytes | memoryview, max_fragment_bytes: int, fragment_id: int) -> list[bytes]:
    """Fragments of at most `max_fragment_bytes`, header included, of almost equal size.

    `fragment_id` (any number; its low 32 bits count) differs from that of other frames that
    may be on their way. The list is empty if the frame would need more than `MAX_FRAGMENTS`.
    """
    room = max_fragment_bytes - FRAGMENT_HEADER_BYTES
    if room < 1:
        return []
    count = max(1, -(-len(frame) // room))
    if count > MAX_FRAGMENTS:
        return []
    size = -(-len(frame) // count)
    return [
        FRAGMENT_HEADER.pack(fragment_id & 0xFFFFFFFF, number, count)
        + bytes(frame[number * size : (number + 1) * size])
        for number in range(count)
    ]


@dataclass(slots=True)
class _Unfinished:
    count: int
    expires_at: float
    parts: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0


class Reassembler:
    def __init__(self) -> None:
        self._frames: dict[int, _Unfinished] = {}
        """By fragment id, in the order in which they began, which is also that of expiry."""
        self._bytes = 0
        self.given_up = 0
        """Frames that were dropped unfinished: too late, or to make room."""
        self.malformed = 0

    def add(self, fragment: bytes | memoryview, now: float) -> bytes | None:
        """Take one fragment; the whole frame if this completes it. Total on garbage."""
        self.expire(now)
        if len(fragment) <= FRAGMENT_HEADER_BYTES:
            self.malformed += 1
            return None
        fragment_id, number, count = FRAGMENT_HEADER.unpack_from(fragment)
        if number >= count or len(fragment) > MAX_BYTES:
            self.malformed += 1
            return None
        part = bytes(fragment[FRAGMENT_HEADER_BYTES:])
        frame = self._frames.get(fragment_id)
        if frame is not None and frame.count != count:
            # The sender counts on from a random start, so this is a new frame under an old id.
            self._give_up(fragment_id)
            frame = None
        if frame is None:
            frame = self._frames[fragment_id] = _Unfinished(count, now + MAX_WAIT_S)
        if number in frame.parts:
            return None
        frame.parts[number] = part
        frame.size_bytes += len(part)
        self._bytes += len(part)
        if len(frame.parts) == count:
            self._remove(fragment_id)
            return b"".join(frame.parts[position] for position in range(count))
        while self._bytes > MAX_BYTES or len(self._frames) > MAX_FRAMES:
            self._give_up(next(iter(self._frames)))
        return None

    def expire(self, now: float) -> None:
        """Drop what waited for too long. `add` does this too."""
        while self._frames:
            fragment_id = next(iter(self._frames))
            if now < self._frames[fragment_id].expires_at:
                return
            self._give_up(fragment_id)

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    @property
    def pending_frames(self) -> int:
        return len(self._frames)

    def _give_up(self, fragment_id: int) -> None:
        self._remove(fragment_id)
        self.given_up += 1

    def _remove(self, fragment_id: int) -> None:
        self._bytes -= self._frames.pop(fragment_id).size_bytes

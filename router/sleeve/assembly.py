"""Records that span datagrams, put together from datagrams that come in any order.

Most records come in whole, in one receive, and never get here. What is kept here is not yet
known to be authentic, so all that it can cost is bounded: records, bytes and time. The first
datagram to claim a place keeps it: a forged one spoils its record, which then fails to open
whole, counts as lost, and makes the sender go back to records of one datagram.
"""

from dataclasses import dataclass, field

MAX_RECORDS = 64
"""Unfinished at a time, per session. The oldest gives way."""
MAX_BYTES = 1024 * 1024
"""Of unfinished records, per session. The oldest gives way."""
MAX_WAIT_S = 0.2


@dataclass(slots=True)
class _Unfinished:
    count: int
    expires_at: float
    slices: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0


class Assembler:
    def __init__(self) -> None:
        self.given_up = 0
        """Records that were dropped unfinished: too late, or to make room."""
        self._records: dict[tuple[int, int], _Unfinished] = {}
        """By receiver index and counter, in the order in which they began."""
        self._bytes = 0

    def add(
        self, index: int, counter: int, number: int, count: int, part: bytes, now: float
    ) -> bytes | None:
        """Take one datagram's ciphertext; that of the whole record if this completes it."""
        self.expire(now)
        if number >= count:
            return None
        name = (index, counter)
        record = self._records.get(name)
        if record is None:
            record = self._records[name] = _Unfinished(count, now + MAX_WAIT_S)
        if record.count != count or number in record.slices:
            return None
        record.slices[number] = part
        record.size_bytes += len(part)
        self._bytes += len(part)
        if len(record.slices) == count:
            self._remove(name)
            return b"".join(record.slices[position] for position in range(count))
        while self._bytes > MAX_BYTES or len(self._records) > MAX_RECORDS:
            self._give_up(next(iter(self._records)))
        return None

    def expire(self, now: float) -> None:
        """Drop what waited for too long. `add` does this too."""
        while self._records:
            name = next(iter(self._records))
            if now < self._records[name].expires_at:
                return
            self._give_up(name)

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    @property
    def pending_records(self) -> int:
        return len(self._records)

    def _give_up(self, name: tuple[int, int]) -> None:
        self._remove(name)
        self.given_up += 1

    def _remove(self, name: tuple[int, int]) -> None:
        self._bytes -= self._records.pop(name).size_bytes

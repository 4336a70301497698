"""Who is in the mesh and who is connected to whom, as every peer said last of itself.

The state is one record per peer, and joining two states keeps the greater record of each:
higher version first, then UID, then content, so that even contradicting records of a lying
peer end up the same everywhere. Records are only written by their subject. Whoever meets a
record of itself that it did not write (its previous run did, or somebody with a copy of its
key) must outbid it; `Learnt.claims` says so.

As the channel "topology" this is gossiped like any other state.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from router.mesh.bits import indexes
from router.mesh.records import MAX_ROSTER, Record, Roster, fingerprint, key_of, moved
from router.mesh.updates import MARK_BYTES, WireRecord, decode_update, encode_update
from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.digest import BucketDigest, bucket_of
from weavepy.base.errors import ProtocolError
from weavepy.base.names import MAX_PEERS, PeerName, PeerUid

TOPOLOGY_CHANNEL = "topology"

UNREACHABLE_S = 10.0
"""How long a peer to which no link leads is kept. It may be moving from one link to another."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A record of ourself that we did not write and that is not older than ours."""

    uid: PeerUid
    version: int


@dataclass(frozen=True, slots=True)
class Learnt:
    changed: tuple[PeerName, ...] = ()
    returned: tuple[PeerName, ...] = ()
    """Peers that were removed and are told of again, with what was known when they were."""
    claims: tuple[Claim, ...] = ()
    ignored: int = 0
    """Records that made no sense or did not fit."""
    malformed: str = ""
    """Why the update as a whole was not understood; empty if it was."""


class Topology:
    def __init__(self, ourself: PeerName | None) -> None:
        """With None, a mere observer: all records are merged alike."""
        self.roster = Roster()
        self._ourself = ourself
        self._records: dict[PeerName, Record] = {}
        self._fingerprints: dict[PeerName, bytes] = {}
        self._known: dict[bytes, tuple[int, int, bytes]] = {}
        """Of each record by its subject's key: version, UID, and the mark that it travels with."""
        self._digest = BucketDigest()
        self._unreachable_since: dict[PeerName, float] = {}
        self._buried: dict[PeerName, tuple[int, int]] = {}
        self._returned: dict[PeerName, None] = {}

    @property
    def records(self) -> Mapping[PeerName, Record]:
        return MappingProxyType(self._records)

    @property
    def returned(self) -> Collection[PeerName]:
        """Those that came back as they were when they were removed; see `collect`."""
        return self._returned.keys()

    # --- the join ----------------------------------------------------------------------------

    def merge(self, update: bytes) -> Learnt:
        """Join a received update into ours and return what was new.

        Total: whatever the bytes are, it neither raises nor loses what we have.
        """
        try:
            decoded = decode_update(update, self.roster, self._is_known)
        except ProtocolError as error:
            return Learnt(malformed=str(error))
        changed: dict[PeerName, None] = {}
        returned: dict[PeerName, None] = {}
        claims: list[Claim] = []
        ignored = decoded.ignored
        for record in decoded.records:
            if record.name == self._ourself:
                if self._is_claim(record):
                    claims.append(Claim(record.uid, record.version))
            elif record.name not in self._records and len(self._records) >= MAX_PEERS:
                ignored += 1
            elif self._is_news(record):
                self._store(record)
                if self._was_buried(record):
                    self._returned[record.name] = returned[record.name] = None
                else:
                    self._returned.pop(record.name, None)
                    changed[record.name] = None
        if len(self.roster) > MAX_ROSTER // 2:
            self.compact()
        return Learnt(tuple(changed), tuple(returned), tuple(claims), ignored)

    def write(self, record: Record) -> None:
        """Put a record of ourself, or a placeholder (version 0) for a peer to be heard from."""
        assert record.name == self._ourself or record.version == 0
        self._store(record)

    def _is_claim(self, record: Record) -> bool:
        ours = self._records.get(record.name)
        if ours is None:
            return True
        if record.uid == ours.uid:
            return record.version > ours.version
        return record.version >= ours.version

    def _is_known(self, heard: WireRecord, key: bytes) -> bool:
        """Whether it is older than what we have, or the same."""
        known = self._known.get(key)
        if known is None:
            return False
        version, uid, mark = known
        if heard.version != version or heard.uid != uid:
            return (heard.version, heard.uid) < (version, uid)
        return heard.mark == mark != b""

    def _is_news(self, record: Record) -> bool:
        known = self._records.get(record.name)
        if known is None:
            return True
        if (record.version, record.uid) != (known.version, known.uid):
            return (record.version, record.uid) > (known.version, known.uid)
        if record == known:
            return False
        return fingerprint(record, self.roster) > self._fingerprints[record.name]

    def _store(self, record: Record) -> None:
        key = key_of(record.name)
        self._drop_from_digest(record.name, key)
        self._records[record.name] = record
        mark = b""
        if record.version:
            mark = fingerprint(record, self.roster)
            self._fingerprints[record.name] = mark
            self._digest.toggle(key, mark)
        if record.name != self._ourself:
            self._known[key] = record.version, record.uid, mark[:MARK_BYTES]

    def _drop_from_digest(self, name: PeerName, key: bytes) -> None:
        mark = self._fingerprints.pop(name, None)
        if mark is not None:
            self._digest.toggle(key, mark)

    # --- the channel -------------------------------------------------------------------------

    def digest(self) -> bytes:
        return self._digest.encode()

    def answer(self, digest: bytes) -> bytes | None:
        """What its sender may lack, which may be nothing; None if it has just what we have."""
        buckets = self._digest.differing(digest)
        if not buckets:
            return None
        return self.update_of(name for name in self._records if bucket_of(key_of(name)) in buckets)

    def combine(self, first: bytes, second: bytes) -> bytes:
        both = Topology(None)
        both.merge(first)
        both.merge(second)
        return both.update_of(both.records)

    def update_of(self, names: Iterable[PeerName]) -> bytes:
        """An update with those of these peers' records that we have, and stand for."""
        records = [
            self._records[name]
            for name in names
            if name in self._records and name not in self._returned
        ]
        return encode_update(
            [record for record in records if record.version], self.roster, self._fingerprints
        )

    # --- forgetting --------------------------------------------------------------------------

    def collect(self, alive: Collection[PeerName], now: float) -> list[PeerName]:
        """Remove peers that have been unreachable for long enough, and return them.

        A removed record may come back from a neighbour that has not removed it yet. It then
        goes again at once, and nobody hears of it from us unless links lead to it: if each peer
        gave it new time, or passed it on before it goes, it would wander through the mesh for ever.
        """
        removed = []
        for name, record in list(self._records.items()):
            if name in alive or name == self._ourself:
                self._unreachable_since.pop(name, None)
                self._returned.pop(name, None)
                continue
            since = self._unreachable_since.setdefault(name, now)
            if self._was_buried(record) or now >= since + UNREACHABLE_S:
                self._bury(name)
                removed.append(name)
        if removed:
            self.compact()
        return removed

    def next_deadline(self) -> Deadline:
        if not self._unreachable_since:
            return NEVER
        name, since = min(self._unreachable_since.items(), key=lambda item: item[1])
        return Deadline(since + UNREACHABLE_S, f"forget unreachable peer {name}")

    def _was_buried(self, record: Record) -> bool:
        buried = self._buried.get(record.name)
        return buried is not None and (record.version, record.uid) <= buried

    def _bury(self, name: PeerName) -> None:
        record, key = self._records.pop(name), key_of(name)
        self._drop_from_digest(name, key)
        del self._known[key]
        self._unreachable_since.pop(name, None)
        self._returned.pop(name, None)
        self._buried.pop(name, None)
        self._buried[name] = (record.version, record.uid)
        while len(self._buried) > MAX_PEERS:
            self._buried.pop(next(iter(self._buried)))

    def compact(self) -> None:
        """Number anew, without the names that no record mentions."""
        used = 0
        for record in self._records.values():
            used |= record.links | record.outbound | 1 << self.roster.number(record.name)
        kept = indexes(used)
        if len(kept) == len(self.roster):
            return
        smaller = Roster()
        for number in kept:
            smaller.number(self.roster.names[number])
        for name, record in self._records.items():
            self._records[name] = moved(record, kept, len(self.roster))
        self.roster = smaller

"""What the address ring costs in time, bytes and memory; no network, no root.

| measured    | how                                                                          |
|-------------|------------------------------------------------------------------------------|
| allocations | `Ipam.allocate` of one peer that owns the range, each with its `Persist`     |
| commits     | each `Persist` of the same allocations written and synced by the real store  |
| merging     | a whole ring into a peer that has none, and one new entry into a whole ring  |
| gossip      | encoded: all of a ring, one change, a digest, finding and mending one change |
| joining     | the entries of such a ring into one that has none, in no order, in CPU time   |
| memory      | a ring at the limit of its entries, by tracemalloc                           |

A ratio compares with something measured a moment before or after, so it survives a busy machine.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from random import Random

from ipam.core.effects import AnswerRequest, Persist
from ipam.core.election import Seed
from ipam.core.ipam import Ipam
from ipam.core.messages import Repair, UpdateCodec, encode_message
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from ipam.shell.store import Store
from weavepy.base.names import PeerName

OURSELF = PeerName("02:00:00:00:00:00")
RING_ID = b"ring-ring"[:8]
NETWORK = IPv4Network("10.0.0.0/8")

REPEATS = 3
"""Of whole rings; the fastest counts, as the others were disturbed."""


@dataclass(frozen=True)
class Times:
    per_second: float
    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Times":
        ordered = sorted(seconds)
        return cls(
            len(ordered) / sum(ordered),
            ordered[len(ordered) // 2] * 1e6,
            ordered[len(ordered) * 99 // 100] * 1e6,
        )


def peer_name(number: int) -> PeerName:
    return PeerName((0x02_00_00_00_00_00 + number).to_bytes(6, "big").hex(":"))


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


# --- allocations ---------------------------------------------------------------------------------


def allocations(count: int, database: Path) -> tuple[Times, Times]:
    """Of the core, and of the store for the very same writes. `database` should be on a disk."""
    ipam = Ipam(
        ourself=OURSELF,
        nickname="bench",
        universe=NETWORK,
        default_subnet=None,
        init=Seed((OURSELF,)),
        saved=None,
        rng=Random(1),
        now=0.0,
        expects_peers=False,
    )
    ipam.handle_timeout(0.0)
    store = Store.open(database, OURSELF)
    core: list[float] = []
    commits: list[float] = []
    try:
        for number in range(count):
            began = time.perf_counter()
            effects = ipam.allocate(number, f"owner {number}", None, 10.0, 1.0)
            core.append(time.perf_counter() - began)
            assert any(isinstance(one, AnswerRequest) and one.address for one in effects)
            persist = effects[0]
            assert isinstance(persist, Persist)
            commits.append(_timed(lambda persist=persist: store.persist(persist)))  # type: ignore[misc]  # a default makes it this one
    finally:
        store.close()
    return Times.of(core), Times.of(commits)


# --- merging and gossip --------------------------------------------------------------------------


@dataclass(frozen=True)
class Merging:
    peers: int
    entries: int
    merge_all_ms: float
    decode_all_ms: float
    merge_one_us: float
    all_bytes: int
    one_bytes: int
    digest_bytes: int
    mend_bytes: int
    """Digest, finer digest and entries, both ways, to find one change that was missed."""


def ring_of(peers: int, entries_each: int) -> Ring:
    """The shares of peers that have long given each other space: many entries, in no order."""
    universe = Universe.of(NETWORK)
    count = peers * entries_each
    size, rest = divmod(universe.size, count)
    ring = Ring(RING_ID, universe)
    owners = [peer_name(number % peers) for number in range(count)]
    Random(1).shuffle(owners)
    ring.join(
        Entry(
            universe.first + number * size,
            size + (rest if number == count - 1 else 0),
            owner,
            version=2,
            generation=1,
        )
        for number, owner in enumerate(owners)
    )
    ring.check_tiles()
    return ring


def replica_of(ring: Ring | None, peers: int) -> Replica:
    replica = Replica(OURSELF, "host-0", Universe.of(NETWORK), 1)
    replica.nicknames.update({peer_name(number): f"host-{number}" for number in range(peers)})
    if ring is not None:
        replica.ring = Ring(RING_ID, Universe.of(NETWORK))
        replica.ring.join(ring.entries())
    return replica


def merging(peers: int, entries_each: int = 4, changes: int = 50) -> Merging:
    ring = ring_of(peers, entries_each)
    full, empty = replica_of(ring, peers), replica_of(None, peers)
    codec = UpdateCodec(Universe.of(NETWORK))
    updates: list[bytes] = []
    missing = replica_of(None, peers)
    while (update := full.answer(missing.digest())) is not None:
        updates.append(update)
        missing.merge(OURSELF, codec.decode(update))
    gc.collect()
    decode_s = min(_timed(lambda: [codec.decode(one) for one in updates]) for _ in range(REPEATS))
    merge_s = min(_timed_merge(codec, updates, replica_of(None, peers)) for _ in range(REPEATS))
    for update in updates:
        empty.merge(OURSELF, codec.decode(update))
    changes = min(changes, len(ring))
    one_s: list[float] = []
    one_bytes = mend_bytes = 0
    for number in range(changes):
        entry = ring.entries()[number * len(ring) // changes]
        changed = Entry(entry.token, entry.size, peer_name(0), entry.version + 1, 2)
        full.ring.join((changed,))  # type: ignore[union-attr]  # it has one
        news = full.encode_entries([changed])
        one_bytes = max(one_bytes, len(news))
        mend_bytes = max(mend_bytes, _mend(full, missing))
        one_s.append(_timed(lambda news=news: empty.merge(OURSELF, codec.decode(news))))  # type: ignore[misc]  # a default makes it this one
    assert full.digest() == missing.digest() == empty.digest()
    return Merging(
        peers,
        len(ring),
        merge_s * 1e3,
        decode_s * 1e3,
        Times.of(one_s).p50_us,
        sum(map(len, updates)),
        one_bytes,
        len(full.digest()),
        mend_bytes,
    )


def _timed_merge(codec: UpdateCodec, updates: list[bytes], empty: Replica) -> float:
    return _timed(lambda: [empty.merge(OURSELF, codec.decode(update)) for update in updates])


def _mend(full: Replica, missing: Replica) -> int:
    """As two neighbours do it that compare digests; returns all bytes they send for it."""
    codec = full.codec
    digest = missing.digest()
    answer = full.answer(digest)
    assert answer is not None
    total = len(digest) + len(answer)
    update = codec.decode(answer)
    missing.merge(OURSELF, update)
    if update.slices:
        wanted, entries = missing.compare_slices(update)
        request = encode_message(Repair(missing.encode_repair(entries), wanted))
        full.merge(OURSELF, codec.decode(missing.encode_repair(entries)))
        told = set(entries)
        mended = full.encode_repair([one for one in full.in_slices(wanted) if one not in told])
        missing.merge(OURSELF, codec.decode(mended))
        total += len(request) + len(encode_message(Repair(mended, [])))
    assert missing.digest() == full.digest()
    return total


def joining(count: int, merged: bool) -> float:
    """Return the seconds of processor time. If `merged`, most entries are, of all sizes."""
    rng, universe = Random(1), Universe.of(NETWORK)
    cuts = [0, *sorted(rng.sample(range(1, universe.size), count - 1)), universe.size]
    entries = [
        Entry(
            universe.first + start,
            end - start,
            peer_name(rng.randrange(64)),
            version=2,
            generation=1,
            level=rng.choice((0, 1, 2, 5)) if merged else 0,
        )
        for start, end in pairwise(cuts)
    ]
    rng.shuffle(entries)
    seconds: list[float] = []
    for _ in range(REPEATS):
        ring = Ring(RING_ID, universe)
        began = time.process_time()
        ring.join(entries)
        seconds.append(time.process_time() - began)
        ring.check_tiles()
    return min(seconds)


# --- memory --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    entries: int
    ring_bytes: int
    encoded_bytes: int


def memory(peers: int = 64, entries_each: int = 1024) -> Memory:
    encoded = len(replica_of(ring_of(peers, entries_each), peers).snapshot())
    gc.collect()
    tracemalloc.start()
    ring = ring_of(peers, entries_each)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Memory(len(ring), used, encoded)

"""A digest of a keyed state, in buckets, so that two peers find their difference cheaply.

Each item falls into one of 64 buckets by its key, and a bucket is summed up by the XOR of its
items' hashes. Equal states give equal digests whatever the order in which they grew, an item
that changes costs two XORs, and a peer that receives a digest answers with only the items in
the buckets that differ.
"""

import hashlib
from functools import lru_cache

BUCKETS = 64
HASH_BYTES = 8


def item_hash(item: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(item, digest_size=HASH_BYTES).digest(), "big")


@lru_cache(maxsize=1 << 13)
def bucket_of(key: bytes) -> int:
    return hashlib.blake2b(key, digest_size=1).digest()[0] % BUCKETS


class BucketDigest:
    """Maintained by its owner: `toggle` an item's bytes when it appears and when it goes."""

    def __init__(self) -> None:
        self._sums = [0] * BUCKETS

    def toggle(self, key: bytes, item: bytes) -> None:
        self._sums[bucket_of(key)] ^= item_hash(key + item)

    def encode(self) -> bytes:
        return b"".join(bucket.to_bytes(HASH_BYTES, "big") for bucket in self._sums)

    def differing(self, other: bytes) -> frozenset[int]:
        """Buckets in which a received digest differs; all of them if it is malformed."""
        if len(other) != BUCKETS * HASH_BYTES:
            return frozenset(range(BUCKETS))
        mine = self.encode()
        return frozenset(
            bucket
            for bucket in range(BUCKETS)
            if mine[bucket * HASH_BYTES : (bucket + 1) * HASH_BYTES]
            != other[bucket * HASH_BYTES : (bucket + 1) * HASH_BYTES]
        )

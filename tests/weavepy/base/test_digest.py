from hypothesis import given
from hypothesis import strategies as st

from weavepy.base.digest import BUCKETS, BucketDigest, bucket_of

items = st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=16), max_size=40)


def digest_of(state: dict[bytes, bytes]) -> BucketDigest:
    digest = BucketDigest()
    for key, item in state.items():
        digest.toggle(key, item)
    return digest


@given(items)
def test_the_order_in_which_a_state_grew_does_not_matter(state: dict[bytes, bytes]) -> None:
    backwards = dict(reversed(state.items()))
    assert digest_of(state).encode() == digest_of(backwards).encode()


@given(items, items)
def test_every_key_that_differs_is_in_a_bucket_that_differs(
    one: dict[bytes, bytes], two: dict[bytes, bytes]
) -> None:
    differing = digest_of(one).differing(digest_of(two).encode())
    for key in one.keys() | two.keys():
        if one.get(key) != two.get(key):
            assert bucket_of(key) in differing


@given(items)
def test_taking_out_what_was_put_in_gives_the_digest_of_nothing(state: dict[bytes, bytes]) -> None:
    digest = digest_of(state)
    for key, item in state.items():
        digest.toggle(key, item)
    assert digest.encode() == BucketDigest().encode()


def test_a_malformed_digest_differs_everywhere() -> None:
    assert BucketDigest().differing(b"short") == frozenset(range(BUCKETS))

from hypothesis import given
from hypothesis import strategies as st

from router.sleeve.assembly import MAX_BYTES, MAX_RECORDS, MAX_WAIT_S, Assembler


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_records_come_together_from_any_order_with_any_duplicates(
    counts: list[int], data: st.DataObject
) -> None:
    parts = [(counter, number) for counter, n in enumerate(counts) for number in range(n)]
    twice = data.draw(st.lists(st.sampled_from(parts), max_size=5))
    order = data.draw(st.permutations(parts + twice))
    assembler, whole, left = Assembler(), {}, dict(enumerate(counts))
    for counter, number in order:
        if counter in whole:
            continue  # the replay window keeps these out
        part = b"%d.%d " % (counter, number)
        out = assembler.add(7, counter, number, counts[counter], part, 0.0)
        if out is not None:
            whole[counter] = out
    assert whole == {c: b"".join(b"%d.%d " % (c, n) for n in range(left[c])) for c in left}
    assert (assembler.pending_records, assembler.pending_bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 300),
            st.integers(0, 255),
            st.integers(0, 255),
            st.integers(1, 60_000),
        ),
        max_size=200,
    )
)
def test_whatever_comes_memory_is_bounded(
    garbage: list[tuple[int, int, int, int, int]],
) -> None:
    assembler = Assembler()
    for index, counter, number, count, size in garbage:
        out = assembler.add(index, counter, number, count, bytes(size), 0.0)
        assert out is None or len(out) >= size
        assert assembler.pending_bytes <= MAX_BYTES
        assert assembler.pending_records <= MAX_RECORDS


def test_the_oldest_gives_way() -> None:
    assembler = Assembler()
    for counter in range(MAX_RECORDS + 1):
        assert assembler.add(1, counter, 0, 2, b"x", 0.0) is None
    assert assembler.given_up == 1
    assert assembler.add(1, 0, 1, 2, b"y", 0.0) is None
    assert assembler.add(1, MAX_RECORDS, 1, 2, b"y", 0.0) == b"xy"


def test_what_waits_too_long_is_dropped() -> None:
    assembler = Assembler()
    assembler.add(1, 1, 0, 2, b"x", 10.0)
    assembler.expire(10.0 + MAX_WAIT_S)
    assert (assembler.pending_records, assembler.pending_bytes, assembler.given_up) == (0, 0, 1)


def test_the_first_to_claim_a_place_keeps_it() -> None:
    assembler = Assembler()
    assembler.add(1, 1, 0, 2, b"first", 0.0)
    assert assembler.add(1, 1, 0, 2, b"second", 0.0) is None
    assert assembler.add(1, 1, 1, 3, b"another count", 0.0) is None
    assert assembler.add(1, 1, 1, 2, b" last", 0.0) == b"first last"

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from router.sleeve.fragments import MAX_BYTES, MAX_FRAMES, MAX_WAIT_S, Reassembler, split


def test_a_fragment_has_these_bytes():
    assert [part.hex() for part in split(b"abcde", 6 + 3, 0x01020304)] == [
        "010203040002" + b"abc".hex(),
        "010203040102" + b"de".hex(),
    ]


@given(st.binary(min_size=1, max_size=3000), st.integers(7 + 20, 1500), st.randoms())
def test_a_frame_comes_out_whole_in_whatever_order_its_fragments_arrive(frame, limit, random):
    parts = split(memoryview(frame), limit, 5)
    assert all(len(part) <= limit for part in parts)
    parts = parts + parts[:1]
    random.shuffle(parts)
    reassembler = Reassembler()
    frames = [reassembler.add(part, 1.0) for part in parts]
    assert frames.count(frame) >= 1
    assert set(frames) <= {frame, None}


def test_the_largest_frame_fits_the_smallest_path():
    frame = Random(1).randbytes(65_535 + 14)
    parts = split(frame, 576 - 28 - 15 - 16 - 4, 1)
    reassembler = Reassembler()
    assert [whole for part in parts if (whole := reassembler.add(part, 0.0))] == [frame]


def test_a_frame_that_would_need_too_many_fragments_is_not_split():
    assert split(bytes(256), 7, 1) == []
    assert len(split(bytes(255), 7, 1)) == 255
    assert split(b"frame", 6, 1) == []


def test_duplicates_count_once_and_late_ones_do_no_harm():
    first, second = split(b"abcd", 8, 1)
    reassembler = Reassembler()
    assert reassembler.add(first, 0.0) is None
    assert reassembler.add(first, 0.0) is None
    assert reassembler.add(second, 0.0) == b"abcd"
    assert reassembler.pending_bytes == 0


def test_an_unfinished_frame_is_given_up_after_two_seconds():
    first, second = split(b"abcd", 8, 1)
    reassembler = Reassembler()
    reassembler.add(first, 0.0)
    reassembler.expire(MAX_WAIT_S)
    assert reassembler.pending_frames == 0
    assert reassembler.given_up == 1
    assert reassembler.add(second, MAX_WAIT_S) is None


def test_the_number_of_unfinished_frames_is_bounded_and_the_oldest_gives_way():
    reassembler = Reassembler()
    parts = [split(b"abcd", 8, number) for number in range(MAX_FRAMES + 1)]
    for first, _ in parts:
        reassembler.add(first, 0.0)
    assert reassembler.pending_frames == MAX_FRAMES
    assert reassembler.add(parts[1][1], 0.0) == b"abcd"
    assert reassembler.add(parts[0][1], 0.0) is None


def test_the_memory_for_unfinished_frames_is_bounded():
    reassembler = Reassembler()
    for number in range(40):
        for part in split(bytes(65_000), 9000, number)[:-1]:
            reassembler.add(part, 0.0)
            assert reassembler.pending_bytes <= MAX_BYTES


def test_an_id_that_is_used_again_begins_a_new_frame():
    reassembler = Reassembler()
    reassembler.add(split(b"abcdef", 8, 1)[0], 0.0)
    first, second = split(b"wxyz", 8, 1)
    reassembler.add(first, 0.1)
    assert reassembler.add(second, 0.1) == b"wxyz"


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=60))
def test_garbage_is_bounded_and_raises_nothing(fragments):
    reassembler = Reassembler()
    for position, fragment in enumerate(fragments):
        reassembler.add(fragment, position / 10)
        held = sum(frame.size_bytes for frame in reassembler._frames.values())
        assert reassembler.pending_bytes == held

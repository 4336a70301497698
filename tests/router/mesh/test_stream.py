from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.noise import CipherState
from router.mesh.stream import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, SecureStream
from weavepy.base.errors import ProtocolError

OVERHEAD_BYTES = 3 + 1 + 16


def pair(rekey_after_frames: int = 2**16) -> tuple[SecureStream, SecureStream]:
    def cipher(key: bytes) -> CipherState:
        return CipherState("AESGCM", key * 32)

    return (
        SecureStream(cipher(b"a"), cipher(b"b"), rekey_after_frames=rekey_after_frames),
        SecureStream(cipher(b"b"), cipher(b"a"), rekey_after_frames=rekey_after_frames),
    )


def hand_made_frame(plaintext: bytes, nonce: int = 0) -> bytes:
    """A frame from `pair()[0]` whose plaintext no correct peer would send."""
    cipher = CipherState("AESGCM", b"a" * 32)
    cipher.nonce = nonce
    length = (len(plaintext) + 16).to_bytes(3, "big")
    return length + cipher.encrypt(length, plaintext)


def feed_in_portions(stream: SecureStream, data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    messages = []
    for start, end in pairwise(edges):
        messages += stream.feed(data[start:end])
    return messages


def test_messages_arrive_in_order_in_both_directions() -> None:
    ours, theirs = pair()
    assert theirs.feed(ours.seal(b"one") + ours.seal(b"") + ours.seal(b"two")) == [
        b"one",
        b"",
        b"two",
    ]
    assert ours.feed(theirs.seal(b"three")) == [b"three"]


def test_a_frame_is_20_bytes_longer_than_its_message_and_does_not_show_it() -> None:
    frame = pair()[0].seal(b"plaintext")
    assert len(frame) == len(b"plaintext") + OVERHEAD_BYTES
    assert b"plaintext" not in frame


@given(
    messages=st.lists(st.binary(max_size=50), max_size=8),
    cuts=st.lists(st.integers(min_value=0), max_size=20),
    rekey_after_frames=st.integers(min_value=1, max_value=5),
)
def test_any_split_of_the_bytes_gives_the_same_messages(
    messages: list[bytes], cuts: list[int], rekey_after_frames: int
) -> None:
    ours, theirs = pair(rekey_after_frames)
    data = b"".join(ours.seal(message) for message in messages) + ours.seal_goodbye("done")
    assert feed_in_portions(theirs, data, cuts) == messages
    assert theirs.goodbye == "done"
    assert theirs.buffered_bytes == 0


def test_both_ends_rekey_after_the_same_frame() -> None:
    ours, theirs = pair(rekey_after_frames=3)
    old_key = CipherState("AESGCM", b"a" * 32)
    frames = [ours.seal(b"same") for _ in range(7)]
    assert [theirs.feed(frame) for frame in frames] == [[b"same"]] * 7
    in_first_key = []
    for number, frame in enumerate(frames):
        old_key.nonce = number
        in_first_key.append(old_key.encrypt(frame[:3], b"\0same") == frame[3:])
    assert in_first_key == [True] * 3 + [False] * 4


def test_every_flipped_bit_is_refused_and_ends_the_stream() -> None:
    message = b"do not touch"
    for bit in range((len(message) + OVERHEAD_BYTES) * 8):
        ours, theirs = pair()
        frame = bytearray(ours.seal(message))
        frame[bit // 8] ^= 1 << bit % 8
        followed = bytes(frame) + ours.seal(b"more") * 20
        try:
            got = theirs.feed(followed)
        except ProtocolError:
            with pytest.raises(ProtocolError):
                theirs.feed(b"")
        else:
            # A bit of the length: the frame claims to go on, and nothing was believed yet.
            assert bit < 24
            assert got == []
            with pytest.raises(ProtocolError):
                theirs.feed(bytes(MAX_FRAME_BYTES))


@pytest.mark.parametrize("order", [[1], [0, 0], [0, 2], [1, 0]], ids=str)
def test_a_frame_left_out_repeated_or_moved_is_refused(order: list[int]) -> None:
    ours, theirs = pair()
    frames = [ours.seal(b"number %d" % number) for number in range(3)]
    data = b"".join(frames[number] for number in order)
    with pytest.raises(ProtocolError, match="not authentic"):
        theirs.feed(data)


def test_our_own_frame_sent_back_is_refused() -> None:
    ours, _ = pair()
    frame = ours.seal(b"echo")
    with pytest.raises(ProtocolError, match="not authentic"):
        ours.feed(frame)


@pytest.mark.parametrize("length", [0, 1, 16, MAX_FRAME_BYTES + 1, 2**24 - 1])
def test_an_impossible_length_is_refused_before_its_bytes_come(length: int) -> None:
    _, theirs = pair()
    with pytest.raises(ProtocolError, match="impossible length"):
        theirs.feed(length.to_bytes(3, "big"))
    assert theirs.buffered_bytes == 0


def test_a_lying_length_makes_us_hold_one_frame_at_most() -> None:
    _, theirs = pair()
    theirs.feed(MAX_FRAME_BYTES.to_bytes(3, "big"))
    for _ in range(MAX_FRAME_BYTES // 4096 - 1):
        theirs.feed(bytes(4096))
    theirs.feed(bytes(4095))
    assert theirs.buffered_bytes == 3 + MAX_FRAME_BYTES - 1
    with pytest.raises(ProtocolError, match="not authentic"):
        theirs.feed(bytes(4096))
    assert theirs.buffered_bytes == 0


def test_the_largest_message_passes_and_a_larger_one_is_our_bug() -> None:
    ours, theirs = pair()
    message = bytes(MAX_MESSAGE_BYTES)
    frame = ours.seal(message)
    assert len(frame) == 3 + MAX_FRAME_BYTES
    assert theirs.feed(frame) == [message]
    with pytest.raises(AssertionError):
        ours.seal(bytes(MAX_MESSAGE_BYTES + 1))


def test_a_goodbye_is_authentic_and_the_last_word() -> None:
    ours, theirs = pair()
    data = ours.seal(b"message") + ours.seal_goodbye("leaving the mesh")
    with pytest.raises(AssertionError):
        ours.seal(b"too late")
    assert theirs.goodbye is None
    assert theirs.feed(data + b"what follows is ignored") == [b"message"]
    assert theirs.goodbye == "leaving the mesh"
    assert theirs.feed(b"this too") == []
    assert theirs.buffered_bytes == 0


def test_a_cut_or_altered_goodbye_is_none() -> None:
    ours, theirs = pair()
    frame = ours.seal_goodbye("leaving")
    assert theirs.feed(frame[:-1]) == []
    assert theirs.goodbye is None
    with pytest.raises(ProtocolError):
        theirs.feed(bytes([frame[-1] ^ 1]))
    assert theirs.goodbye is None


def test_the_reason_of_a_goodbye_is_bounded_and_printable_at_both_ends() -> None:
    ours, theirs = pair()
    theirs.feed(ours.seal_goodbye("stop\x1b[2J" + "x" * 1000))
    assert theirs.goodbye is not None
    assert theirs.goodbye.startswith("stop[2Jxxx")
    assert len(theirs.goodbye) == 200

    _, theirs = pair()
    theirs.feed(hand_made_frame(b"\x01\xffbad\x07" + b"y" * 1000))
    assert theirs.goodbye is not None
    assert theirs.goodbye.startswith("badyyy")
    assert len(theirs.goodbye) == 200


def test_an_authentic_frame_of_an_unknown_kind_is_refused() -> None:
    _, theirs = pair()
    with pytest.raises(ProtocolError, match="unknown kind"):
        theirs.feed(hand_made_frame(b"\x02"))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_give_nothing_or_a_protocol_error(portions: list[bytes]) -> None:
    _, theirs = pair()
    failed = False
    for portion in portions:
        try:
            assert theirs.feed(portion) == []
            assert not failed
        except ProtocolError:
            failed = True
    assert theirs.goodbye is None

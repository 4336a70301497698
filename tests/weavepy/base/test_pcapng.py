"""The file format, read by our own reader; `tests/e2e/test_capture.py` has tcpdump read it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy.base import pcapng
from weavepy.base.errors import ProtocolError


@given(st.lists(st.tuples(st.binary(min_size=14, max_size=200), st.booleans())), st.integers(1, 99))
def test_what_is_written_is_read_again_in_parts_of_any_size(
    frames: list[tuple[bytes, bool]], part_bytes: int
) -> None:
    file = pcapng.file_head("weavetap", 65_536)
    for number, (frame, outbound) in enumerate(frames):
        file += pcapng.packet(number, frame, len(frame) + 1, outbound=outbound)
    file += pcapng.statistics(9, 100, 7)
    reader = pcapng.Reader()
    parts = [file[at : at + part_bytes] for at in range(0, len(file), part_bytes)]
    blocks = [block for part in parts for block in reader.feed(part)]
    assert [kind for kind, _ in blocks[:2]] == [pcapng.SECTION, pcapng.INTERFACE]
    packets = [content for kind, content in blocks if kind == pcapng.PACKET]
    assert [pcapng.frame_of(content) for content in packets] == [
        (frame, len(frame) + 1, outbound) for frame, outbound in frames
    ]
    assert blocks[-1][0] == pcapng.STATISTICS
    assert pcapng.dropped_of(blocks[-1][1]) == 7


def test_each_block_says_its_length_at_both_ends() -> None:
    for block in (
        pcapng.packet(1 << 40, bytes(61), 61, outbound=True),
        pcapng.statistics(1, 2, 3),
    ):
        assert len(block) % 4 == 0
        assert struct.unpack_from("<I", block, 4) == struct.unpack("<I", block[-4:])
        assert struct.unpack_from("<I", block, 4) == (len(block),)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        for _, content in pcapng.Reader().feed(data):
            pcapng.dropped_of(content)
            pcapng.frame_of(content)
    except ProtocolError:
        pass


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(ProtocolError):
        list(pcapng.Reader().feed(struct.pack("<II", 6, 1 << 30)))

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.identity import (
    INTRODUCTION_BYTES,
    Identity,
    Introduction,
    decode_introduction,
    encode_introduction,
    printable,
)
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.names import PeerName, PeerUid, is_peer_name, name_of_public_key
from weavepy.base.wire import encode

PRIVATE_KEY = bytes(range(32))

INTRODUCTION = Introduction(
    name=PeerName("7a:0c:00:00:00:01"),
    uid=PeerUid(2**63 - 1),
    nickname="host1",
    listen_port=6783,
    udp_port=65535,
    version="0.1.0",
)


def padded(body: bytes) -> bytes:
    return (len(body).to_bytes(2, "big") + body).ljust(INTRODUCTION_BYTES, b"\0")


def test_the_name_follows_from_the_public_key() -> None:
    identity = Identity(PRIVATE_KEY)
    public = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
    assert identity.public_bytes.hex() == public
    assert identity.name == name_of_public_key(bytes.fromhex(public))
    assert is_peer_name(identity.name)


def test_a_stored_identity_is_loaded_again() -> None:
    created = Identity.load_or_create(None)
    loaded = Identity.load_or_create(created.encode())
    assert loaded.public_bytes == created.public_bytes
    assert Identity.load_or_create(None).name != created.name


def test_a_damaged_identity_file_never_becomes_another_identity() -> None:
    stored = Identity(PRIVATE_KEY).encode()
    damaged = [stored[:size] for size in range(len(stored) - 1)]
    damaged += [
        stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :] for at in range(len(stored) - 1)
    ]
    damaged += [b"\xff" * 32, PRIVATE_KEY]
    for data in damaged:
        with pytest.raises(WeavepyError, match="damaged"):
            Identity.load_or_create(data)


def test_the_representation_of_an_identity_does_not_show_its_key() -> None:
    identity = Identity(PRIVATE_KEY)
    assert repr(identity) == f"Identity({identity.name})"


def test_an_introduction_has_a_fixed_size_and_comes_back_equal() -> None:
    data = encode_introduction(INTRODUCTION)
    assert len(data) == INTRODUCTION_BYTES
    assert decode_introduction(data) == INTRODUCTION


@given(nickname=st.text(max_size=300), version=st.text(max_size=300))
def test_any_texts_fit_and_arrive_printable(nickname: str, version: str) -> None:
    told = msgspec.structs.replace(INTRODUCTION, nickname=nickname, version=version)
    heard = decode_introduction(encode_introduction(told))
    assert heard.nickname.isprintable()
    assert heard.version.isprintable()
    assert len(heard.nickname.encode()) <= 63
    assert len(heard.version.encode()) <= 32


def test_what_a_terminal_would_obey_is_dropped_on_arrival() -> None:
    hostile = msgspec.structs.replace(
        INTRODUCTION, nickname="a\x1b[2J\r\nb\u202ec", version="1\x00.0"
    )
    heard = decode_introduction(padded(encode(hostile)))
    assert heard.nickname == "a[2Jbc"
    assert heard.version == "1.0"


def test_a_text_is_cut_between_characters() -> None:
    assert printable("aé", 2) == "a"
    assert printable("aé", 3) == "aé"


@pytest.mark.parametrize(
    "change",
    [
        {"uid": 0},
        {"uid": 2**63},
        {"uid": "1"},
        {"listen_port": -1},
        {"udp_port": 65536},
        {"nickname": 5},
        {"name": None},
    ],
)
def test_a_field_out_of_its_bounds_is_refused(change: dict[str, object]) -> None:
    fields = msgspec.to_builtins(INTRODUCTION) | change
    with pytest.raises(ProtocolError, match="introduction"):
        decode_introduction(padded(encode(fields)))


def test_a_field_of_a_later_version_is_ignored() -> None:
    fields = msgspec.to_builtins(INTRODUCTION) | {"colour": "green"}
    assert decode_introduction(padded(encode(fields))) == INTRODUCTION


def test_a_wrong_length_or_dirty_padding_is_refused() -> None:
    data = encode_introduction(INTRODUCTION)
    for wrong in (data[:-1], data + b"\0", data[:-1] + b"\1", b"\xff\xff" + data[2:], b""):
        with pytest.raises(ProtocolError):
            decode_introduction(wrong)


@given(st.binary(max_size=300) | st.binary(max_size=254).map(padded))
def test_any_bytes_are_an_introduction_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_introduction(data)
    except ProtocolError:
        pass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy.base.errors import ProtocolError
from weavepy.base.wire import Decoder, encode


class Hello(msgspec.Struct, tag=True):
    name: str
    age: int = 0


class NewerHello(msgspec.Struct, tag="Hello"):
    name: str
    colour: str


class Bye(msgspec.Struct, tag=True):
    pass


decoder = Decoder(Hello | Bye, "greeting")


def test_a_message_comes_back_as_it_was() -> None:
    assert decoder.decode(encode(Hello("a", 3))) == Hello("a", 3)
    assert decoder.decode(encode(Bye())) == Bye()


def test_fields_of_a_newer_peer_are_ignored() -> None:
    assert decoder.decode(encode(NewerHello("a", "blue"))) == Hello("a")


@given(st.binary(max_size=200))
def test_decoding_any_bytes_succeeds_or_raises_a_protocol_error(data: bytes) -> None:
    try:
        decoder.decode(data)
    except ProtocolError as error:
        assert "malformed greeting" in str(error)


def test_nesting_without_end_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        decoder.decode(b"\x91" * 100_000)

"""The codec of everything that peers and processes say to each other: MessagePack, typed, bounded.

Messages are `msgspec.Struct`s. Decoding checks every field's type, ignores fields it does not
know (a newer peer may send them) and raises `ProtocolError` for anything else, never more.
The bound on size is the caller's: no frame longer than its limit gets this far.
"""

from typing import Any

import msgspec

from weavepy.base.errors import ProtocolError

_encoder = msgspec.msgpack.Encoder()


def encode(message: object) -> bytes:
    return _encoder.encode(message)


class Decoder:
    """Decodes one type, or one tagged union of types. Make it once, at import."""

    def __init__(self, kind: Any, description: str) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._description = description

    def decode(self, data: bytes | memoryview) -> Any:
        """Raises `ProtocolError`, and nothing else, if `data` is not one such message."""
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(f"malformed {self._description}: {error}") from error

"""The control stream: what two peers say over TCP once they know each other.

A frame is a length (3 bytes, big-endian, in clear), then that many bytes of AES-256-GCM. The
nonce is a counter that never travels and the length is associated data, so a frame that is
altered, repeated, left out, moved or cut is not authentic, and the first such frame ends the
stream. The first plaintext byte says whether the rest is a message or a goodbye.

TCP can be cut by anybody on the path. Only a goodbye is the peer's own word that it leaves.
"""

from typing import Final

from router.mesh.identity import printable
from router.mesh.noise import TAG_BYTES, CipherState, NoiseError
from weavepy.base.errors import ProtocolError

MAX_FRAME_BYTES = 256 * 1024
"""Of ciphertext, and so the most that an authenticated or unauthenticated peer makes us hold."""

MAX_MESSAGE_BYTES = MAX_FRAME_BYTES - TAG_BYTES - 1

MAX_GOODBYE_BYTES = 200

REKEY_AFTER_FRAMES = 2**16
"""Both ends count alike. 16 GiB at most under one key; the counter would last 2^48 times that."""

_LENGTH_BYTES = 3
_MESSAGE: Final = 0
_GOODBYE: Final = 1


class SecureStream:
    """Both directions of one connection; `handshake.py` makes it from the transport keys."""

    def __init__(
        self,
        send: CipherState,
        receive: CipherState,
        *,
        rekey_after_frames: int = REKEY_AFTER_FRAMES,
    ) -> None:
        self.goodbye: str | None = None
        """Why the peer left, in its words, once it said so; it may be empty."""
        self._send = send
        self._receive = receive
        self._rekey_after_frames = rekey_after_frames
        self._said_goodbye = False
        self._buffer = bytearray()
        self._failure: str | None = None

    def seal(self, message: bytes) -> bytes:
        """The bytes to send for a message of at most `MAX_MESSAGE_BYTES`."""
        assert len(message) <= MAX_MESSAGE_BYTES
        return self._seal_frame(_MESSAGE, message)

    def seal_goodbye(self, reason: str) -> bytes:
        """The last bytes to send before closing; nothing can be sealed after them."""
        frame = self._seal_frame(_GOODBYE, printable(reason, MAX_GOODBYE_BYTES).encode())
        self._said_goodbye = True
        return frame

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any portions and return the messages that they complete.

        Raises `ProtocolError` at the first frame that is not authentic, and ever after;
        messages completed by the same call are lost with it, as the connection is.
        What follows a goodbye is ignored.
        """
        if self._failure is not None:
            raise ProtocolError(self._failure)
        self._buffer += data
        try:
            return self._take_messages()
        except ProtocolError as error:
            self._failure = str(error)
            self._buffer.clear()
            raise

    @property
    def buffered_bytes(self) -> int:
        """What waits for the rest of its frame; never more than one frame."""
        return len(self._buffer)

    def _seal_frame(self, kind: int, body: bytes) -> bytes:
        assert not self._said_goodbye
        length = (1 + len(body) + TAG_BYTES).to_bytes(_LENGTH_BYTES, "big")
        ciphertext = self._send.encrypt(length, bytes([kind]) + body)
        self._rekey_if_due(self._send)
        return length + ciphertext

    def _take_messages(self) -> list[bytes]:
        messages: list[bytes] = []
        start = 0
        while self.goodbye is None and (end := self._end_of_frame(start)) is not None:
            plaintext = self._open_frame(bytes(self._buffer[start:end]))
            start = end
            if plaintext[0] == _MESSAGE:
                messages.append(plaintext[1:])
            elif plaintext[0] == _GOODBYE:
                self.goodbye = printable(plaintext[1:].decode(errors="ignore"), MAX_GOODBYE_BYTES)
            else:
                raise ProtocolError(f"a control frame is of an unknown kind ({plaintext[0]})")
        if self.goodbye is not None:
            start = len(self._buffer)
        del self._buffer[:start]
        return messages

    def _end_of_frame(self, start: int) -> int | None:
        """Where the frame ends; None while it is incomplete. A bad length is found at once."""
        if len(self._buffer) - start < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[start : start + _LENGTH_BYTES], "big")
        if not 1 + TAG_BYTES <= length <= MAX_FRAME_BYTES:
            raise ProtocolError(f"a control frame claims an impossible length ({length} bytes)")
        end = start + _LENGTH_BYTES + length
        return end if end <= len(self._buffer) else None

    def _open_frame(self, frame: bytes) -> bytes:
        try:
            plaintext = self._receive.decrypt(frame[:_LENGTH_BYTES], frame[_LENGTH_BYTES:])
        except NoiseError as error:
            raise ProtocolError("a control frame is not authentic: it was altered") from error
        self._rekey_if_due(self._receive)
        return plaintext

    def _rekey_if_due(self, cipher: CipherState) -> None:
        if cipher.nonce % self._rekey_after_frames == 0:
            cipher.rekey()

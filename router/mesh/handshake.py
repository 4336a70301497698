"""How two routers that meet over TCP prove that they belong to one mesh, and learn who is who.

    initiator                                                    responder
      header ------------------------------------------------------->
      <------------------------------------------------------- header
      1: e ---------------------------------------------------------->
      <------------------------------------------------ 2: e, ee, s, es
      3: s, se, psk, introduction ---------------------------------->
      <------------------------------------------------ 4: introduction

Messages 1 to 3 are Noise XXpsk3, the mesh secret being the psk, and both headers are their
prologue: whoever alters a bit of what travels in clear, to weaken what the two agree on, breaks
the tags. Message 4 is the first transport message. It proves that the responder has the secret
too, so neither end is finished before the other has proved it, and the responder sends nothing
that depends on the secret, or tells who it is in words, to one who has not.

Everything has a fixed size and the two take turns, so a byte too many is an error, and a
stranger never makes us hold more than one message (`MAX_BUFFERED_BYTES`).

Who refuses says why, with one byte in clear. The other side shows that to its operator as
hearsay ("the other side says ..."): it is not authenticated, and nothing is done because of it.
"""

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from router.mesh.header import HEADER_BYTES, MAGIC, Role, disagreement, encode_header
from router.mesh.identity import (
    INTRODUCTION_BYTES,
    Identity,
    Introduction,
    decode_introduction,
    encode_introduction,
)
from router.mesh.noise import KEY_BYTES, TAG_BYTES, CipherState, HandshakeState, NoiseError
from router.mesh.refusal import (
    REFUSAL_BYTES,
    REFUSAL_KIND,
    HandshakeRefused,
    decode_refusal,
    encode_refusal,
)
from router.mesh.stream import SecureStream
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName, name_of_public_key

HANDSHAKE_TIMEOUT_S = 5.0
MAX_BUFFERED_BYTES = 1024

PROTOCOL = "Noise_XXpsk3_25519_AESGCM_SHA256"
OVERLAY_LABEL = b"weavepy overlay secret v1"

_SEALED_KEY_BYTES = KEY_BYTES + TAG_BYTES
_SEALED_INTRODUCTION_BYTES = INTRODUCTION_BYTES + TAG_BYTES
MESSAGE_BYTES = {
    1: 1 + KEY_BYTES + TAG_BYTES,
    2: 1 + KEY_BYTES + _SEALED_KEY_BYTES + TAG_BYTES,
    3: 1 + _SEALED_KEY_BYTES + _SEALED_INTRODUCTION_BYTES,
    4: 1 + _SEALED_INTRODUCTION_BYTES,
}
"""By message number, which is also the first byte of the message."""

assert max(MESSAGE_BYTES.values()) <= MAX_BUFFERED_BYTES

__all__ = [
    "HANDSHAKE_TIMEOUT_S",
    "Finished",
    "Handshake",
    "HandshakeProgress",
    "HandshakeRefused",
    "Introduction",
    "Role",
]

_HEADER = 0
_AFTER_LAST = -1

_NEXT_AWAITED = {
    (Role.INITIATOR, _HEADER): 2,
    (Role.INITIATOR, 2): 4,
    (Role.INITIATOR, 4): _AFTER_LAST,
    (Role.RESPONDER, _HEADER): 1,
    (Role.RESPONDER, 1): 3,
    (Role.RESPONDER, 3): _AFTER_LAST,
}


@dataclass(frozen=True, slots=True)
class Finished:
    """What a handshake yields: a peer that proved the mesh's secret and its own name."""

    introduction: Introduction
    remote_public: bytes
    remote_name: PeerName
    stream: SecureStream
    overlay_secret: bytes
    """32 bytes that only the two ends know; independent of the keys of `stream`."""
    leftover: bytes
    """What came after the handshake in the same chunk: feed it to `stream` first."""


@dataclass(frozen=True, slots=True)
class HandshakeProgress:
    to_send: bytes
    finished: Finished | None = None


class Handshake:
    """One end of one handshake: send what `start` returns, then `feed` until it is finished.

    Whoever owns it closes the link on `HandshakeRefused`, after sending the refusal's
    `to_send`, and refuses with `too_slow()` once `deadline` has passed.
    """

    def __init__(
        self,
        role: Role,
        identity: Identity,
        secret: bytes,
        encrypted: bool,
        introduction: Introduction,
        now: float,
        ephemeral: bytes | None = None,
    ) -> None:
        """`ephemeral` (32 private bytes) is for tests and simulations; None draws a fresh key."""
        assert introduction.name == identity.name
        self.role = role
        self.deadline = now + HANDSHAKE_TIMEOUT_S
        self._identity = identity
        self._secret = secret
        self._encrypted = encrypted
        self._introduction = encode_introduction(introduction)
        self._ephemeral = (
            None if ephemeral is None else X25519PrivateKey.from_private_bytes(ephemeral)
        )
        self._noise: HandshakeState | None = None
        self._ciphers: tuple[CipherState, CipherState] | None = None
        self._awaited = _HEADER
        self._buffer = bytearray()
        self._header_sent = False
        self._refusal: HandshakeRefused | None = None

    def start(self) -> bytes:
        """The first bytes to send: the initiator speaks first, the responder waits."""
        return self._send_header() if self.role is Role.INITIATOR else b""

    def feed(self, data: bytes) -> HandshakeProgress:
        """Take bytes in any portions.

        Raises `HandshakeRefused`, and nothing else, whatever the bytes are, and ever after.
        Must not be called once finished.
        """
        if self._refusal is not None:
            raise HandshakeRefused(self._refusal.reason, str(self._refusal), b"")
        assert self._awaited != _AFTER_LAST
        try:
            return self._feed(data)
        except HandshakeRefused as refused:
            self._refusal = refused
            raise

    @property
    def buffered_bytes(self) -> int:
        """What waits for the rest of its message: at most `MAX_BUFFERED_BYTES`."""
        return len(self._buffer)

    @property
    def mark(self) -> bytes:
        """The one-time key of the end that was dialled: it names this handshake at both ends.

        Empty while it is not known.
        """
        if self._noise is None:
            return b""
        if self.role is Role.INITIATOR:
            return self._noise.remote_ephemeral
        return self._noise.own_ephemeral

    def too_slow(self) -> HandshakeRefused:
        """The refusal for one who has not finished by `deadline`."""
        return self._refuse(
            "too-slow", f"got no {self._awaited_text()} within {HANDSHAKE_TIMEOUT_S:g} s"
        )

    def closed(self) -> HandshakeRefused:
        """The refusal, for our operator only, when the other side closed the connection."""
        hint = "; its log may tell why" if self._awaited == 4 else ""
        text = f"the other side closed the connection before its {self._awaited_text()}{hint}"
        return HandshakeRefused("closed", text, b"")

    # --- taking bytes apart ------------------------------------------------------------------

    def _feed(self, data: bytes) -> HandshakeProgress:
        to_send = b""
        rest = memoryview(data)
        while rest:
            rest = self._take(rest)
            if len(self._buffer) < self._awaited_bytes():
                continue
            message = bytes(self._buffer)
            self._buffer.clear()
            progress = self._handle_message(message)
            if progress.finished is not None:
                return self._last_progress(progress.to_send, progress.finished, bytes(rest))
            to_send += progress.to_send
            if rest and rest[0] != REFUSAL_KIND:
                # Only a refusal may come before what we are about to say was answered.
                raise self._refuse("too-much-data", "the other side sent out of turn", to_send)
        return HandshakeProgress(to_send)

    def _last_progress(self, to_send: bytes, finished: Finished, rest: bytes) -> HandshakeProgress:
        if self.role is Role.RESPONDER and rest:
            raise self._refuse("too-much-data", "the other side sent before our last message")
        return HandshakeProgress(to_send, replace(finished, leftover=rest))

    def _take(self, rest: memoryview) -> memoryview:
        """Move what is missing of the awaited message to the buffer."""
        missing = self._awaited_bytes() - len(self._buffer)
        self._buffer += rest[:missing]
        if self._awaited == _HEADER and not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise self._refuse("not-weavepy", "the other side does not speak weavepy")
        return rest[missing:]

    def _awaited_bytes(self) -> int:
        """How long what we wait for is, as far as its first byte tells."""
        if self._awaited == _HEADER:
            return HEADER_BYTES
        if not self._buffer:
            return 1
        kind = self._buffer[0]
        if kind == REFUSAL_KIND:
            return REFUSAL_BYTES
        if kind != self._awaited:
            raise self._refuse("garbage", f"expected {self._awaited_text()}, got something else")
        return MESSAGE_BYTES[kind]

    def _handle_message(self, message: bytes) -> HandshakeProgress:
        if self._awaited != _HEADER and message[0] == REFUSAL_KIND:
            raise decode_refusal(message)
        try:
            progress = self._handle_awaited(message)
        except NoiseError as error:
            raise self._refuse_noise(error) from error
        self._awaited = _NEXT_AWAITED[self.role, self._awaited]
        return progress

    def _handle_awaited(self, message: bytes) -> HandshakeProgress:
        if self._awaited == _HEADER:
            return self._handle_header(message)
        body = message[1:]
        if self._awaited == 1:
            return self._handle_message_1(body)
        if self._awaited == 2:
            return self._handle_message_2(body)
        if self._awaited == 3:
            return self._handle_message_3(body)
        assert self._awaited == 4
        return self._handle_message_4(body)

    # --- the steps ---------------------------------------------------------------------------

    def _handle_header(self, header: bytes) -> HandshakeProgress:
        """Compare headers in clear. Ours goes out in any case, so that the other can compare."""
        header_out = b"" if self._header_sent else self._send_header()
        wrong = disagreement(self.role, self._encrypted, header)
        if wrong is not None:
            raise self._refuse(*wrong, header_out)
        ours = encode_header(self.role, self._encrypted)
        initiator = self.role is Role.INITIATOR
        self._noise = HandshakeState(
            PROTOCOL,
            initiator=initiator,
            prologue=ours + header if initiator else header + ours,
            static=self._identity.private_key,
            ephemeral=self._ephemeral,
            psk=self._secret,
        )
        message_1 = bytes([1]) + self._noise.write_message(b"") if initiator else b""
        return HandshakeProgress(header_out + message_1)

    def _handle_message_1(self, message: bytes) -> HandshakeProgress:
        noise = self._running_noise()
        noise.read_message(message)
        return HandshakeProgress(bytes([2]) + noise.write_message(b""))

    def _handle_message_2(self, message: bytes) -> HandshakeProgress:
        noise = self._running_noise()
        noise.read_message(message)
        self._check_not_ourself()
        message_3 = bytes([3]) + noise.write_message(self._introduction)
        self._ciphers = noise.split()
        return HandshakeProgress(message_3)

    def _handle_message_3(self, message: bytes) -> HandshakeProgress:
        noise = self._running_noise()
        payload = noise.read_message(message)
        self._check_not_ourself()
        introduction = self._check_introduction(payload)
        send, receive = noise.split()
        message_4 = bytes([4]) + send.encrypt(b"", self._introduction)
        return HandshakeProgress(message_4, self._finish(introduction, send, receive))

    def _handle_message_4(self, message: bytes) -> HandshakeProgress:
        assert self._ciphers is not None
        send, receive = self._ciphers
        introduction = self._check_introduction(receive.decrypt(b"", message))
        return HandshakeProgress(b"", self._finish(introduction, send, receive))

    def _check_not_ourself(self) -> None:
        if self._running_noise().remote_static == self._identity.public_bytes:
            raise self._refuse("ourself", "this is a connection to ourself")

    def _check_introduction(self, payload: bytes) -> Introduction:
        try:
            introduction = decode_introduction(payload)
        except ProtocolError as error:
            raise self._refuse("bad-introduction", str(error)) from error
        if introduction.name != self._remote_name():
            raise self._refuse(
                "name-mismatch",
                f"the other side proved to be {self._remote_name()} and claims another name",
            )
        return introduction

    def _finish(
        self, introduction: Introduction, send: CipherState, receive: CipherState
    ) -> Finished:
        noise = self._running_noise()
        return Finished(
            introduction=introduction,
            remote_public=self._remote_public(),
            remote_name=self._remote_name(),
            stream=SecureStream(send, receive),
            overlay_secret=noise.export(OVERLAY_LABEL),
            leftover=b"",
        )

    # --- helpers -----------------------------------------------------------------------------

    def _send_header(self) -> bytes:
        self._header_sent = True
        return encode_header(self.role, self._encrypted)

    def _running_noise(self) -> HandshakeState:
        assert self._noise is not None
        return self._noise

    def _remote_public(self) -> bytes:
        public = self._running_noise().remote_static
        assert public is not None
        return public

    def _remote_name(self) -> PeerName:
        return name_of_public_key(self._remote_public())

    def _awaited_text(self) -> str:
        return "header" if self._awaited == _HEADER else f"message {self._awaited} of 4"

    def _refuse_noise(self, error: NoiseError) -> HandshakeRefused:
        if error.step == "payload" and self._awaited == 3:
            # Up to here the tags held without the secret, and this one needs it.
            return self._refuse(
                "wrong-secret",
                "the other side does not have the secret of our mesh (or its message was altered "
                "on the way): join it with the token of this mesh",
            )
        if error.step in ("ee", "es", "se"):
            return self._refuse("bad-key", str(error))
        return self._refuse("tampered", f"{self._awaited_text()} was altered on its way")

    def _refuse(self, reason: str, text: str, to_send_before: bytes = b"") -> HandshakeRefused:
        """Only one who has seen our header can understand a refusal."""
        told = encode_refusal(reason) if self._header_sent else b""
        return HandshakeRefused(reason, text, to_send_before + told)

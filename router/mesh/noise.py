"""The Noise protocol framework (revision 34): the XX pattern, with and without psk3.

A Noise handshake is a list of messages, each a list of tokens: "e" and "s" send a public key,
two letters name a Diffie-Hellman exchange (the initiator's key first), "psk" mixes a shared
secret in. All that was sent goes into a running hash that each later tag covers, so both ends
finish only if they saw the same bytes. `_PATTERNS` is those lists; the rest executes them.

What weavepy says with these messages is in `handshake.py`. Names here are the specification's.
Tested against the public "cacophony" vectors for both roles.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from weavepy.base.errors import ProtocolError

KEY_BYTES = 32
TAG_BYTES = 16

MAX_NONCE = 2**64 - 1
"""Reserved for `rekey`; a key is never used for so long in practice (see `stream.py`)."""

_XX = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_PATTERNS = {"XX": _XX, "XXpsk3": (*_XX[:2], (*_XX[2], "psk"))}

_AEADS: dict[str, tuple[type[AESGCM | ChaCha20Poly1305], Literal["big", "little"]]] = {
    "AESGCM": (AESGCM, "big"),
    "ChaChaPoly": (ChaCha20Poly1305, "little"),
}
"""Each with the byte order of its nonce."""

_HASHES: dict[str, Callable[..., Any]] = {"SHA256": hashlib.sha256, "BLAKE2s": hashlib.blake2s}


class NoiseError(ProtocolError):
    """A message does not fit: `step` is the token (or "payload") at which this showed."""

    def __init__(self, step: str, text: str) -> None:
        super().__init__(text)
        self.step = step


class CipherState:
    """One key and its counter. `decrypt` must see messages in the order of `encrypt`."""

    def __init__(self, cipher: str, key: bytes) -> None:
        self._aead_type, self._byte_order = _AEADS[cipher]
        self._aead = self._aead_type(key)
        self.nonce = 0
        """How many messages have been encrypted or decrypted; `rekey` does not reset it."""

    def encrypt(self, associated_data: bytes, plaintext: bytes) -> bytes:
        ciphertext = self._aead.encrypt(self._nonce_bytes(), plaintext, associated_data)
        self.nonce += 1
        return ciphertext

    def decrypt(self, associated_data: bytes, ciphertext: bytes) -> bytes:
        """Raises `NoiseError` if not authentic; then the counter has not moved."""
        try:
            plaintext = self._aead.decrypt(self._nonce_bytes(), ciphertext, associated_data)
        except InvalidTag as error:
            raise NoiseError("payload", "a message is not authentic") from error
        self.nonce += 1
        return plaintext

    def rekey(self) -> None:
        """Replace the key by a one-way function of it: what was sent stays sealed for good."""
        nonce = bytes(4) + MAX_NONCE.to_bytes(8, self._byte_order)
        self._aead = self._aead_type(self._aead.encrypt(nonce, bytes(KEY_BYTES), b"")[:KEY_BYTES])

    def _nonce_bytes(self) -> bytes:
        assert self.nonce < MAX_NONCE
        return bytes(4) + self.nonce.to_bytes(8, self._byte_order)


class SymmetricState:
    """The running hash, the chaining key, and the key that both currently yield."""

    def __init__(self, protocol: str, cipher: str, hash_name: str) -> None:
        self._cipher_name = cipher
        self._hash = _HASHES[hash_name]
        name = protocol.encode()
        size = self._hash().digest_size
        self.hash: bytes = name.ljust(size, b"\0") if len(name) <= size else self._digest(name)
        self._chaining_key = self.hash
        self._cipher: CipherState | None = None

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = self._hkdf(material, 2)
        self._cipher = CipherState(self._cipher_name, key)

    def mix_hash(self, data: bytes) -> None:
        self.hash = self._digest(self.hash + data)

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, to_hash, key = self._hkdf(material, 3)
        self.mix_hash(to_hash)
        self._cipher = CipherState(self._cipher_name, key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Before the first key is mixed in, the plaintext goes out as it is."""
        ciphertext = plaintext
        if self._cipher is not None:
            ciphertext = self._cipher.encrypt(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = ciphertext
        if self._cipher is not None:
            plaintext = self._cipher.decrypt(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def tag_bytes(self) -> int:
        return 0 if self._cipher is None else TAG_BYTES

    def split(self) -> tuple[CipherState, CipherState]:
        """The transport keys: the initiator's direction first."""
        keys = self._hkdf(b"", 2)
        return CipherState(self._cipher_name, keys[0]), CipherState(self._cipher_name, keys[1])

    def export(self, label: bytes) -> bytes:
        """Derive 32 bytes for a use of one's own, bound to this handshake and to `label`.

        HKDF has a third output beside the two that `split` takes; nothing about it follows
        from those, so what is exported and the transport keys say nothing about each other.
        """
        master = self._hkdf(b"", 3)[2]
        extracted = self._hmac(self.hash, master)
        return self._hmac(extracted, label + b"\x01")[:32]

    def _hkdf(self, material: bytes, outputs: int) -> list[bytes]:
        extracted = self._hmac(self._chaining_key, material)
        blocks: list[bytes] = []
        for number in range(1, outputs + 1):
            last = blocks[-1] if blocks else b""
            blocks.append(self._hmac(extracted, last + bytes([number])))
        return blocks

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, self._hash).digest()

    def _digest(self, data: bytes) -> bytes:
        digest: bytes = self._hash(data).digest()
        return digest


class HandshakeState:
    """One end of one handshake: `write_message` and `read_message` in turn, then `split`.

    `protocol` is a full Noise name, such as "Noise_XXpsk3_25519_AESGCM_SHA256". After a
    `NoiseError` the object is of no more use. Without an `ephemeral` key a fresh one is made,
    which is the only right thing outside of tests and simulations.
    """

    def __init__(
        self,
        protocol: str,
        *,
        initiator: bool,
        prologue: bytes,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey | None = None,
        psk: bytes | None = None,
    ) -> None:
        _, pattern, curve, cipher, hash_name = protocol.split("_")
        assert curve == "25519"
        assert (psk is not None) == ("psk" in pattern)
        assert psk is None or len(psk) == KEY_BYTES
        self.remote_static: bytes | None = None
        self._symmetric = SymmetricState(protocol, cipher, hash_name)
        self._symmetric.mix_hash(prologue)
        self._messages = list(_PATTERNS[pattern])
        self._initiator = initiator
        self._our_turn = initiator
        self._psk = psk
        self._own = {"s": static, "e": ephemeral or X25519PrivateKey.generate()}
        self._remote: dict[str, X25519PublicKey] = {}

    @property
    def finished(self) -> bool:
        return not self._messages

    @property
    def own_ephemeral(self) -> bytes:
        return _public_bytes(self._own["e"])

    @property
    def remote_ephemeral(self) -> bytes:
        """Empty while it has not come."""
        key = self._remote.get("e")
        return b"" if key is None else key.public_bytes_raw()

    @property
    def handshake_hash(self) -> bytes:
        """Unique to this handshake and equal at both ends."""
        assert self.finished
        return self._symmetric.hash

    def write_message(self, payload: bytes) -> bytes:
        """Raises `NoiseError` if the key that the other end sent cannot be used."""
        assert self._our_turn
        message = b""
        for token in self._next_tokens():
            if token == "e":
                message += self._write_public_key("e")
            elif token == "s":
                message += self._symmetric.encrypt_and_hash(_public_bytes(self._own["s"]))
            else:
                self._mix(token)
        return message + self._symmetric.encrypt_and_hash(payload)

    def read_message(self, message: bytes) -> bytes:
        """Return the payload. Raises `NoiseError` if the message is not what it should be."""
        assert not self._our_turn
        for token in self._next_tokens():
            if token == "e":
                key, message = _cut(message, KEY_BYTES, token)
                self._read_ephemeral(key)
            elif token == "s":
                sealed, message = _cut(message, KEY_BYTES + self._symmetric.tag_bytes(), token)
                self.remote_static = self._decrypt(sealed, token)
                self._remote["s"] = X25519PublicKey.from_public_bytes(self.remote_static)
            else:
                self._mix(token)
        return self._decrypt(message, "payload")

    def split(self) -> tuple[CipherState, CipherState]:
        """The transport keys: (for what we send, for what we receive)."""
        assert self.finished
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def export(self, label: bytes) -> bytes:
        assert self.finished
        return self._symmetric.export(label)

    def _next_tokens(self) -> tuple[str, ...]:
        self._our_turn = not self._our_turn
        return self._messages.pop(0)

    def _write_public_key(self, token: str) -> bytes:
        key = _public_bytes(self._own[token])
        self._mix_ephemeral(key)
        return key

    def _read_ephemeral(self, key: bytes) -> None:
        self._remote["e"] = X25519PublicKey.from_public_bytes(key)
        self._mix_ephemeral(key)

    def _mix_ephemeral(self, key: bytes) -> None:
        self._symmetric.mix_hash(key)
        if self._psk is not None:
            # A psk alone would give the same key each time (specification, section 9.2).
            self._symmetric.mix_key(key)

    def _mix(self, token: str) -> None:
        if token == "psk":
            assert self._psk is not None
            self._symmetric.mix_key_and_hash(self._psk)
            return
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        try:
            shared = self._own[mine].exchange(self._remote[theirs])
        except ValueError as error:
            # A point of low order gives zeros whatever our key is: it proves nothing.
            raise NoiseError(token, "the other side sent a key of low order") from error
        self._symmetric.mix_key(shared)

    def _decrypt(self, ciphertext: bytes, step: str) -> bytes:
        try:
            return self._symmetric.decrypt_and_hash(ciphertext)
        except NoiseError as error:
            raise NoiseError(step, str(error)) from error


def _public_bytes(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _cut(message: bytes, size: int, step: str) -> tuple[bytes, bytes]:
    if len(message) < size:
        raise NoiseError(step, "a message is too short")
    return message[:size], message[size:]

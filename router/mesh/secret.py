"""The secret that makes a mesh: 32 bytes that each of its peers knows and nobody else.

It comes to a host in one of three forms: a *join token* (`weavepy1-...`: the secret, whether
the mesh encrypts, and a checksum, so that a typing error is told apart from a wrong mesh), 64
hex digits in a file (what `openssl rand -hex 32` makes), or a password, which is stretched.
No error raised here repeats what was typed, because that may be most of a secret.
"""

import base64
import binascii
import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass, field

from weavepy.base.errors import UsageError

SECRET_BYTES = 32
TOKEN_PREFIX = "weavepy1-"

INSECURE_SECRET = hashlib.sha256(b"weavepy insecure mesh v1").digest()
"""What all meshes started with `--insecure` share. Public: it keeps nobody out."""

_CHECKSUM_BYTES = 7
"""With the flags and the secret this makes 40 bytes: 64 letters of base32 with no bit to spare."""

_ANY_TOKEN = re.compile(r"weavepy[0-9]+-")

_ENCRYPTED_FLAG = 0x01

_PASSWORD_SALT = b"weavepy mesh password v1"
_SCRYPT_COST = 2**16
_SCRYPT_BLOCK = 8
_SCRYPT_PARALLEL = 2
_SCRYPT_MAX_BYTES = 128 * 1024 * 1024
"""What the library may use; this cost needs 64 MiB and well below a second, once per start."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a join token says. Its representation hides the secret, so it may be logged."""

    secret: bytes = field(repr=False)
    encrypted: bool


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def encode_token(secret: bytes, encrypted: bool = True) -> str:
    """The text after `weavepy join`: lower case, no sign that a shell could take amiss."""
    assert len(secret) == SECRET_BYTES
    return encode_checked(TOKEN_PREFIX, bytes([_ENCRYPTED_FLAG if encrypted else 0]) + secret)


def decode_token(text: str) -> Token:
    """Accept what an operator pasted. Raises `UsageError` that says what is wrong with it."""
    text = "".join(text.split()).lower()
    if not text.startswith(TOKEN_PREFIX):
        if _ANY_TOKEN.match(text):
            raise UsageError(
                "this join token was made by another version of weavepy: "
                "run the same version on all hosts of the mesh"
            )
        raise UsageError(
            f"this is not a join token: it should begin with {TOKEN_PREFIX!r}, as in the "
            "`weavepy join` line that `weavepy launch` prints on a host of the mesh"
        )
    payload = decode_checked(TOKEN_PREFIX, text, 1 + SECRET_BYTES)
    if payload is None:
        raise UsageError(
            "this join token is incomplete or has a typing error: copy the whole line again "
            f"(after {TOKEN_PREFIX!r} it has 64 letters and digits, never 0, 1, 8 or 9)"
        )
    if payload[0] & ~_ENCRYPTED_FLAG:
        raise UsageError(
            "this join token asks for something that this version of weavepy does not know: "
            "upgrade weavepy on this host"
        )
    return Token(payload[1:], encrypted=payload[0] == _ENCRYPTED_FLAG)


def encode_secret(secret: bytes) -> str:
    """What a secret file holds: one line of 64 hex digits."""
    assert len(secret) == SECRET_BYTES
    return secret.hex() + "\n"


def decode_secret(text: str) -> bytes:
    """Read a secret file: 64 hex digits, or the join token of an encrypted mesh."""
    text = text.strip()
    if text.lower().startswith(TOKEN_PREFIX):
        token = decode_token(text)
        if not token.encrypted:
            raise UsageError("this join token is of an insecure mesh: use --insecure instead")
        secret = token.secret
    else:
        secret = _decode_hex(text)
    if secret == INSECURE_SECRET or len(set(secret)) == 1:
        raise UsageError("this secret is no secret: make one with `openssl rand -hex 32`")
    return secret


def secret_from_password(password: str) -> bytes:
    """Stretch a password to a mesh secret with scrypt. Takes a few tenths of a second.

    The salt is a fixed label, because all hosts must derive the same secret from the password
    alone, before they have said a word to each other. So one attacker's table of guesses
    serves against every mesh with a guessable password, and whoever gets a host to dial them
    can test guesses at leisure: the cost per guess is all that protects. A token holds 256
    random bits and has neither weakness; prefer it wherever a token can be copied.
    """
    normal = unicodedata.normalize("NFC", password.strip("\r\n"))
    if not normal:
        raise UsageError("the password is empty: write one into the file, or use a join token")
    return hashlib.scrypt(
        normal.encode("utf-8", "surrogatepass"),
        salt=_PASSWORD_SALT,
        n=_SCRYPT_COST,
        r=_SCRYPT_BLOCK,
        p=_SCRYPT_PARALLEL,
        maxmem=_SCRYPT_MAX_BYTES,
        dklen=SECRET_BYTES,
    )


def encode_checked(prefix: str, payload: bytes) -> str:
    """Prefix, then base32 of payload and checksum: hard to copy wrongly without notice."""
    encoded = base64.b32encode(payload + _checksum(prefix, payload))
    return prefix + encoded.decode().lower().rstrip("=")


def decode_checked(prefix: str, text: str, size: int) -> bytes | None:
    """Undo `encode_checked`; None unless it is exactly what that makes of `size` bytes."""
    letters = text.removeprefix(prefix).upper()
    try:
        data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError):
        return None
    payload = data[:size]
    return payload if encode_checked(prefix, payload) == text else None


def _checksum(prefix: str, payload: bytes) -> bytes:
    return hashlib.sha256(prefix.encode() + payload).digest()[:_CHECKSUM_BYTES]


def _decode_hex(text: str) -> bytes:
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise UsageError(
            f"this is not a mesh secret: expected 64 hex digits (as `openssl rand -hex 32` makes "
            f"them) or a join token that begins with {TOKEN_PREFIX!r}"
        )
    return secret

import hashlib
import hmac

from router.sleeve.keys import NONCE, aead_of, derive_epoch_keys, epoch_id, next_secret

SECRET = bytes(range(32))


def hkdf(key_material: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 for at most one block, written down once more from the RFC."""
    extracted = hmac.digest(salt or bytes(32), key_material, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:length]


def test_the_nonce_has_these_bytes():
    assert NONCE.pack(0x0102030405060708).hex() == "000000000102030405060708"


def test_what_one_end_sends_with_the_other_receives_with():
    send, receive = derive_epoch_keys(SECRET, initiator=True)
    assert derive_epoch_keys(SECRET, initiator=False) == (receive, send)
    assert send != receive


def test_keys_are_hkdf_by_label_and_never_change():
    send, receive = derive_epoch_keys(SECRET, initiator=True)
    assert send == hkdf(SECRET, b"", b"weavepy sleeve v1: records of the initiator")
    assert receive == hkdf(SECRET, b"", b"weavepy sleeve v1: records of the responder")
    assert epoch_id(SECRET) == hkdf(SECRET, b"", b"weavepy sleeve v1: epoch id", 8)
    assert next_secret(SECRET, b"dh", b"said") == hkdf(
        b"dh", SECRET, b"weavepy sleeve v1: next secretsaid"
    )


def test_the_next_secret_depends_on_everything_that_went_into_it():
    secrets = {
        next_secret(SECRET, bytes(32), b"t"),
        next_secret(bytes(32), bytes(32), b"t"),
        next_secret(SECRET, SECRET, b"t"),
        next_secret(SECRET, bytes(32), b"u"),
    }
    assert len(secrets) == 4


def test_a_record_is_sealed_to_these_bytes():
    send, _ = derive_epoch_keys(SECRET, initiator=True)
    header = bytes.fromhex("010000000700000000000000010001")
    sealed = aead_of(send).encrypt(NONCE.pack(1), b"frame", header)
    assert sealed.hex() == "f695cade7708683fc6e8dcdec83756ee2c73fd188c"

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.mesh.noise import CipherState, HandshakeState, NoiseError, SymmetricState

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise.json").read_text())["vectors"]

XXPSK3 = "Noise_XXpsk3_25519_AESGCM_SHA256"

PRIME = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER_POINTS = [
    value.to_bytes(32, "little")
    for value in (0, 1, *ORDER_8, PRIME - 1, PRIME, PRIME + 1, 2**255, 2**255 + 1)
]
"""All of them, by https://cr.yp.to/ecdh.html#validate, and two with the ignored bit set."""


def private_key(data: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(data)


def handshake_state(vector: dict[str, Any], side: str) -> HandshakeState:
    psks = vector.get(f"{side}_psks")
    return HandshakeState(
        vector["protocol_name"],
        initiator=side == "init",
        prologue=bytes.fromhex(vector[f"{side}_prologue"]),
        static=private_key(bytes.fromhex(vector[f"{side}_static"])),
        ephemeral=private_key(bytes.fromhex(vector[f"{side}_ephemeral"])),
        psk=bytes.fromhex(psks[0]) if psks else None,
    )


def new_pair(initiator_psk: bytes, responder_psk: bytes) -> tuple[HandshakeState, HandshakeState]:
    first, second = (
        HandshakeState(
            XXPSK3,
            initiator=initiator,
            prologue=b"prologue",
            static=X25519PrivateKey.generate(),
            psk=psk,
        )
        for initiator, psk in ((True, initiator_psk), (False, responder_psk))
    )
    return first, second


def run(initiator: HandshakeState, responder: HandshakeState) -> None:
    responder.read_message(initiator.write_message(b""))
    initiator.read_message(responder.write_message(b""))
    responder.read_message(initiator.write_message(b""))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["protocol_name"]))
def test_both_roles_reproduce_the_published_vectors(vector: dict[str, Any]) -> None:
    initiator, responder = handshake_state(vector, "init"), handshake_state(vector, "resp")
    messages = [
        (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"]))
        for message in vector["messages"]
    ]
    assert len(messages) == 6

    for number, (payload, ciphertext) in enumerate(messages[:3]):
        sender, receiver = (initiator, responder) if number % 2 == 0 else (responder, initiator)
        assert sender.write_message(payload) == ciphertext
        assert receiver.read_message(ciphertext) == payload
    assert initiator.handshake_hash.hex() == vector["handshake_hash"]
    assert responder.handshake_hash.hex() == vector["handshake_hash"]
    assert initiator.remote_static == public_bytes(vector["resp_static"])
    assert responder.remote_static == public_bytes(vector["init_static"])

    ends = {True: initiator.split(), False: responder.split()}
    for number, (payload, ciphertext) in enumerate(messages[3:], start=3):
        initiator_sends = number % 2 == 0
        assert ends[initiator_sends][0].encrypt(b"", payload) == ciphertext
        assert ends[not initiator_sends][1].decrypt(b"", ciphertext) == payload


def public_bytes(private: str) -> bytes:
    return private_key(bytes.fromhex(private)).public_key().public_bytes_raw()


def test_the_vectors_cover_the_protocol_that_weavepy_speaks() -> None:
    assert XXPSK3 in [vector["protocol_name"] for vector in VECTORS]


def test_a_wrong_psk_shows_at_the_payload_of_message_3_and_not_before() -> None:
    initiator, responder = new_pair(b"a" * 32, b"b" * 32)
    responder.read_message(initiator.write_message(b""))
    initiator.read_message(responder.write_message(b""))
    with pytest.raises(NoiseError) as caught:
        responder.read_message(initiator.write_message(b""))
    assert caught.value.step == "payload"


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_an_ephemeral_key_of_low_order_is_refused(point: bytes) -> None:
    _, responder = new_pair(bytes(32), bytes(32))
    forger = SymmetricState(XXPSK3, "AESGCM", "SHA256")
    for data in (b"prologue", point):
        forger.mix_hash(data)
    forger.mix_key(point)
    responder.read_message(point + forger.encrypt_and_hash(b""))
    with pytest.raises(NoiseError) as caught:
        responder.write_message(b"")
    assert caught.value.step == "ee"


@pytest.mark.parametrize("message_index", [0, 1, 2])
def test_every_shorter_message_is_refused(message_index: int) -> None:
    vector = next(vector for vector in VECTORS if vector["protocol_name"] == XXPSK3)
    messages = [bytes.fromhex(message["ciphertext"]) for message in vector["messages"]]
    for size in range(len(messages[message_index])):
        ends = handshake_state(vector, "init"), handshake_state(vector, "resp")
        for number in range(message_index):
            ends[number % 2].write_message(bytes.fromhex(vector["messages"][number]["payload"]))
            ends[1 - number % 2].read_message(messages[number])
        with pytest.raises(NoiseError):
            ends[1 - message_index % 2].read_message(messages[message_index][:size])


def test_a_message_that_is_not_authentic_does_not_move_the_counter() -> None:
    sender, receiver = CipherState("AESGCM", b"k" * 32), CipherState("AESGCM", b"k" * 32)
    ciphertext = sender.encrypt(b"", b"hello")
    with pytest.raises(NoiseError):
        receiver.decrypt(b"other data", ciphertext)
    assert receiver.nonce == 0
    assert receiver.decrypt(b"", ciphertext) == b"hello"


def test_rekey_is_the_one_of_the_specification() -> None:
    key = bytes(range(32))
    cipher = CipherState("AESGCM", key)
    cipher.encrypt(b"", b"first")
    cipher.rekey()
    new_key = AESGCM(key).encrypt(bytes(4) + b"\xff" * 8, bytes(32), b"")[:32]
    nonce = bytes(11) + b"\x01"
    assert cipher.encrypt(b"data", b"second") == AESGCM(new_key).encrypt(nonce, b"second", b"data")


def test_what_is_exported_is_equal_at_both_ends_and_differs_by_label_and_handshake() -> None:
    pairs = [new_pair(bytes(32), bytes(32)) for _ in range(2)]
    for initiator, responder in pairs:
        run(initiator, responder)
        assert initiator.export(b"one") == responder.export(b"one")
    exported = {end.export(label) for end, _ in pairs for label in (b"one", b"two")}
    assert len(exported) == 4
    assert all(len(secret) == 32 for secret in exported)


def test_what_is_exported_comes_from_the_third_hkdf_output_and_the_keys_from_the_first_two() -> (
    None
):
    state = SymmetricState(XXPSK3, "AESGCM", "SHA256")
    state.mix_key(b"shared")
    chaining_key = HKDF(SHA256(), 32, salt=XXPSK3.encode(), info=b"").derive(b"shared")
    outputs = HKDF(SHA256(), 96, salt=chaining_key, info=b"").derive(b"")
    expected = HKDF(SHA256(), 32, salt=state.hash, info=b"label").derive(outputs[64:])
    assert state.export(b"label") == expected

    first, second = state.split()
    for cipher, key in ((first, outputs[:32]), (second, outputs[32:64])):
        assert cipher.encrypt(b"", b"x") == AESGCM(key).encrypt(bytes(12), b"x", b"")

"""Two ends, and between them whoever wants to do harm.

`converse` carries bytes both ways until nobody has anything more to say, and lets a `mangle`
function alter them. Keys are fixed where bytes are compared and fresh everywhere else.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.handshake import (
    HANDSHAKE_TIMEOUT_S,
    MAX_BUFFERED_BYTES,
    MESSAGE_BYTES,
    PROTOCOL,
    Finished,
    Handshake,
    HandshakeRefused,
    Role,
)
from router.mesh.header import HEADER_BYTES, encode_header
from router.mesh.identity import INTRODUCTION_BYTES, Identity, Introduction, encode_introduction
from router.mesh.noise import HandshakeState, SymmetricState
from router.mesh.refusal import decode_refusal
from router.mesh.secret import INSECURE_SECRET
from tests.router.mesh.test_noise import LOW_ORDER_POINTS
from weavepy.base.names import PeerName, PeerUid, name_of_public_key

SECRET = b"s" * 32
WRONG_SECRET = b"w" * 32

ALICE = Identity(b"a" * 32)
BOB = Identity(b"b" * 32)

Mangle = Callable[[Role, int, bytes], bytes]
"""(who sent it, how many bytes that end had sent before, bytes) to what arrives."""

INITIATOR_BYTES = HEADER_BYTES + MESSAGE_BYTES[1] + MESSAGE_BYTES[3]
RESPONDER_BYTES = HEADER_BYTES + MESSAGE_BYTES[2] + MESSAGE_BYTES[4]


def introduction_of(identity: Identity, nickname: str = "host") -> Introduction:
    return Introduction(
        name=identity.name,
        uid=PeerUid(1),
        nickname=nickname,
        listen_port=6783,
        udp_port=6783,
        version="0.1.0",
    )


def end(
    role: Role,
    secret: bytes = SECRET,
    encrypted: bool = True,
    identity: Identity | None = None,
    ephemeral: bytes | None = None,
) -> Handshake:
    identity = identity or (ALICE if role is Role.INITIATOR else BOB)
    introduction = introduction_of(identity, role.value)
    return Handshake(role, identity, secret, encrypted, introduction, 100.0, ephemeral)


def initiator(secret: bytes = SECRET, encrypted: bool = True) -> Handshake:
    return end(Role.INITIATOR, secret, encrypted)


def responder(secret: bytes = SECRET, encrypted: bool = True) -> Handshake:
    return end(Role.RESPONDER, secret, encrypted)


@dataclass
class Outcome:
    finished: dict[Role, Finished] = field(default_factory=dict)
    refused: dict[Role, HandshakeRefused] = field(default_factory=dict)
    sent: dict[Role, bytes] = field(default_factory=lambda: dict.fromkeys(Role, b""))

    @property
    def reasons(self) -> tuple[str | None, str | None]:
        """Of the initiator and of the responder."""
        first, second = (self.refused.get(role) for role in Role)
        return first.reason if first else None, second.reason if second else None


def converse(first: Handshake, second: Handshake, mangle: Mangle | None = None) -> Outcome:
    outcome = Outcome()
    ends = {Role.INITIATOR: first, Role.RESPONDER: second}
    pending = {Role.INITIATOR: first.start(), Role.RESPONDER: second.start()}
    while any(pending.values()):
        sender = next(role for role in Role if pending[role])
        receiver = Role.RESPONDER if sender is Role.INITIATOR else Role.INITIATOR
        data, pending[sender] = pending[sender], b""
        arriving = mangle(sender, len(outcome.sent[sender]), data) if mangle else data
        outcome.sent[sender] += data
        if receiver in outcome.refused or receiver in outcome.finished:
            continue
        try:
            progress = ends[receiver].feed(arriving)
        except HandshakeRefused as refused:
            outcome.refused[receiver] = refused
            pending[receiver] += refused.to_send
            continue
        pending[receiver] += progress.to_send
        if progress.finished is not None:
            outcome.finished[receiver] = progress.finished
    if outcome.refused:
        # Who refuses closes the connection, which is all that a silent refusal tells.
        for role in Role:
            if role not in outcome.finished:
                outcome.refused.setdefault(role, ends[role].closed())
    return outcome


def flip(who: Role, position: int, mask: int) -> Mangle:
    """Alter one byte of the stream of bytes that `who` sends."""

    def mangle(sender: Role, offset: int, data: bytes) -> bytes:
        if sender is not who or not offset <= position < offset + len(data):
            return data
        altered = bytearray(data)
        altered[position - offset] ^= mask
        return bytes(altered)

    return mangle


# --- when all is well ------------------------------------------------------------------------


def test_both_ends_finish_and_know_each_other() -> None:
    outcome = converse(initiator(), responder())
    assert outcome.reasons == (None, None)
    at_alice, at_bob = (outcome.finished[role] for role in Role)
    assert at_alice.introduction == introduction_of(BOB, "responder")
    assert at_bob.introduction == introduction_of(ALICE, "initiator")
    assert (at_alice.remote_name, at_alice.remote_public) == (BOB.name, BOB.public_bytes)
    assert (at_bob.remote_name, at_bob.remote_public) == (ALICE.name, ALICE.public_bytes)
    assert at_alice.leftover == at_bob.leftover == b""


def test_the_streams_of_both_ends_fit() -> None:
    outcome = converse(initiator(), responder())
    at_alice, at_bob = (outcome.finished[role].stream for role in Role)
    assert at_bob.feed(at_alice.seal(b"to bob")) == [b"to bob"]
    assert at_alice.feed(at_bob.seal(b"to alice")) == [b"to alice"]


def test_the_overlay_secret_is_shared_and_new_each_time() -> None:
    outcomes = [converse(initiator(), responder()) for _ in range(3)]
    secrets = [
        tuple(outcome.finished[role].overlay_secret for role in Role) for outcome in outcomes
    ]
    assert all(first == second and len(first) == 32 for first, second in secrets)
    assert len(set(secrets)) == 3


def test_the_bytes_on_the_wire_stay_as_they_are() -> None:
    first = end(Role.INITIATOR, ephemeral=b"e" * 32)
    second = end(Role.RESPONDER, ephemeral=b"f" * 32)
    outcome = converse(first, second)
    assert len(outcome.sent[Role.INITIATOR]) == INITIATOR_BYTES == 16 + 49 + 321
    assert len(outcome.sent[Role.RESPONDER]) == RESPONDER_BYTES == 16 + 97 + 273
    digests = [hashlib.sha256(outcome.sent[role]).hexdigest()[:32] for role in Role]
    secret = outcome.finished[Role.INITIATOR].overlay_secret.hex()
    assert [*digests, secret] == [
        "5d380c3ee68ccba9fbb3d95ba55d1619",
        "7daf6762bd5f0592fedae7052364bd01",
        "e110c7d0c10f261ef19f9d31642c83967f781f925ac94c3b2415d29b401c163c",
    ]


def test_every_message_has_one_size_whatever_is_in_it() -> None:
    sizes = set()
    for nickname in ("", "x" * 63):
        first = Handshake(
            Role.INITIATOR, ALICE, SECRET, True, introduction_of(ALICE, nickname), 0.0
        )
        sizes.add(len(converse(first, responder()).sent[Role.INITIATOR]))
    assert sizes == {INITIATOR_BYTES}


def test_what_comes_after_the_last_message_is_handed_over() -> None:
    outcome = converse(initiator(), responder(), append_to_message_4(b"beginning of the stream"))
    assert outcome.finished[Role.INITIATOR].leftover == b"beginning of the stream"


def append_to_message_4(extra: bytes) -> Mangle:
    def mangle(sender: Role, offset: int, data: bytes) -> bytes:
        last = sender is Role.RESPONDER and offset + len(data) == RESPONDER_BYTES
        return data + extra if last else data

    return mangle


@given(st.lists(st.integers(min_value=0, max_value=400), max_size=12))
def test_any_split_of_the_bytes_finishes_alike(cuts: list[int]) -> None:
    ends = {
        Role.INITIATOR: end(Role.INITIATOR, ephemeral=b"e" * 32),
        Role.RESPONDER: end(Role.RESPONDER, ephemeral=b"f" * 32),
    }
    whole = converse(
        end(Role.INITIATOR, ephemeral=b"e" * 32), end(Role.RESPONDER, ephemeral=b"f" * 32)
    )
    said = ends[Role.INITIATOR].start()
    speaker, listener = Role.INITIATOR, Role.RESPONDER
    finished: dict[Role, Finished] = {}
    while said:
        answer = b""
        for portion in split(said, cuts):
            progress = ends[listener].feed(portion)
            answer += progress.to_send
            if progress.finished is not None:
                finished[listener] = progress.finished
        said, speaker, listener = answer, listener, speaker
    for role in Role:
        assert finished[role].overlay_secret == whole.finished[role].overlay_secret
        assert finished[role].introduction == whole.finished[role].introduction


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges) if start < stop]


def test_two_insecure_ends_finish() -> None:
    outcome = converse(initiator(INSECURE_SECRET, False), responder(INSECURE_SECRET, False))
    assert set(outcome.finished) == set(Role)


def test_neither_name_nor_nickname_travels_in_clear() -> None:
    sent = converse(initiator(), responder()).sent
    for data in sent.values():
        for identity in (ALICE, BOB):
            assert identity.public_bytes not in data
            assert identity.name.encode() not in data


# --- bytes altered on the way ----------------------------------------------------------------


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("who", Role)
def test_every_flipped_byte_is_refused(who: Role, mask: int) -> None:
    size = INITIATOR_BYTES if who is Role.INITIATOR else RESPONDER_BYTES
    for position in range(size):
        outcome = converse(initiator(), responder(), flip(who, position, mask))
        assert Role.INITIATOR not in outcome.finished, position
        assert Role.INITIATOR in outcome.refused, position
        if who is Role.INITIATOR or position < RESPONDER_BYTES - MESSAGE_BYTES[4]:
            # When message 4 travels, the responder has had all the proof that it will get.
            assert Role.RESPONDER not in outcome.finished, position
            assert Role.RESPONDER in outcome.refused, position


@pytest.mark.parametrize("bit", range(HEADER_BYTES * 8))
@pytest.mark.parametrize("who", Role)
def test_every_flipped_bit_of_a_clear_header_is_refused(who: Role, bit: int) -> None:
    outcome = converse(initiator(), responder(), flip(who, bit // 8, 1 << bit % 8))
    assert outcome.finished == {}


@pytest.mark.parametrize(
    ("who", "position", "reasons"),
    [
        (Role.INITIATOR, 0, ("closed", "not-weavepy")),
        (Role.INITIATOR, 15, ("told-tampered", "tampered")),
        (Role.INITIATOR, 16, ("told-garbage", "garbage")),
        (Role.INITIATOR, 17, ("told-tampered", "tampered")),
        (Role.INITIATOR, 16 + 49 + 1, ("told-tampered", "tampered")),
        (Role.INITIATOR, 16 + 49 + 320, ("told-wrong-secret", "wrong-secret")),
        (Role.RESPONDER, 0, ("not-weavepy", "closed")),
        (Role.RESPONDER, 15, ("told-tampered", "tampered")),
        (Role.RESPONDER, 16 + 1, ("tampered", "told-tampered")),
        (Role.RESPONDER, 16 + 96, ("tampered", "told-tampered")),
        (Role.RESPONDER, 16 + 97 + 1, ("tampered", None)),
    ],
)
def test_both_operators_learn_what_was_altered(
    who: Role, position: int, reasons: tuple[str | None, str | None]
) -> None:
    outcome = converse(initiator(), responder(), flip(who, position, 0x80))
    assert outcome.reasons == reasons


def test_an_end_never_says_which_secret_it_has_before_the_other_proved_it() -> None:
    """All that a responder says before message 3 is the same whatever its secret is."""
    said = []
    for secret in (SECRET, WRONG_SECRET):
        probed = end(Role.RESPONDER, secret, ephemeral=b"f" * 32)
        prober = end(Role.INITIATOR, SECRET, ephemeral=b"e" * 32)
        header = probed.feed(prober.start()).to_send
        said.append(header + probed.feed(prober.feed(header).to_send).to_send)
    assert said[0] == said[1]


# --- secrets, meshes, versions ---------------------------------------------------------------


def test_with_a_wrong_secret_both_operators_learn_why() -> None:
    outcome = converse(initiator(WRONG_SECRET), responder())
    assert outcome.finished == {}
    assert outcome.reasons == ("told-wrong-secret", "wrong-secret")
    texts = [str(outcome.refused[role]) for role in Role]
    assert texts[0].startswith("the other side says: our secret is not that of its mesh")
    assert texts[1].startswith("the other side does not have the secret of our mesh")


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_encrypted_and_an_insecure_end_refuse_each_other_plainly(encrypted: bool) -> None:
    outcome = converse(initiator(SECRET, encrypted), responder(INSECURE_SECRET, not encrypted))
    assert outcome.reasons == ("encryption-mismatch", "encryption-mismatch")
    assert "--insecure" in str(outcome.refused[Role.INITIATOR])


def test_a_peer_of_another_version_is_told_so() -> None:
    def in_future(sender: Role, offset: int, data: bytes) -> bytes:
        if sender is Role.RESPONDER or offset:
            return data
        return data[:8] + b"\x02\x03" + data[10:]

    outcome = converse(initiator(), responder(), in_future)
    assert outcome.reasons == ("told-bad-version", "bad-version")
    assert "versions 2 to 3" in str(outcome.refused[Role.RESPONDER])


def test_a_newer_peer_that_still_speaks_our_version_gets_past_the_headers() -> None:
    probed = responder()
    header = bytearray(encode_header(Role.INITIATOR, True))
    header[9] = 7
    assert probed.feed(bytes(header)).to_send == encode_header(Role.RESPONDER, True)


def test_a_downgrade_of_both_headers_breaks_the_tags() -> None:
    """Each end sees a header that suits it, and both are one mesh; only the prologue differs."""

    def mangle(sender: Role, offset: int, data: bytes) -> bytes:
        if offset:
            return data
        return encode_header(sender, encrypted=sender is Role.RESPONDER)

    outcome = converse(initiator(SECRET, True), responder(SECRET, False), mangle)
    assert outcome.finished == {}
    assert outcome.reasons == ("told-tampered", "tampered")


def test_a_downgrade_whose_message_1_is_forged_to_fit_fails_at_message_2() -> None:
    """The tag of message 1 needs no secret: an attacker can make it anew for another header."""
    altered = bytearray(encode_header(Role.INITIATOR, True))
    altered[9] = 9

    def mangle(sender: Role, offset: int, data: bytes) -> bytes:
        if sender is Role.INITIATOR and offset == 0:
            return bytes(altered)
        if sender is Role.INITIATOR and offset == HEADER_BYTES:
            return forged_message_1(bytes(altered), data[1:33])
        return data

    outcome = converse(initiator(), responder(), mangle)
    assert outcome.finished == {}
    assert outcome.reasons == ("tampered", "told-tampered")


def forged_message_1(header: bytes, ephemeral: bytes) -> bytes:
    state = SymmetricState(PROTOCOL, "AESGCM", "SHA256")
    state.mix_hash(header + encode_header(Role.RESPONDER, True))
    state.mix_hash(ephemeral)
    state.mix_key(ephemeral)
    return b"\x01" + ephemeral + state.encrypt_and_hash(b"")


# --- strangers -------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"w\n", bytes(10**6)])
def test_one_who_does_not_speak_weavepy_is_refused_at_once_and_told_nothing(data: bytes) -> None:
    for stranger_to in (initiator(), responder()):
        stranger_to.start()
        with pytest.raises(HandshakeRefused) as caught:
            stranger_to.feed(data)
        assert caught.value.reason == "not-weavepy"
        assert caught.value.to_send == b""


def test_a_responder_says_nothing_before_it_was_spoken_to() -> None:
    assert responder().start() == b""


def test_one_who_sends_too_much_is_refused_at_once() -> None:
    for flood in (b"x", b"x" * 10**6):
        with pytest.raises(HandshakeRefused) as caught:
            responder().feed(encode_header(Role.INITIATOR, True) + flood)
        assert caught.value.reason == "too-much-data"
        sent = caught.value.to_send
        assert sent[:HEADER_BYTES] == encode_header(Role.RESPONDER, True)
        assert decode_refusal(sent[HEADER_BYTES:]).reason == "told-too-much-data"


def test_one_who_goes_on_before_message_4_is_refused() -> None:
    def impatient(sender: Role, offset: int, data: bytes) -> bytes:
        last = sender is Role.INITIATOR and offset + len(data) == INITIATOR_BYTES
        return data + b"x" if last else data

    outcome = converse(initiator(), responder(), impatient)
    assert outcome.reasons == ("told-too-much-data", "too-much-data")
    assert outcome.finished == {}


def test_an_end_never_holds_more_than_one_message() -> None:
    probed = responder()
    probed.feed(encode_header(Role.INITIATOR, True))
    probed.feed(b"\x01" + bytes(MESSAGE_BYTES[1] - 2))
    assert probed.buffered_bytes == MESSAGE_BYTES[1] - 1
    assert max(MESSAGE_BYTES.values()) <= MAX_BUFFERED_BYTES


def test_one_who_is_too_slow_is_refused_with_what_was_waited_for() -> None:
    slow = initiator()
    slow.start()
    assert slow.deadline == 100.0 + HANDSHAKE_TIMEOUT_S == 105.0
    refused = slow.too_slow()
    assert refused.reason == "too-slow"
    assert str(refused) == "got no header within 5 s"
    assert decode_refusal(refused.to_send).reason == "told-too-slow"
    assert responder().too_slow().to_send == b""


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 48])
def test_one_who_is_cut_off_is_reported_with_what_was_missing(size: int) -> None:
    probed = responder()
    recorded = converse(initiator(), responder()).sent[Role.INITIATOR]
    for portion in (recorded[:HEADER_BYTES][:size], recorded[HEADER_BYTES:size]):
        assert probed.feed(portion).finished is None
    refused = probed.closed()
    assert refused.reason == "closed"
    assert ("header" if size < HEADER_BYTES else "message 1 of 4") in str(refused)
    assert refused.to_send == b""


def test_after_the_first_refusal_every_further_byte_is_refused_too() -> None:
    probed = responder()
    with pytest.raises(HandshakeRefused):
        probed.feed(b"?")
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(encode_header(Role.INITIATOR, True))
    assert caught.value.reason == "not-weavepy"
    assert caught.value.to_send == b""


def test_a_refusal_is_hearsay_in_our_own_words() -> None:
    for code in range(256):
        probed = initiator()
        probed.start()
        probed.feed(encode_header(Role.RESPONDER, True))
        with pytest.raises(HandshakeRefused) as caught:
            probed.feed(bytes([0, code]) + b"and whatever else")
        assert caught.value.reason.startswith("told-")
        assert str(caught.value).startswith("the other side ")
        assert caught.value.to_send == b""


# --- replay, reflection, ourself -------------------------------------------------------------


def test_a_recorded_initiator_gets_nowhere() -> None:
    recorded = converse(initiator(), responder()).sent[Role.INITIATOR]
    probed = responder()
    probed.feed(recorded[:16])
    probed.feed(recorded[16 : 16 + 49])
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(recorded[16 + 49 :])
    assert caught.value.reason == "tampered"


def test_a_recorded_responder_gets_nowhere() -> None:
    recorded = converse(initiator(), responder()).sent[Role.RESPONDER]
    probed = initiator()
    probed.start()
    probed.feed(recorded[:16])
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(recorded[16 : 16 + 97])
    assert caught.value.reason == "tampered"


def test_our_own_bytes_sent_back_are_refused() -> None:
    probed = initiator()
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(probed.start())
    assert caught.value.reason == "reflected"

    probed = responder()
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(encode_header(Role.RESPONDER, True))
    assert caught.value.reason == "reflected"


def test_a_connection_to_ourself_is_recognised_by_the_end_that_dialled() -> None:
    outcome = converse(initiator(), end(Role.RESPONDER, identity=ALICE))
    assert outcome.reasons == ("ourself", "told-ourself")
    assert outcome.finished == {}


def test_a_responder_recognises_itself_too() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        hostile_initiator(responder(), BOB.private_key, introduction_of(BOB))
    assert caught.value.reason == "ourself"


# --- one who has the secret and lies ---------------------------------------------------------


class LowOrderKey:
    """Stands in for a private key: a "public key" that nobody needs a private key for."""

    def __init__(self, point: bytes) -> None:
        self._point = point

    def public_key(self) -> "LowOrderKey":
        return self

    def public_bytes_raw(self) -> bytes:
        return self._point

    def exchange(self, _: object) -> bytes:
        return bytes(32)


def hostile_initiator(
    probed: Handshake, static: X25519PrivateKey | LowOrderKey, introduction: Introduction | bytes
) -> bytes:
    """Speak to `probed` with the right secret, and with anything as key and introduction."""
    if isinstance(introduction, Introduction):
        introduction = encode_introduction(introduction)
    header = encode_header(Role.INITIATOR, True)
    noise = HandshakeState(
        PROTOCOL,
        initiator=True,
        prologue=header + probed.feed(header).to_send,
        static=static,  # type: ignore[arg-type]  # the stand-in has what is used of a key
        psk=SECRET,
    )
    noise.read_message(probed.feed(b"\x01" + noise.write_message(b"")).to_send[1:])
    return probed.feed(b"\x03" + noise.write_message(introduction)).to_send


def test_the_hostile_initiator_of_these_tests_is_let_in_when_it_does_not_lie() -> None:
    assert hostile_initiator(responder(), ALICE.private_key, introduction_of(ALICE))[0] == 4


def test_a_name_that_is_not_of_the_proved_key_is_refused() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        hostile_initiator(responder(), ALICE.private_key, introduction_of(BOB))
    assert caught.value.reason == "name-mismatch"
    assert ALICE.name in str(caught.value)


def test_a_lying_responder_is_refused_too() -> None:
    liar = responder()
    liar._introduction = encode_introduction(introduction_of(ALICE))
    outcome = converse(initiator(), liar)
    assert outcome.reasons[0] == "name-mismatch"


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_an_ephemeral_key_of_low_order_is_refused(point: bytes) -> None:
    probed = responder()
    header = encode_header(Role.INITIATOR, True)
    probed.feed(header)
    with pytest.raises(HandshakeRefused) as caught:
        probed.feed(forged_message_1(header, point))
    assert caught.value.reason == "bad-key"


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_nobody_claims_the_name_of_a_static_key_of_low_order(point: bytes) -> None:
    claimed = msgspec.structs.replace(introduction_of(ALICE), name=name_of_public_key(point))
    with pytest.raises(HandshakeRefused) as caught:
        hostile_initiator(responder(), LowOrderKey(point), claimed)
    assert caught.value.reason == "bad-key"


@pytest.mark.parametrize(
    "introduction",
    [
        bytes(INTRODUCTION_BYTES),
        b"\xff" * INTRODUCTION_BYTES,
        encode_introduction(introduction_of(ALICE))[:-1] + b"\x01",
    ],
)
def test_a_malformed_introduction_is_refused(introduction: bytes) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        hostile_initiator(responder(), ALICE.private_key, introduction)
    assert caught.value.reason == "bad-introduction"


def test_a_name_in_another_spelling_is_another_name() -> None:
    shouted = msgspec.structs.replace(
        introduction_of(ALICE), name=PeerName(ALICE.name.upper().replace(":", "-"))
    )
    with pytest.raises(HandshakeRefused) as caught:
        hostile_initiator(responder(), ALICE.private_key, shouted)
    assert caught.value.reason == "name-mismatch"


# --- anything at all -------------------------------------------------------------------------


@given(
    role=st.sampled_from(Role),
    beginning=st.sampled_from(
        [
            b"",
            b"weavepy\n",
            encode_header(Role.INITIATOR, True),
            encode_header(Role.RESPONDER, True),
        ]
    ),
    portions=st.lists(st.binary(max_size=400), max_size=6),
)
def test_any_bytes_are_refused_or_waited_on_and_never_finish(
    role: Role, beginning: bytes, portions: list[bytes]
) -> None:
    probed = end(role)
    probed.start()
    refused = False
    for portion in (beginning, *portions):
        try:
            assert probed.feed(portion).finished is None
            assert not refused
        except HandshakeRefused:
            refused = True
        assert probed.buffered_bytes <= MAX_BUFFERED_BYTES


@given(
    who=st.sampled_from(Role),
    keep=st.integers(min_value=0, max_value=INITIATOR_BYTES - 1),
    junk=st.binary(min_size=1, max_size=600),
)
def test_a_good_beginning_does_not_help_bytes_that_follow(
    who: Role, keep: int, junk: bytes
) -> None:
    """The first `keep` bytes of one end arrive as they were sent and junk in place of the rest."""

    def mangle(sender: Role, offset: int, data: bytes) -> bytes:
        if sender is not who or offset + len(data) <= keep:
            return data
        return data[: max(0, keep - offset)] + junk

    outcome = converse(initiator(), responder(), mangle)
    if outcome.finished and (who is Role.INITIATOR or Role.INITIATOR in outcome.finished):
        assert junk.startswith(outcome.sent[who][keep:])

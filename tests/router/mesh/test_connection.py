"""One connection by itself: framing, liveness, back-pressure, and which of two is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.connection import (
    DEAD_S,
    DIAL_TIMEOUT_S,
    HEARTBEAT_S,
    MAX_HELD_MESSAGES,
    Connection,
    Phase,
    TimedOut,
)
from router.mesh.effects import LinkId
from router.mesh.handshake import Handshake, HandshakeRefused, Introduction, Role
from router.mesh.identity import Identity
from router.mesh.messages import (
    MAX_FRAME_PAYLOAD_BYTES,
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    Assembler,
    ControlMessage,
    GossipDigest,
    GossipUpdate,
    Heartbeat,
    Hello,
    OverlayMessage,
    UnicastMessage,
    encode_parts,
)
from router.mesh.neighbours import ALIVE_S, Neighbour, Verdict, judge
from tests.router.mesh.harness import SECRET, SetChannel
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName, PeerUid
from weavepy.base.wire import encode

CHANNELS = {"words": SetChannel()}


def handshake(role: Role, key: bytes, now: float) -> Handshake:
    identity = Identity(key)
    introduction = Introduction(
        name=identity.name, uid=PeerUid(1), nickname="n", listen_port=1, udp_port=2, version="1"
    )
    return Handshake(role, identity, SECRET, True, introduction, now)


def pair(now: float = 0.0) -> tuple[Connection, Connection]:
    """Two ends that are up."""
    caller = Connection(LinkId(1), outbound=True, host="called", port=1, now=now)
    called = Connection(LinkId(2), outbound=False, host="caller", port=2, now=now)
    called.start_handshake(handshake(Role.RESPONDER, b"b" * 32, now), now)
    data = caller.start_handshake(handshake(Role.INITIATOR, b"a" * 32, now), now)
    giver, taker = caller, called
    while data:
        data = taker.feed(data, now).to_send
        giver, taker = taker, giver
    assert caller.phase is called.phase is Phase.UP
    return caller, called


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(),
        Hello("10.0.0.1", ""),
        GossipUpdate("words", b"word"),
        GossipDigest("words", b"digest", True),
        UnicastMessage("words", "00:00:00:00:00:01", "00:00:00:00:00:02", 3, b"payload"),
        OverlayMessage(b"offer"),
    ],
)
def test_each_message_arrives_as_it_was_sent(message: ControlMessage) -> None:
    caller, called = pair()
    assert called.feed(caller.send(message, CHANNELS, 0.0), 0.0).messages == (message,)


@pytest.mark.parametrize("size", [0, 1, MAX_FRAME_PAYLOAD_BYTES, 3_000_000])
def test_messages_of_any_size_travel_in_bounded_frames(size: int) -> None:
    message = GossipUpdate("words", bytes(size))
    parts = list(encode_parts(message))
    assert max(map(len, parts)) <= MAX_FRAME_PAYLOAD_BYTES
    assembler = Assembler()
    assert [assembler.feed(part) for part in parts] == [None] * (len(parts) - 1) + [message]


def test_parts_without_end_are_refused() -> None:
    assembler = Assembler()
    with pytest.raises(ProtocolError, match="exceeds"):
        for _ in range(MAX_MESSAGE_BYTES // 100_000 + 1):
            assembler.feed(b"\x01" + bytes(100_000))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        message = Assembler().feed(data)
    except ProtocolError:
        return
    assert message is None or isinstance(message, ControlMessage)


@given(
    st.sampled_from(["alive", "hello", "update", "digest", "unicast", "overlay"]),
    st.lists(
        st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.booleans()), max_size=6
    ),
)
def test_any_fields_are_a_message_or_a_protocol_error(tag: str, fields: list[object]) -> None:
    try:
        data = encode([tag, *fields])
    except OverflowError:
        return
    try:
        message = Assembler().feed(b"\x00" + data)
    except ProtocolError:
        return
    assert isinstance(message, ControlMessage)


@pytest.mark.parametrize(
    "fields",
    [
        ["unicast", "words", "x", "00:00:00:00:00:02", 1, b""],
        ["unicast", "words", "00:00:00:00:00:02\n", "00:00:00:00:00:02", 1, b""],
        ["unicast", "words", "00:00:00:00:00:01", "00:00:00:00:00:02", MAX_HOPS + 1, b""],
        ["digest", "words", bytes(9000), True],
        ["update", "", b""],
        ["news", 1],
    ],
)
def test_fields_out_of_bounds_are_refused(fields: list[object]) -> None:
    with pytest.raises(ProtocolError):
        Assembler().feed(b"\x00" + encode(fields))


def test_fields_from_a_newer_version_are_ignored() -> None:
    assert Assembler().feed(b"\x00" + encode(["overlay", b"offer", "new"])) == OverlayMessage(
        b"offer"
    )


# --- time --------------------------------------------------------------------------------------


def test_silence_is_filled_with_heartbeats_and_ends_the_connection_after_a_while() -> None:
    caller, called = pair()
    assert caller.next_deadline().at == HEARTBEAT_S
    heartbeat = caller.handle_timeout(HEARTBEAT_S)
    assert called.feed(heartbeat, 1.0).messages == (Heartbeat(),)
    caller.handle_timeout(DEAD_S - 0.01)
    with pytest.raises(TimedOut, match="nothing heard for 4 s"):
        caller.handle_timeout(DEAD_S)
    called.handle_timeout(DEAD_S)


def test_any_byte_is_a_sign_of_life() -> None:
    caller, called = pair()
    data = called.send(OverlayMessage(b"x" * 100), CHANNELS, 0.0)
    for index in range(20):
        assert caller.feed(data[index : index + 1], float(index)).messages == ()
        caller.handle_timeout(float(index))
    assert caller.next_deadline().at <= 20.0


def test_what_was_said_saves_a_heartbeat() -> None:
    caller, _ = pair()
    caller.send(OverlayMessage(b""), CHANNELS, 0.9)
    assert caller.handle_timeout(HEARTBEAT_S) == b""
    assert caller.next_deadline().at == 1.9


def test_a_dial_and_a_handshake_have_their_time() -> None:
    connection = Connection(LinkId(1), outbound=True, host="h", port=1, now=0.0)
    assert connection.next_deadline().at == DIAL_TIMEOUT_S
    with pytest.raises(TimedOut):
        connection.handle_timeout(DIAL_TIMEOUT_S)
    connection.start_handshake(handshake(Role.INITIATOR, b"a" * 32, 1.0), 1.0)
    assert connection.next_deadline().at == 6.0
    connection.handle_timeout(5.9)
    with pytest.raises(HandshakeRefused):
        connection.handle_timeout(6.0)


# --- back-pressure -----------------------------------------------------------------------------


def test_a_paused_link_combines_updates_renews_digests_and_leaves_heartbeats_out() -> None:
    caller, called = pair()
    caller.paused = True
    words = CHANNELS["words"]
    messages: list[ControlMessage] = [
        OverlayMessage(b"offer"),
        GossipUpdate("words", b"a"),
        GossipDigest("words", b"old", True),
        Heartbeat(),
        GossipUpdate("words", b"b"),
        GossipDigest("words", b"older", False),
    ]
    assert all(caller.send(message, CHANNELS, 1.0) == b"" for message in messages)
    assert caller.handle_timeout(2.0) == b""
    assert caller.next_deadline().reason.startswith("silence")

    data = caller.resume(CHANNELS, 2.0)

    assert called.feed(data, 2.0).messages == (
        OverlayMessage(b"offer"),
        GossipUpdate("words", b"a,b"),
        GossipDigest("words", words.digest(), True),
    )
    assert caller.resume(CHANNELS, 2.0) == b""


def test_what_cannot_be_combined_is_bounded_and_the_oldest_gives_way() -> None:
    caller, called = pair()
    caller.paused = True
    for number in range(MAX_HELD_MESSAGES + 10):
        caller.send(OverlayMessage(b"%d" % number), CHANNELS, 0.0)
    messages = called.feed(caller.resume(CHANNELS, 0.0), 0.0).messages
    assert len(messages) == MAX_HELD_MESSAGES
    assert messages[0] == OverlayMessage(b"10")
    assert caller.dropped_messages == 10


# --- two connections ---------------------------------------------------------------------------

LOW, HIGH = PeerName("00:00:00:00:00:01"), PeerName("00:00:00:00:00:02")


def verdict(
    ourself: PeerName,
    *,
    had_dialled: bool,
    dials: bool,
    silence_s: float = 0.0,
    uid: int = 1,
    secrets: tuple[bytes, bytes] = (b"1", b"2"),
) -> Verdict:
    peer = HIGH if ourself == LOW else LOW
    neighbour = Neighbour(
        peer, PeerUid(1), "n", "a:1", outbound=had_dialled, link=LinkId(1), secret=secrets[0]
    )
    return judge(
        neighbour,
        ourself=ourself,
        name=peer,
        uid=PeerUid(uid),
        outbound=dials,
        secret=secrets[1],
        silence_s=silence_s,
    )


@pytest.mark.parametrize("low_dialled_first", [True, False])
def test_of_two_connections_both_ends_keep_the_one_that_the_lower_name_dialled(
    low_dialled_first: bool,
) -> None:
    expected = Verdict.DUPLICATE if low_dialled_first else Verdict.REPLACE
    assert verdict(LOW, had_dialled=low_dialled_first, dials=not low_dialled_first) is expected
    assert verdict(HIGH, had_dialled=not low_dialled_first, dials=low_dialled_first) is expected


def test_of_two_in_one_direction_both_ends_keep_the_same_whichever_they_saw_first() -> None:
    for secrets, expected in (((b"1", b"2"), Verdict.DUPLICATE), ((b"2", b"1"), Verdict.REPLACE)):
        for dialled in (True, False):
            assert verdict(LOW, had_dialled=dialled, dials=dialled, secrets=secrets) is expected


def test_a_silent_connection_gives_way() -> None:
    for uid in (1, 2):
        assert (
            verdict(LOW, had_dialled=True, dials=False, silence_s=ALIVE_S, uid=uid)
            is Verdict.REPLACE
        )


def test_another_run_of_a_peer_that_is_alive_is_a_clone() -> None:
    assert verdict(LOW, had_dialled=True, dials=False, uid=2) is Verdict.CLONE


def test_the_link_with_an_orphan_is_simply_taken() -> None:
    orphan = Neighbour(HIGH, PeerUid(1), "n", "a:1", established=True)
    assert orphan.orphaned
    assert (
        judge(
            orphan,
            ourself=LOW,
            name=HIGH,
            uid=PeerUid(2),
            outbound=False,
            secret=b"",
            silence_s=0.0,
        )
        is Verdict.KEEP
    )

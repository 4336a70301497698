"""Two negotiators and what they tell each other; their datapaths are lists of messages."""

from random import Random

import pytest

from router.sleeve.messages import (
    InstallEpoch,
    RemoveSession,
    SessionDown,
    SessionUp,
)
from router.sleeve.negotiation import (
    REOPEN_S,
    NegotiationEffect,
    Negotiator,
    OverlayDown,
    OverlayUp,
    TellDatapath,
    TellPeer,
)
from tests.router.sleeve.reports import session, snapshot
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName

ANN, BOB = PeerName("00:00:00:00:00:0a"), PeerName("00:00:00:00:00:0b")
SECRET = bytes(range(32))


class Pair:
    """Ann dials Bob. Messages between them are delivered at once."""

    def __init__(self) -> None:
        self.ends = {ANN: Negotiator((), Random(1)), BOB: Negotiator((), Random(2))}
        self.installed: dict[PeerName, list[InstallEpoch]] = {ANN: [], BOB: []}
        self.removed: dict[PeerName, list[str]] = {ANN: [], BOB: []}
        self.reported: list[tuple[PeerName, NegotiationEffect]] = []

    def connect(self, now: float = 0.0, secret: bytes = SECRET) -> None:
        bob, ann = self.ends[BOB], self.ends[ANN]
        self.carry(BOB, bob.handle_connected(ANN, "10.0.0.1", 6783, secret, False, now), now)
        self.carry(ANN, ann.handle_connected(BOB, "10.0.0.2", 6783, secret, True, now), now)

    def carry(self, at: PeerName, effects: list[NegotiationEffect], now: float = 0.0) -> None:
        for effect in effects:
            match effect:
                case TellPeer(peer=peer, payload=payload):
                    self.carry(peer, self.ends[peer].handle_message(at, payload, now), now)
                case TellDatapath(message=InstallEpoch() as message):
                    self.installed[at].append(message)
                case TellDatapath(message=RemoveSession(peer=removed)):
                    self.removed[at].append(removed)
                case _:
                    self.reported.append((at, effect))


def test_both_ends_install_one_secret_with_mirrored_indexes_and_roles() -> None:
    pair = Pair()
    pair.connect()
    (ann,), (bob,) = pair.installed[ANN], pair.installed[BOB]
    assert ann.epoch.secret == bob.epoch.secret != SECRET
    assert ann.epoch.local_index == bob.epoch.remote_index
    assert ann.epoch.remote_index == bob.epoch.local_index
    assert (ann.epoch.initiator, bob.epoch.initiator) == (True, False)
    assert (ann.endpoint_host, ann.endpoint_port) == ("10.0.0.2", 6783)


def test_a_second_exchange_over_the_same_secret_gives_other_keys() -> None:
    pair = Pair()
    pair.connect()
    pair.connect()
    first, second = pair.installed[ANN]
    assert first.epoch.secret != second.epoch.secret


def test_a_datapath_that_lost_its_sessions_gets_new_ones_whoever_dialled() -> None:
    pair = Pair()
    pair.connect()
    pair.carry(BOB, pair.ends[BOB].handle_datapath(snapshot(), 1.0), 1.0)
    assert len(pair.installed[ANN]) == len(pair.installed[BOB]) == 2
    assert pair.installed[BOB][1].epoch.initiator


def test_a_session_outlives_the_control_connection_until_it_goes_down_itself() -> None:
    pair = Pair()
    pair.connect()
    ann = pair.ends[ANN]
    pair.carry(ANN, ann.handle_datapath(SessionUp(BOB, "10.0.0.2", 6783), 0.5))
    pair.carry(ANN, ann.handle_disconnected(BOB, left=False))
    assert pair.removed[ANN] == []
    assert ann.is_up(BOB)
    pair.carry(ANN, ann.handle_datapath(SessionDown(BOB, "silence"), 9.0))
    assert pair.removed[ANN] == [BOB]
    assert pair.reported == [(ANN, OverlayUp(BOB)), (ANN, OverlayDown(BOB, "silence"))]


def test_a_session_that_never_came_up_goes_with_its_control_connection() -> None:
    pair = Pair()
    pair.connect()
    pair.carry(ANN, pair.ends[ANN].handle_disconnected(BOB, left=False))
    assert pair.removed[ANN] == [BOB]


def test_a_peer_that_says_goodbye_takes_its_session_with_it() -> None:
    pair = Pair()
    pair.connect()
    ann = pair.ends[ANN]
    ann.handle_datapath(SessionUp(BOB, "10.0.0.2", 6783), 0.5)
    pair.carry(ANN, ann.handle_disconnected(BOB, left=True))
    assert pair.removed[ANN] == [BOB]
    assert not ann.is_up(BOB)


def test_the_dialler_opens_anew_while_a_connected_peer_has_no_session() -> None:
    pair = Pair()
    pair.connect()
    for name in (ANN, BOB):
        pair.carry(name, pair.ends[name].handle_timeout(REOPEN_S), REOPEN_S)
    assert len(pair.installed[ANN]) == len(pair.installed[BOB]) == 2
    pair.carry(ANN, pair.ends[ANN].handle_datapath(SessionUp(BOB, "10.0.0.2", 6783), 11.0))
    pair.carry(ANN, pair.ends[ANN].handle_timeout(2 * REOPEN_S), 2 * REOPEN_S)
    assert len(pair.installed[ANN]) == 2


def test_adopted_sessions_count_as_up_and_are_announced_when_the_peer_connects() -> None:
    adopted = Negotiator((session(BOB), session(PeerName("x"), up=False)), Random(1))
    assert adopted.is_up(BOB)
    effects = adopted.handle_connected(BOB, "10.0.0.2", 6783, SECRET, False, 0.0)
    assert effects == [OverlayUp(BOB)]


def test_sessions_that_nobody_asked_for_and_that_are_down_are_removed() -> None:
    negotiator = Negotiator((), Random(1))
    effects = negotiator.handle_datapath(snapshot(session(BOB, up=False)), 0.0)
    assert effects == [TellDatapath(RemoveSession(BOB))]


def test_a_datapath_that_is_gone_takes_every_session_down() -> None:
    pair = Pair()
    pair.connect()
    ann = pair.ends[ANN]
    ann.handle_datapath(SessionUp(BOB, "10.0.0.2", 6783), 0.5)
    assert OverlayDown(BOB, "killed") in ann.handle_datapath_lost("killed", 1.0)
    assert not ann.is_up(BOB)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x81\xa4type\xa4Open"])
def test_nonsense_from_a_peer_is_a_protocol_error(payload: bytes) -> None:
    pair = Pair()
    pair.connect()
    with pytest.raises(ProtocolError):
        pair.ends[ANN].handle_message(BOB, payload, 0.0)

"""Two routers that measure: who asks, who serves, who says no. The measuring ends are real."""

import asyncio
import os
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from router.mesh.mesh import Mesh
from tests.weavepy.daemon.mesh_rows import FAR, NEAR, OURSELF, Rows
from tests.weavepy.samples import sample_attachment
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.names import PeerName
from weavepy.base.wire import encode
from weavepy.client import schema
from weavepy.daemon import benching
from weavepy.daemon.api import NotFound, NotReady, TimedOut
from weavepy.daemon.attachments import Attachments
from weavepy.daemon.benching import MAX_SECONDS, Ask, Benching, Done, Ready, Refused

PEER = PeerName(NEAR)
ADDRESS = "127.0.0.1/8"


class Places:
    """Where ends are attached: here and now, all at one address."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.refusal = ""

    async def attach(self, request: schema.AttachRequest) -> schema.Attachment:
        if self.refusal:
            raise NotReady(self.refusal)
        self.pids.append(request.pid)
        return msgspec.structs.replace(sample_attachment(), addresses=[ADDRESS])

    async def detach(self, request: schema.DetachRequest) -> schema.DetachAnswer:
        self.pids.remove(request.pid)
        return schema.DetachAnswer(released=[])


class Fixture:
    def __init__(self) -> None:
        self.places = Places()
        self.said: list[object] = []
        self.answer: Callable[[object], None] = lambda message: None
        self.benching = Benching(
            cast(Mesh, Rows()), cast(Attachments, self.places), self._handle_told
        )

    def _handle_told(self, peer: PeerName, payload: bytes) -> None:
        assert peer == PEER
        message = benching._decoder.decode(payload)
        self.said.append(message)
        self.answer(message)

    def hear(self, message: Ask | Ready | Refused | Done, source: str = NEAR) -> None:
        self.benching.handle(PeerName(source), encode(message))

    def said_of(self, kind: type) -> list[object]:
        return [message for message in self.said if isinstance(message, kind)]

    async def wait_for(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def made() -> Fixture:
    return Fixture()


def request(peer: str = "host2", seconds: float = 1.0) -> schema.BenchRequest:
    return schema.BenchRequest(peer=peer, seconds=seconds)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(
    ("peer", "seconds", "error", "words"),
    [
        ("host2", 0.0, UsageError, "up to 30 s"),
        ("host2", MAX_SECONDS + 0.1, UsageError, "up to 30 s"),
        ("host2", float("nan"), UsageError, "up to 30 s"),
        ("nobody", 1.0, NotFound, "status peers"),
        ("twin", 1.0, UsageError, "2 peers"),
        ("host1", 1.0, UsageError, "is this host"),
        (FAR, 1.0, NotReady, "no route"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_started(
    made: Fixture, peer: str, seconds: float, error: type[WeavepyError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await made.benching.bench(request(peer, seconds))
    assert made.said == []
    assert made.places.pids == []


async def test_a_peer_that_does_not_answer_is_asked_again_and_given_up(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benching, "READY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(benching, "ASK_AGAIN_S", 0.1)
    pids: list[int] = []
    made.answer = lambda message: pids.extend(made.places.pids)
    with pytest.raises(TimedOut, match="host2 did not answer within 0.5 s"):
        await made.benching.bench(request())
    asked = made.said_of(Ask)
    assert len(asked) >= 2
    assert len({cast(Ask, ask).number for ask in asked}) == 1, "the same question"
    assert made.said[-1] == Done(cast(Ask, asked[0]).number), "it may have heard us all the same"
    assert made.places.pids == []
    assert not alive(pids[0]), "our own end is gone"


async def test_a_peer_that_refuses_is_quoted(made: Fixture) -> None:
    def refuse(message: object) -> None:
        if isinstance(message, Ask):
            made.hear(Refused(message.number + 1, "an answer to something else"))
            made.hear(Refused(message.number, "not its name"), source=OURSELF)
            made.hear(Refused(message.number, "no room"))
            made.hear(Ready(message.number, "127.0.0.1", 1))  # too late, and ignored

    made.answer = refuse
    with pytest.raises(NotReady, match="host2 refuses: no room"):
        await made.benching.bench(request())
    assert len(made.said_of(Ask)) == 1
    assert made.places.pids == []


async def test_a_peer_whose_end_cannot_be_reached_fails_the_measurement(made: Fixture) -> None:
    def lie(message: object) -> None:
        if isinstance(message, Ask):
            made.hear(Ready(message.number, "127.0.0.1", 1))

    made.answer = lie
    with pytest.raises(WeavepyError):
        await made.benching.bench(request())
    assert made.said_of(Done) != []
    assert made.places.pids == []


async def test_one_measurement_at_a_time_whoever_wants_it(made: Fixture) -> None:
    made.hear(Ask(1, 1.0))
    await made.wait_for(lambda: made.said_of(Ready))
    with pytest.raises(NotReady, match="under way here"):
        await made.benching.bench(request())
    made.hear(Ask(2, 1.0))
    assert made.said[-1] == Refused(2, "a measurement is under way there")
    made.hear(Done(1))
    await made.wait_for(lambda: made.places.pids == [])


async def test_who_asks_again_is_told_again_where_we_serve(made: Fixture) -> None:
    made.hear(Ask(1, 1.0))
    made.hear(Ask(1, 1.0))
    await made.wait_for(lambda: made.said_of(Ready))
    made.hear(Ask(1, 1.0))
    first, second = made.said_of(Ready)
    assert first == second
    assert cast(Ready, first).address == "127.0.0.1"
    assert cast(Ready, first).port > 0
    (pid,) = made.places.pids
    made.hear(Done(1), source=OURSELF)
    made.hear(Done(3))
    await asyncio.sleep(0)
    assert alive(pid), "neither was meant for it"
    made.hear(Done(1))
    await made.wait_for(lambda: made.places.pids == [])
    await made.wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("seconds", [0.0, -1.0, MAX_SECONDS + 1, float("nan")])
async def test_who_asks_for_too_much_is_refused(made: Fixture, seconds: float) -> None:
    made.hear(Ask(1, seconds))
    (answer,) = made.said
    assert isinstance(answer, Refused)
    assert made.places.pids == []


async def test_an_end_that_cannot_be_attached_is_a_refusal_with_the_reason(made: Fixture) -> None:
    made.places.refusal = "there is no ring yet"
    made.hear(Ask(1, 1.0))
    await made.wait_for(lambda: made.said)
    assert made.said == [Refused(1, "there is no ring yet")]
    made.places.refusal = ""
    made.hear(Ask(2, 1.0))
    await made.wait_for(lambda: made.said_of(Ready))
    await made.benching.close()
    assert made.places.pids == []


async def test_an_asker_that_is_never_heard_again_is_served_for_a_while_only(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.hear(Ask(1, 0.01))
    await made.wait_for(lambda: made.said_of(Ready))
    await made.benching.close()
    monkeypatch.setattr(benching, "SETUP_S", 1.5)
    made.hear(Ask(2, 0.01))
    await made.wait_for(lambda: len(made.said_of(Ready)) == 2 or made.said_of(Refused))
    await made.wait_for(lambda: made.places.pids == [])


def test_what_is_no_message_is_ignored(made: Fixture) -> None:
    for payload in (b"", b"\xff" * 40, b"{}"):
        made.benching.handle(PEER, payload)
    assert made.said == []

"""The watch, on its own and against a server with real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from kube.core.kinds import Expired, Page, Unreadable
from kube.core.objects import NODES, Node
from kube.core.watch import (
    FIRST_RETRY_S,
    MAX_RETRY_S,
    MAX_SPREAD_S,
    SPREAD_S,
    Change,
    Follow,
    List,
    Wait,
    Watch,
)
from kube.shell.api import Api, ApiAway, ApiConflict, ApiNotFound, ApiRefused
from kube.shell.server import ApiServer
from tests.kube.stand_in import StandIn
from weavepy.base.errors import WeavepyError


def line(kind: str, name: str = "n1", uid: str = "u1", version: str = "7") -> bytes:
    meta = {"name": name, "uid": uid, "resourceVersion": version}
    return json.dumps({"type": kind, "object": {"metadata": meta}}).encode()


def watching() -> Watch[Node]:
    watch = Watch(NODES, Random(1))
    watch.handle_page(Page([Node("n1", "u1")], "5"))
    watch.handle_watching(0.0)
    return watch


def test_a_watch_goes_on_from_the_last_version_that_was_heard_of() -> None:
    watch = watching()
    watch.handle_line(line("ADDED", "n2", version="7"))
    assert not watch.handle_line(line("BOOKMARK", version="9"))
    watch.handle_ended(None, 300.0)
    assert watch.next_step() == Follow("9")
    assert sorted(watch.things) == ["n1", "n2"]


def test_after_410_all_is_listed_anew_and_what_is_not_in_it_has_gone() -> None:
    watch = watching()
    watch.handle_ended(Expired("too old"), 300.0)
    assert isinstance(watch.next_step(), Wait), "a thousand routers are told so at once"
    assert watch.handle_waited() == List()
    assert list(watch.things) == ["n1"], "until then what was known stays"
    changes = watch.handle_page(Page([Node("n3", "u3")], "50"))
    assert changes == [Change(Node("n1", "u1"), gone=True), Change(Node("n3", "u3"))]
    assert list(watch.things) == ["n3"]
    assert watch.next_step() == Follow("50")


def test_a_list_of_several_pages_is_one_change() -> None:
    watch = watching()
    watch.handle_ended(Expired("too old"), 300.0)
    assert watch.handle_page(Page([Node("n2", "u2")], "50", "more")) == []
    assert watch.next_step() == List("more")
    assert list(watch.things) == ["n1"]
    assert len(watch.handle_page(Page([Node("n1", "u1")], "50"))) == 1, "n1 is as it was"
    assert sorted(watch.things) == ["n1", "n2"]
    assert watch.next_step() == Follow("50")


def test_a_list_that_breaks_off_is_begun_again() -> None:
    watch = Watch(NODES, Random(1))
    watch.handle_page(Page([Node("n2", "u2")], "50", "more"))
    watch.handle_ended(Expired("the token is too old"), 300.0)
    assert watch.handle_waited() == List()
    watch.handle_page(Page([Node("n3", "u3")], "60"))
    assert list(watch.things) == ["n3"]


def test_what_was_known_before_stays_until_the_server_answers_and_then_counts_as_before() -> None:
    watch = Watch(NODES, Random(1), [Node("n1", "u1"), Node("n2", "u2")])
    assert not watch.listed
    assert sorted(watch.things) == ["n1", "n2"]
    changes = watch.handle_page(Page([Node("n2", "u2")], "50"))
    assert changes == [Change(Node("n1", "u1"), gone=True)]


def test_a_server_that_is_away_is_asked_less_and_less_often_with_jitter() -> None:
    watch = watching()
    waits = []
    for _ in range(9):
        watch.handle_ended(ApiAway("no route"), 400.0)
        step = watch.next_step()
        assert isinstance(step, Wait)
        waits.append(step.seconds)
        assert watch.handle_waited() == Follow("5")
    spread_s = len(watch.things) * SPREAD_S
    assert 0.5 * FIRST_RETRY_S <= waits[0] <= 1.5 * FIRST_RETRY_S + spread_s
    assert 0.5 * MAX_RETRY_S <= waits[-1] <= 1.5 * MAX_RETRY_S + spread_s
    assert watch.problem == "no route"
    watch.handle_watching(500.0)
    watch.handle_ended(None, 800.0)
    assert watch.next_step() == Follow("5")
    assert watch.problem == ""


def test_a_thousand_routers_come_back_over_ten_seconds() -> None:
    page = Page([Node(f"n{number}", f"u{number}") for number in range(1000)], "5")
    waits = []
    for router in range(1000):
        watch: Watch[Node] = Watch(NODES, Random(router))
        watch.handle_page(page)
        watch.handle_ended(ApiAway("reset"), 400.0)
        step = watch.next_step()
        assert isinstance(step, Wait)
        waits.append(step.seconds)
    busiest = max(sum(at <= wait < at + 1 for wait in waits) for at in range(12))
    assert busiest < 150
    assert max(waits) <= 1.5 * FIRST_RETRY_S + MAX_SPREAD_S


def test_what_has_changed_is_counted() -> None:
    watch = watching()
    before = watch.changes
    watch.handle_line(line("ADDED", "n9"))
    assert watch.changes == before + 1
    watch.handle_line(line("MODIFIED", "n9"))
    assert watch.changes == before + 1
    watch.handle_line(line("DELETED", "n9"))
    assert watch.changes == before + 2


def test_a_watch_that_ends_at_once_is_not_repeated_in_a_busy_loop() -> None:
    watch = watching()
    watch.handle_ended(None, 0.1)
    assert isinstance(watch.next_step(), Wait)


def test_only_a_change_of_what_matters_is_a_change() -> None:
    watch = watching()
    assert not watch.handle_line(line("MODIFIED", "n1", "u1"))
    assert watch.handle_line(line("MODIFIED", "n1", "u2"))
    assert watch.handle_line(line("DELETED", "n1", "u2"))
    assert not watch.things


def test_a_node_has_its_internal_addresses_of_both_families() -> None:
    addresses = [
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "fd00::1"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "what?"},
    ]
    conditions = [{"type": "NetworkUnavailable", "status": "False"}]
    status = {"addresses": addresses, "conditions": conditions}
    node = NODES.decode(json.dumps({"metadata": {"name": "n1"}, "status": status}).encode())
    assert node.addresses == ("10.0.0.1", "fd00::1")
    assert node.network_is_up


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"metadata": 3}', b'{"metadata": {}}'])
def test_what_cannot_be_read_is_an_error_with_a_name(body: bytes) -> None:
    with pytest.raises(Unreadable):
        NODES.decode(body)
    with pytest.raises(Unreadable):
        NODES.decode_event(body)


@pytest.fixture
async def server() -> AsyncIterator[StandIn]:
    server = StandIn()
    await server.start()
    yield server
    await server.stop()


MakeApi = Callable[..., Api]


@pytest.fixture
async def make_api(server: StandIn) -> AsyncIterator[MakeApi]:
    made: list[Api] = []

    def make(token_file: Path | None = None) -> Api:
        made.append(Api(ApiServer(server.url, token_file), ("kube-system", "weavepy")))
        return made[-1]

    yield make
    for api in made:
        await api.close()


async def follow(api: Api, watch: Watch[Node], steps: int) -> WeavepyError | None:
    """As the daemon does; returns at the end of the watch, or after so many lines."""
    try:
        page = await api.list(NODES)
        watch.handle_page(page)
        async with api.watch(NODES, page.version) as lines:
            async for each in lines:
                watch.handle_line(each)
                steps -= 1
                if not steps:
                    return None
    except WeavepyError as error:
        return error
    return None


async def test_nodes_are_listed_and_followed(server: StandIn, make_api: MakeApi) -> None:
    await server.put_node("n1", "u1", "10.0.0.1", "fd00::1")
    watch = Watch(NODES, Random(1))
    following = asyncio.create_task(follow(make_api(), watch, 3))
    while not watch.listed:
        await asyncio.sleep(0.01)
    await server.put_node("n2", "u2", "10.0.0.2")
    await server.bookmark()
    await server.delete_node("n1")
    assert await asyncio.wait_for(following, 10) is None
    assert watch.things == {"n2": Node("n2", "u2", ("10.0.0.2",))}


async def test_a_server_that_forgot_says_so_and_one_that_goes_breaks_the_watch(
    server: StandIn, make_api: MakeApi
) -> None:
    watch = Watch(NODES, Random(1))
    following = asyncio.create_task(follow(make_api(), watch, 9))
    while not watch.listed:
        await asyncio.sleep(0.01)
    server._version += 5
    server.forget()
    await server.bookmark()
    assert isinstance(await asyncio.wait_for(following, 10), Expired)

    following = asyncio.create_task(follow(make_api(), watch, 9))
    while ("watch", "nodes") not in server.asked[3:]:
        await asyncio.sleep(0.01)
    await server.stop()
    error = await asyncio.wait_for(following, 10)
    assert error is None or isinstance(error, ApiAway)
    with pytest.raises(ApiAway):
        await make_api().list(NODES)


async def test_the_token_is_read_anew_for_each_request(
    server: StandIn, make_api: MakeApi, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    server.token = "old"
    api = make_api(token)
    await api.list(NODES)
    server.token = "new"
    with pytest.raises(ApiRefused):
        await api.list(NODES)
    token.write_text("new\n")
    await api.list(NODES)


async def test_the_register_changes_only_from_the_version_that_was_read(
    server: StandIn, make_api: MakeApi
) -> None:
    api = make_api()
    first = await api.read_register()
    await api.write_register({"peer.000000000001": '{"node": "n1", "uid": "u1"}'}, first.version)
    with pytest.raises(ApiConflict):
        await api.write_register({"ring": "{}"}, first.version)
    # One's own key needs no version, and disturbs nobody.
    after = await api.write_register({"peer.000000000002": '{"node": "n2", "uid": "u2"}'})
    assert [home.node for home in after.homes.values()] == ["n1", "n2"]


async def test_what_is_refused_or_missing_says_what_to_do(
    server: StandIn, make_api: MakeApi
) -> None:
    api = make_api()
    assert await api.get_node("n9") is None
    server.make_register(None)
    with pytest.raises(ApiNotFound, match="apply docker/weavepy.yaml"):
        await api.read_register()
    server.rules = {}
    with pytest.raises(ApiRefused, match="cannot get resource configmaps"):
        await api.read_register()
    server.failing = 503
    with pytest.raises(ApiAway, match="503"):
        await api.list(NODES)


async def test_the_condition_of_a_node_is_set(server: StandIn, make_api: MakeApi) -> None:
    await server.put_node("n1", "u1", "10.0.0.1")
    api = make_api()
    await api.say_network_is_up("n1")
    node = await api.get_node("n1")
    assert node is not None
    assert node.network_is_up

"""The plugin's short way: one question, and every answer after which it has to go the long one.

The plugin is the real file, run as a runtime does; the router is a socket that says what a router
may say, or half of it.
"""

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni import quick
from tests.cni.programs import FORMS, install, skip_without_compiler
from tests.cni.runtime import call
from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.daemon.api import Conflict, NotFound, NotReady, failure_of
from weavepy.daemon.plugin import execute

VARIABLES = {"containerid": "c1", "netns": "/run/netns/none", "ifname": "eth0"}
ANSWER = {
    "host_interface": "vethw1",
    "host_mac": "02:00:00:00:00:01",
    "mac": "02:00:00:00:00:02",
    "mtu": 1400,
    "addresses": [{"address": "10.32.0.5/12", "gateway": ""}],
    "routes": [],
}


@pytest.fixture(params=FORMS)
def plugin(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    skip_without_compiler(request.param)
    return install(tmp_path / "bin", request.param)


def config(directory: Path, **more: Any) -> dict[str, Any]:
    where = {"runDir": str(directory), "stateDir": str(directory)}
    return {"cniVersion": "1.0.0", "name": "n", "type": "weavepy-cni"} | where | more


def http(status: int, content: object, cut: int = 0) -> bytes:
    """As the router writes it; `cut` bytes of its end are lost."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = f"HTTP/1.0 {status} Word\r\nContent-Length: {len(body)}\r\nServer: x\r\n\r\n"
    whole = head.encode() + body
    return whole[: len(whole) - cut]


@contextmanager
def router(
    directory: Path, *answers: bytes, at_most: bool = False
) -> Iterator[list[tuple[str, bytes]]]:
    """Gives each caller the next answer; yields the paths and contents of their requests.

    All of them have to be asked for, unless it is `at_most` so many.
    """
    asked: list[tuple[str, bytes]] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line and at_most:
                    return
                path = line.split()[1].decode()
                length = 0
                while (line := lines.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                asked.append((path, lines.read(length)))
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "weavepy.sock"))
        listener.listen()
        listener.settimeout(30)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            if at_most:
                with socket.socket(socket.AF_UNIX) as last:
                    last.connect(str(directory / "weavepy.sock"))
            thread.join(30)
            (directory / "weavepy.sock").unlink()
        assert not thread.is_alive()


def journalled(directory: Path) -> int:
    return len([*directory.glob("cni-journal/del-*")])


def test_what_the_router_says_is_printed_as_it_is(plugin: Path, tmp_path: Path) -> None:
    given = config(tmp_path)
    with router(tmp_path, http(200, {"cniVersion": "1.0.0", "x": 1})) as asked:
        assert call(plugin, "ADD", given, **VARIABLES) == (0, {"cniVersion": "1.0.0", "x": 1})
    ((path, content),) = asked
    environment, sent = quick.decode(content)
    assert (path, json.loads(sent)) == (quick.PATH, given)
    assert environment["CNI_COMMAND"] == "ADD"
    assert environment["CNI_NETNS"] == "/run/netns/none"
    assert environment["SOCKET"] == str(tmp_path / "weavepy.sock")
    assert environment["NAME"] == "weavepy-cni"


def test_a_del_prints_nothing(plugin: Path, tmp_path: Path) -> None:
    with router(tmp_path, http(200, b"")):
        assert call(plugin, "DEL", config(tmp_path), **VARIABLES) == (0, {})
    assert journalled(tmp_path) == 0


@pytest.mark.parametrize("cut", [1, 20, 10_000])
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_an_answer_that_is_not_whole_is_none(
    plugin: Path, tmp_path: Path, verb: str, cut: int
) -> None:
    """Who adds again takes back first what an ADD may have left; a DEL is carried out later."""
    with router(tmp_path, http(200, {"cniVersion": "1.0.0"}, cut)) as asked:
        code, printed = call(plugin, verb, config(tmp_path), **VARIABLES)
    assert len(asked) == 1
    assert journalled(tmp_path) == 1
    assert (code, printed.get("code")) == ((1, 11) if verb == "ADD" else (0, None))


@pytest.mark.parametrize(
    "first",
    [
        http(quick.ELSEWHERE, b""),
        http(404, {"code": "usage", "message": f"{quick.PATH}: Not Found"}),
    ],
    ids=["it has to", "an older router"],
)
def test_what_the_router_leaves_to_the_plugin_is_asked_the_long_way(
    plugin: Path, tmp_path: Path, first: bytes
) -> None:
    with router(tmp_path, first, http(200, ANSWER)) as asked:
        code, printed = call(plugin, "ADD", config(tmp_path), **VARIABLES)
    assert [path for path, _ in asked] == [quick.PATH, "/v1/cni/add"]
    assert (code, printed["ips"]) == (0, [{"address": "10.32.0.5/12", "interface": 1}])


@pytest.mark.parametrize(("code", "said"), [("conflict", 101), ("not-ready", 11), ("not-found", 3)])
def test_a_refusal_is_the_answer_and_nobody_is_asked_again(
    plugin: Path, tmp_path: Path, code: str, said: int
) -> None:
    status = 404 if code == "not-found" else 500
    with router(tmp_path, http(status, {"code": code, "message": "because"})) as asked:
        result, printed = call(plugin, "ADD", config(tmp_path), **VARIABLES)
    assert len(asked) == 1
    assert (result, printed["code"], printed["msg"]) == (1, said, "because")
    assert journalled(tmp_path) == 0


def test_a_directory_that_only_a_reader_of_json_finds_is_found(
    plugin: Path, tmp_path: Path
) -> None:
    """Another object has a key of that name, too."""
    given = {"args": {"cni": {"runDir": "/elsewhere"}}} | config(tmp_path)
    with router(tmp_path, http(200, ANSWER)) as asked:
        code, _ = call(plugin, "ADD", given, **VARIABLES)
    assert (code, [path for path, _ in asked]) == (0, ["/v1/cni/add"])
    escaped = json.dumps(config(tmp_path)).replace("/", "\\/").encode()
    assert quick.ask("weavepy-cni", {"CNI_COMMAND": "ADD"}, escaped) is None


def test_what_the_router_words_as_a_refusal_is_passed_on(plugin: Path, tmp_path: Path) -> None:
    """It knows what the plugin would say: a line for people, and what is printed."""
    said = {"cniVersion": "1.0.0", "code": 7, "msg": "no"}
    with router(tmp_path, http(quick.REFUSED, b"weavepy: no [7]\n" + json.dumps(said).encode())):
        done = subprocess.run(
            [plugin],
            input=json.dumps(config(tmp_path)).encode(),
            capture_output=True,
            env={"CNI_COMMAND": "CHECK"},
        )
    assert (done.returncode, json.loads(done.stdout)) == (1, said)
    assert done.stderr == b"weavepy: no [7]\n"


class Pods:
    """Notes what is asked, and answers as if all were well, or raises `fails`."""

    def __init__(self, fails: WeavepyError | None = None) -> None:
        self.asked: list[schema.Struct] = []
        self._fails = fails

    def _note(self, request: schema.Struct) -> None:
        self.asked.append(request)
        if self._fails:
            raise self._fails

    async def cni_add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer:
        self._note(request)
        return msgspec.convert(ANSWER, schema.CniAddAnswer)

    async def cni_del(self, request: schema.CniDelRequest) -> schema.CniDelAnswer:
        self._note(request)
        return schema.CniDelAnswer(released=[])

    async def cni_check(self, request: schema.CniCheckRequest) -> schema.CniCheckAnswer:
        self._note(request)
        return schema.CniCheckAnswer(findings=["the MAC differs"])

    async def cni_gc(self, request: schema.CniGcRequest) -> schema.CniGcAnswer:
        self._note(request)
        return schema.CniGcAnswer(freed=[], errors=[])

    async def cni_status(self, request: schema.CniStatusRequest) -> schema.CniStatusAnswer:
        self._note(request)
        return schema.CniStatusAnswer(code=0, message="")


def executed(
    pods: Pods,
    verb: str,
    given: dict[str, Any],
    name: str = "weavepy-cni",
    is_unheard: bool = False,
    **more: str,
) -> tuple[int, Any]:
    environment = {"CNI_COMMAND": verb} | {
        f"CNI_{key.upper()}": it for key, it in VARIABLES.items()
    }
    environment |= more
    content = quick.encode(name, "/run/x/weavepy.sock", environment, json.dumps(given).encode())
    return answered(pods, content, is_unheard)


def answered(pods: Pods, content: bytes, is_unheard: bool = False) -> tuple[int, Any]:
    """Status and what is to be printed."""
    status, body = asyncio.run(
        execute(pods, lambda error: failure_of(error)[0].code, content, lambda: is_unheard)
    )
    printed = body.partition(b"\n")[2] if status == quick.REFUSED else body
    return status, json.loads(printed or b"null")


def test_the_router_makes_of_it_what_the_plugin_would() -> None:
    given = config(Path("/run/x"), mtu=1300, ipam={"type": "weavepy-ipam", "subnet": "10.1.0.0/16"})
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.1.0.9"
    pods = Pods()
    status, printed = executed(pods, "ADD", given, CNI_ARGS=arguments)
    [wanted] = pods.asked
    assert isinstance(wanted, schema.CniAddRequest)
    assert (wanted.network, wanted.container, wanted.interface) == ("n", "c1", "eth0")
    assert (wanted.namespace, wanted.kind) == ("/run/netns/none", "interface")
    assert (wanted.mtu, wanted.subnet, wanted.ips) == (1300, "10.1.0.0/16", ["10.1.0.9"])
    assert wanted.pod == "default/web"
    assert (status, printed["cniVersion"]) == (quick.DONE, "1.0.0")
    assert printed["ips"] == [{"address": "10.32.0.5/12", "interface": 1}]

    assert executed(pods, "DEL", given, name="weavepy-ipam") == (quick.DONE, None)
    unwanted = pods.asked[-1]
    assert isinstance(unwanted, schema.CniDelRequest)
    assert (unwanted.container, unwanted.kind) == ("c1", "addresses")
    assert executed(pods, "STATUS", given | {"cniVersion": "1.1.0"}) == (quick.DONE, None)


def test_an_add_that_nobody_heard_of_is_undone() -> None:
    pods = Pods()
    executed(pods, "ADD", config(Path("/run/x")), is_unheard=True)
    assert [type(each).__name__ for each in pods.asked] == ["CniAddRequest", "CniDelRequest"]


@pytest.mark.parametrize(
    ("verb", "more", "variables", "code"),
    [
        ("CHECK", {}, {}, 7),
        ("CHECK", {"prevResult": {"ips": []}}, {}, 102),
        ("STATUS", {}, {}, 1),
        ("ADD", {"mtu": "large"}, {}, 7),
        ("ADD", {"cniVersion": "9.9.9"}, {}, 1),
        ("ADD", {}, {"CNI_ARGS": "nonsense"}, 4),
        ("ADD", {"ipam": {"routes": [7]}}, {}, 7),
        ("DEL", {"name": "/"}, {}, 7),
        ("NONE", {}, {}, 4),
    ],
)
def test_the_router_refuses_what_the_plugin_would(
    verb: str, more: dict[str, Any], variables: dict[str, str], code: int
) -> None:
    status, printed = executed(Pods(), verb, config(Path("/run/x")) | more, **variables)
    assert (status, printed["code"]) == (quick.REFUSED, code)


def test_the_routers_own_refusals_have_the_codes_that_the_plugin_gives_them() -> None:
    for error, code in ((Conflict("x"), 101), (NotReady("x"), 11), (NotFound("x"), 3)):
        status, printed = executed(Pods(fails=error), "ADD", config(Path("/run/x")))
        assert (status, printed["code"], printed["msg"]) == (quick.REFUSED, code, "x")


@pytest.mark.parametrize("more", [{"runDir": "/run/another"}, {"ipam": {"type": "host-local"}}])
def test_what_the_router_cannot_see_to_is_left_to_the_plugin(more: dict[str, Any]) -> None:
    pods = Pods()
    status, _ = executed(pods, "ADD", config(Path("/run/x")) | more)
    assert (status, pods.asked) == (quick.ELSEWHERE, [])


def test_content_that_is_no_request_is_refused() -> None:
    for content in (b"", b"\0", b"\0\0", b"CNI_COMMAND=ADD\0\0{", b"\xff\xfe\0\0\xff", b"x" * 999):
        assert answered(Pods(), content)[0] == quick.REFUSED

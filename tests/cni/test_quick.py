"""The plugin's short way: one question, and every answer after which it has to go the long one.

The plugin is the real file, run as a runtime does; the router is a socket that says what a router
may say, or half of it.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni import quick
from cni.executable import script, write_whole
from tests.cni.runtime import call
from weavepy.client import schema
from weavepy.daemon.plugin import understood

VARIABLES = {"containerid": "c1", "netns": "/run/netns/none", "ifname": "eth0"}
ANSWER = {
    "host_interface": "vethw1",
    "host_mac": "02:00:00:00:00:01",
    "mac": "02:00:00:00:00:02",
    "mtu": 1400,
    "addresses": [{"address": "10.32.0.5/12", "gateway": ""}],
    "routes": [],
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "bin" / "weavepy-cni"
    write_whole(file, script(), 0o755)
    return file


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
def router(directory: Path, *answers: bytes) -> Iterator[list[tuple[str, bytes]]]:
    """Gives each caller the next answer; yields the paths and contents of their requests."""
    asked: list[tuple[str, bytes]] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                path = lines.readline().split()[1].decode()
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
        yield asked
        thread.join(30)
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
    assert quick.ask({"CNI_COMMAND": "ADD"}, escaped) is None


def asked(verb: str, given: dict[str, Any], **more: str) -> Any:
    """What the router makes of it, without that it is done."""
    environment = {"CNI_COMMAND": verb} | {
        f"CNI_{key.upper()}": it for key, it in VARIABLES.items()
    }
    content = quick.encode("/run/x/weavepy.sock", environment | more, json.dumps(given).encode())
    return understood(content)


def test_the_router_makes_of_it_what_the_plugin_would() -> None:
    given = config(Path("/run/x"), mtu=1300, ipam={"type": "weavepy-ipam", "subnet": "10.1.0.0/16"})
    more = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.1.0.9"}
    call_made, wanted = asked("ADD", given, **more)
    assert call_made.version == "1.0.0"
    assert isinstance(wanted, schema.CniAddRequest)
    assert (wanted.network, wanted.container, wanted.interface) == ("n", "c1", "eth0")
    assert (wanted.namespace, wanted.kind) == ("/run/netns/none", "interface")
    assert (wanted.mtu, wanted.subnet, wanted.ips) == (1300, "10.1.0.0/16", ["10.1.0.9"])
    assert wanted.pod == "default/web"
    _, unwanted = asked("DEL", given)
    assert isinstance(unwanted, schema.CniDelRequest)
    assert unwanted.container == "c1"


@pytest.mark.parametrize(
    ("verb", "more", "variables"),
    [
        ("CHECK", {}, {}),
        ("STATUS", {}, {}),
        ("ADD", {"runDir": "/run/another"}, {}),
        ("ADD", {"ipam": {"type": "host-local"}}, {}),
        ("ADD", {"mtu": "large"}, {}),
        ("ADD", {"cniVersion": "9.9.9"}, {}),
        ("ADD", {}, {"CNI_ARGS": "nonsense"}),
        ("ADD", {"ipam": {"routes": [7]}}, {}),
        ("DEL", {"name": "/"}, {}),
    ],
)
def test_what_is_not_as_always_is_left_to_the_plugin(
    verb: str, more: dict[str, Any], variables: dict[str, str]
) -> None:
    assert asked(verb, config(Path("/run/x")) | more, **variables) is None


def test_content_that_is_no_request_is_left_to_the_plugin() -> None:
    for content in (b"", b"\0", b"\0\0", b"CNI_COMMAND=ADD\0\0{", b"\xff\xfe\0\0\xff", b"x" * 999):
        assert understood(content) is None

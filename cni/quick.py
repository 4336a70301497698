"""A verb in one question: what the runtime gave goes to the router as it is, and what comes back is
printed.

Most of what a run takes is the interpreter's start, and a quarter of that again was `os`, JSON and
the modules that read a configuration. So this needs nothing but what an interpreter has in it, and
the router does what `plugin.py` would do (`weavepy/daemon/plugin.py`). Whatever is not as always is
left to `plugin.py` after all: another IPAM plugin, a router that is away or goes away.

`launcher.c` is the same once more, without the interpreter: what changes here changes there.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_DIRECTORY = "/run/weavepy"
RUN_VARIABLE = "WEAVEPY_RUN_DIR"
SOCKET_NAME = "weavepy.sock"
PATH = "/v1/cni/execute"
DONE = 200
"""The status of an answer that is to be printed."""
REFUSED = 422
"""Its first line is for standard error, the rest is to be printed; the verb has failed."""
ELSEWHERE = 501
"""The plugin has to see to it itself."""

TIMEOUTS_S = {"ADD": 40.0, "DEL": 20.0, "CHECK": 20.0, "GC": 30.0, "STATUS": 2.0, "VERSION": 2.0}
OTHER_TIMEOUT_S = 2.0
"""Of what is no verb."""
MAX_CONFIG_BYTES = 4 * 1024 * 1024
MAX_CONTENT_BYTES = 192 * 1024
"""Of a request; the router takes no more than 256 KiB."""
MAX_ANSWER_BYTES = 1024 * 1024


def read_input() -> bytes:
    """Of standard input, as much as is allowed and one byte more. Raises `OSError`."""
    parts = []
    left = MAX_CONFIG_BYTES + 1
    while left > 0 and (part := posix.read(0, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def ask(name: str, environment: "Mapping[str, str]", config: bytes) -> "bytes | None":
    """The answer, head and all; what of it came, if not all did. None: nobody was asked."""
    timeout_s = TIMEOUTS_S.get(environment.get("CNI_COMMAND", ""), OTHER_TIMEOUT_S)
    socket_path = _socket_path(environment, config)
    content = encode(name, socket_path, environment, config)
    if not socket_path or len(content) > MAX_CONTENT_BYTES:
        return None
    import _socket

    deadline = time.monotonic() + timeout_s
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(socket_path)
    except OSError:
        return None
    head = f"POST {PATH} HTTP/1.0\r\nHost: weavepy\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = b""
    try:
        connection.sendall(head.encode() + content)
        while (
            len(answer) < MAX_ANSWER_BYTES
            and not whole(answer)[0]
            and (part := connection.recv(1 << 16))
        ):
            answer += part
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    except OSError:
        pass
    return answer


def whole(answer: bytes) -> tuple[int, bytes]:
    """Status and content; the status is 0 unless all of it is there."""
    head, end, content = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = b"content-length: %d" % len(content)
    if not (end and lines[0][9:12].isdigit() and any(line.lower() == length for line in lines)):
        return 0, b""
    return int(lines[0][9:12]), content


def encode(name: str, socket_path: str, environment: "Mapping[str, str]", config: bytes) -> bytes:
    """A request's content: variables, each ended by a zero, one more zero, the configuration.

    `name` is that of the program, which tells what it is to do.
    """
    entries = [f"NAME={name}\0", f"SOCKET={socket_path}\0"]
    entries += [
        f"{key}={value}\0"
        for key, value in environment.items()
        if key[:4] == "CNI_" or key == RUN_VARIABLE
    ]
    return "".join(entries).encode("utf-8", "surrogateescape") + b"\0" + config


def decode(content: bytes) -> tuple[dict[str, str], bytes]:
    """The variables, the socket's path among them, and the configuration."""
    variables, _, config = content.partition(b"\0\0")
    entries = variables.decode("utf-8", "surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry), config


def _socket_path(environment: "Mapping[str, str]", config: bytes) -> str:
    """Empty if only a reader of JSON could tell. The router checks it, as it is one."""
    directory = ""
    _, key, rest = config.partition(b'"runDir"')
    if key:
        parts = rest.split(b'"', 2)
        if len(parts) < 3 or parts[0].strip() != b":" or b"\\" in parts[1]:
            return ""
        directory = parts[1].decode("utf-8", "surrogateescape")
    return f"{directory or environment.get(RUN_VARIABLE) or RUN_DIRECTORY}/{SOCKET_NAME}"


def run(name: str) -> "tuple[bytes | None, tuple[bytes, float] | None]":
    """End the process, or return for `plugin.py` the input and the answer, if there is any.

    With the answer goes when was asked for it, in seconds of the wall clock.
    """
    environment = {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in posix.environ.items()
    }
    try:
        config = read_input()
    except OSError:
        return None, None
    begun = time.time()
    answer = ask(name, environment, config)
    if answer is None:
        return config, None
    status, content = whole(answer)
    if status == ELSEWHERE or (status == 404 and PATH.encode() in content):
        return config, None  # the latter from a router that is older than this
    if status == REFUSED:
        said, line_end, content = content.partition(b"\n")
        _write(2, said + line_end)
    elif status != DONE:
        return config, (answer, begun)
    _write(1, content)
    posix._exit(0 if status == DONE else 1)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[posix.write(descriptor, data) :]

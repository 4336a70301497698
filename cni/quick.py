"""ADD and DEL in one question: what the runtime gave goes to the router as it is, and what comes
back is printed.

Most of what a run takes is the interpreter's start, and a quarter of that again was `os`, JSON and
the modules that read a configuration. So this needs nothing but what an interpreter has in it, and
the router does what `plugin.py` would do (`weavepy/daemon/plugin.py`). Whatever is not as always is
left to `plugin.py` after all: other verbs, another IPAM plugin, a refusal, a router that is away.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_DIRECTORY = "/run/weavepy"
RUN_VARIABLE = "WEAVEPY_RUN_DIR"
SOCKET_NAME = "weavepy.sock"
PATH = "/v1/cni/run"
ELSEWHERE = 501
"""The status of an answer that says that the plugin has to see to it itself."""

TIMEOUTS_S = {"ADD": 40.0, "DEL": 20.0}
MAX_CONFIG_BYTES = 4 * 1024 * 1024
MAX_QUICK_BYTES = 64 * 1024
"""Of a configuration that is as always."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024


def read_input() -> bytes:
    """Of standard input, as much as is allowed and one byte more. Raises `OSError`."""
    parts = []
    left = MAX_CONFIG_BYTES + 1
    while left > 0 and (part := posix.read(0, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def ask(environment: "Mapping[str, str]", config: bytes) -> "bytes | None":
    """The answer, head and all; what of it came, if not all did. None: nobody was asked."""
    timeout_s = TIMEOUTS_S.get(environment.get("CNI_COMMAND", ""))
    socket_path = _socket_path(environment, config)
    if timeout_s is None or not socket_path or len(config) > MAX_QUICK_BYTES:
        return None
    import _socket

    deadline = time.monotonic() + timeout_s
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(socket_path)
    except OSError:
        return None
    answer = b""
    try:
        connection.sendall(_request(socket_path, environment, config))
        while len(answer) <= MAX_ANSWER_BYTES and (part := connection.recv(1 << 16)):
            answer += part
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    except OSError:
        pass
    return answer


def success(answer: bytes) -> "bytes | None":
    """What is to be printed, if the answer is whole and says that it was done."""
    head, _, content = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = b"content-length: %d" % len(content)
    done = lines[0][9:12] == b"200" and any(line.lower() == length for line in lines)
    return content if done else None


def is_elsewhere(answer: bytes) -> bool:
    """Whether the router leaves it to the plugin; an older one does not know what was asked."""
    status = answer[9:12]
    return status == b"%d" % ELSEWHERE or (status == b"404" and PATH.encode() in answer)


def encode(socket_path: str, environment: "Mapping[str, str]", config: bytes) -> bytes:
    """A request's content: variables, each ended by a zero, one more zero, the configuration."""
    entries = [f"SOCKET={socket_path}\0"]
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


def _request(socket_path: str, environment: "Mapping[str, str]", config: bytes) -> bytes:
    content = encode(socket_path, environment, config)
    head = f"POST {PATH} HTTP/1.0\r\nHost: weavepy\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _socket_path(environment: "Mapping[str, str]", config: bytes) -> str:
    """Empty if only a reader of JSON could tell. The router checks it, as it is one."""
    _, key, rest = config.partition(b'"runDir"')
    if not key:
        directory = environment.get(RUN_VARIABLE) or RUN_DIRECTORY
        return f"{directory}/{SOCKET_NAME}"
    parts = rest.split(b'"', 2)
    if len(parts) < 3 or parts[0].strip() != b":" or b"\\" in parts[1]:
        return ""
    directory = parts[1].decode("utf-8", "replace") or RUN_DIRECTORY
    return f"{directory}/{SOCKET_NAME}"


def run() -> "tuple[bytes | None, tuple[bytes, float] | None]":
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
    answer = ask(environment, config)
    if answer is None or is_elsewhere(answer):
        return config, None
    content = success(answer)
    if content is None:
        return config, (answer, begun)
    while content:
        content = content[posix.write(1, content) :]
    posix._exit(0)

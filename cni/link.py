"""One question to the router, over its UNIX socket.

`weavepy.client.http` speaks the same HTTP/1.0; this does it on `_socket`, as importing `socket` and
`pathlib` would take longer than the interpreter takes to start.
"""

import errno
import time

from cni import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_BUSY_PAUSE_S = 0.01


class RouterAway(Exception):
    """Nobody took the request: nothing was done."""


class AnswerLost(Exception):
    """The request may have been carried out or not: no answer came."""


class Refused(Exception):
    """The router said no."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def ask(socket_path: str, path: str, body: "dict[str, Any]", timeout_s: float) -> "dict[str, Any]":
    import _socket

    deadline = time.monotonic() + timeout_s
    content = text.encode(body).encode()
    head = (
        f"POST {path} HTTP/1.0\r\nHost: weavepy\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(socket_path)
            break
        except BlockingIOError as error:
            # The listener's queue is full, as when a hundred pods start at once.
            connection.close()
            if time.monotonic() >= deadline:
                raise RouterAway(f"it is too busy to be asked ({socket_path})") from error
            time.sleep(_BUSY_PAUSE_S)
        except OSError as error:
            connection.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise
            raise RouterAway(f"{error.strerror or error} ({socket_path})") from error
    try:
        answer = bytearray()
        connection.sendall(head.encode() + content)
        while len(answer) <= MAX_ANSWER_BYTES:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(256 * 1024)
            if not part:
                break
            answer += part
    except TimeoutError as error:
        raise AnswerLost(f"no answer within {timeout_s:g} s: see the router's log") from error
    except OSError as error:
        raise AnswerLost(f"the connection broke: {error.strerror or error}") from error
    finally:
        connection.close()
    return decode(bytes(answer))


def decode(answer: bytes) -> "dict[str, Any]":
    head, _, content = answer.partition(b"\r\n\r\n")
    status = head[:16].split(b" ")[1:2]
    try:
        decoded = text.decode(content)
    except ValueError as error:
        raise AnswerLost("the router went away in the middle of its answer") from error
    if not isinstance(decoded, dict):
        raise AnswerLost("what listens on the router's socket is not a router")
    if status != [b"200"]:
        code = str(decoded.get("code", ""))
        raise Refused(code, str(decoded.get("message", "the router failed without a word")))
    return decoded

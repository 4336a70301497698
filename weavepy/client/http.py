"""One request to the router over its UNIX socket, with the standard library alone.

HTTP/1.0 on purpose: the answer ends where the connection ends and is never chunked, so the
whole client is "send, read until the end, look". `http.client` would do the same and cost five
times as long to import, and the CNI plugin pays that for every pod.

Every failure is a `WeavepyError` whose text tells an operator what to do.
"""

import errno
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weavepy.base.errors import WeavepyError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A report of a full mesh of 1,000 peers has about 30 MB; more than this is no answer."""

MAX_HEAD_BYTES = 16 * 1024

_CHUNK_BYTES = 256 * 1024
_BUSY_PAUSE_S = 0.02


class RouterNotRunning(WeavepyError):
    """Nobody answers on the socket of this run directory."""

    def __init__(self, socket_path: Path, reason: str = "no socket at") -> None:
        super().__init__(
            f"weavepy is not running here ({reason} {socket_path}): start it with `weavepy launch`"
        )
        self.socket_path = socket_path


class PermissionDenied(WeavepyError):
    """The socket, or a launch, is for root and the socket's group only."""


class RouterSilent(WeavepyError):
    """The router took the request and did not answer in time."""


class BadAnswer(WeavepyError):
    """What came back is not an answer of this API: a dying router or another version."""


class ApiError(WeavepyError):
    """The router refused. `code` is one of the schema's `Failure` codes."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.exit_code = 2 if code == "usage" else 1


class Client:
    """Opens one connection per request; `timeout_s` bounds each request as a whole."""

    def __init__(self, socket_path: Path, timeout_s: float = 10.0) -> None:
        self.socket_path = socket_path
        self.timeout_s = timeout_s

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Ask and return the answer's JSON object; raises one of this module's errors.

        After `RouterSilent` it is unknown whether the request was carried out.
        """
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + allowed_s
        try:
            with self._connect(deadline) as connection:
                _send(connection, _encode_request(method, path, body), deadline)
                return _decode_answer(_receive(connection, deadline))
        except TimeoutError as error:
            raise RouterSilent(
                f"the router did not answer within {allowed_s:g} s (socket {self.socket_path}):"
                " look at its log"
            ) from error

    def stream(self, method: str, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        """Ask, and return the parts of an answer that has no bounds, as they come.

        Only the beginning of the answer has to come within `timeout_s`.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._connect(deadline) as connection:
                _send(connection, _encode_request(method, path, body), deadline)
                answer = b""
                while b"\r\n\r\n" not in answer and len(answer) <= MAX_HEAD_BYTES:
                    connection.settimeout(_remaining_s(deadline))
                    part = connection.recv(_CHUNK_BYTES)
                    if not part:
                        break
                    answer += part
                head, _, content = answer.partition(b"\r\n\r\n")
                if head.split(b" ")[1:2] != [b"200"]:
                    _decode_answer(answer + _receive(connection, deadline))
                    raise BadAnswer("the router's answer makes no sense")
                yield content
                connection.settimeout(None)
                while part := connection.recv(_CHUNK_BYTES):
                    yield part
        except TimeoutError as error:
            raise RouterSilent(
                f"the router did not answer within {self.timeout_s:g} s (socket"
                f" {self.socket_path}): look at its log"
            ) from error
        except ConnectionError:
            return  # it ended in the middle: what came is all there is

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_remaining_s(deadline))
                connection.connect(str(self.socket_path))
            except BlockingIOError:
                # The listener's queue is full, as when a kubelet starts a hundred pods at once.
                connection.close()
                time.sleep(min(_BUSY_PAUSE_S, _remaining_s(deadline)))
            except OSError as error:
                connection.close()
                raise self._connect_error(error) from error
            else:
                return connection

    def _connect_error(self, error: OSError) -> Exception:
        if isinstance(error, TimeoutError):
            return error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return RouterNotRunning(self.socket_path)
        if isinstance(error, ConnectionRefusedError):
            return RouterNotRunning(self.socket_path, "nobody listens on")
        if error.errno in (errno.EACCES, errno.EPERM):
            return PermissionDenied(
                f"not allowed to talk to the router ({self.socket_path}): run this as root, or as"
                " a member of the socket's group"
            )
        return RouterNotRunning(self.socket_path, f"{error.strerror or error}:")


def _encode_request(method: str, path: str, body: dict[str, Any] | None) -> bytes:
    head = f"{method} {path} HTTP/1.0\r\nHost: weavepy\r\nAccept: application/json\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    content = json.dumps(body).encode()
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _send(connection: socket.socket, data: bytes, deadline: float) -> None:
    connection.settimeout(_remaining_s(deadline))
    try:
        connection.sendall(data)
    except ConnectionError:
        pass  # it may have answered before it had read all; if not, `_receive` finds out


def _receive(connection: socket.socket, deadline: float) -> bytes:
    answer = bytearray()
    while True:
        connection.settimeout(_remaining_s(deadline))
        try:
            chunk = connection.recv(_CHUNK_BYTES)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return bytes(answer)
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise BadAnswer(f"the router's answer is longer than {MAX_ANSWER_BYTES} bytes")


def _decode_answer(answer: bytes) -> dict[str, Any]:
    if not answer:
        raise BadAnswer("the router closed the connection without an answer: look at its log")
    head, blank_line, content = answer.partition(b"\r\n\r\n")
    lines = head[:MAX_HEAD_BYTES].decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not blank_line or not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise BadAnswer("what listens on the router's socket does not speak HTTP")
    status = int(rest[:3])
    length = _content_length(lines[1:])
    if length is not None and len(content) < length:
        raise BadAnswer("the router went away in the middle of its answer: look at its log")

    decoded = _decode_object(content)
    if status == 200 and decoded is not None:
        return decoded
    failure = decoded or {}
    code, message = failure.get("code"), failure.get("message")
    if isinstance(code, str) and isinstance(message, str):
        raise ApiError(code, message, status)
    if status == 404:
        raise BadAnswer("the running router does not know this request: is it an older version?")
    raise BadAnswer(f"the router answered with status {status} and no explanation")


def _content_length(headers: list[str]) -> int | None:
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "content-length" and value.strip().isdecimal():
            return int(value)
    return None


def _decode_object(content: bytes) -> dict[str, Any] | None:
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _remaining_s(deadline: float) -> float:
    """Seconds left; raises `TimeoutError` rather than return what `settimeout` reads as "never"."""
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s

"""The Kubernetes API server, as far as the router calls it, over one connection pool.

This is aiohttp and no client library: of those that are maintained none gives a daemon what it
needs of a watch (bookmarks, deletions missed before a 410, the token's file read anew), and each
would be the largest thing in the process (docs/kubernetes.md has the measurements).

What a request did wrong is an exception by what the caller can do about it. The service account's
token is read for each request, as kubelet replaces the file well before it expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from kube.core.kinds import Expired, Kind, Page, Thing
from kube.core.objects import NETWORK_UNAVAILABLE, NODES, Node, decode_config_map
from kube.core.register import Register
from kube.shell.server import ApiServer
from weavepy.base.errors import WeavepyError

REQUEST_TIMEOUT_S = 15.0
WATCH_S = 300
"""After how long the server is to end a watch, so that load spreads over its instances again."""
SILENCE_S = 150.0
"""A watch on which not even a bookmark came for so long is dead; one comes about every minute."""

CONNECTIONS = 8
"""Each watch keeps one."""

MAX_LINE_BYTES = 4 * 1024 * 1024
"""More than etcd takes for one object."""

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class ApiAway(WeavepyError):
    """No connection, no answer, or an answer that says: not now."""


class ApiRefused(WeavepyError):
    """401 or 403: the token, or what its account may do."""


class ApiConflict(WeavepyError):
    """409: the object is another version by now."""


class ApiNotFound(WeavepyError):
    """404."""


class Api:
    """`register`: the namespace and name of the ConfigMap. Call `close` at the end."""

    def __init__(self, server: ApiServer, register: tuple[str, str]) -> None:
        self._server = server
        namespace, name = register
        self._register_path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        self._register_name = f"{namespace}/{name}"
        self._session: aiohttp.ClientSession | None = None

    async def list(self, kind: Kind[Thing], rest: str = "") -> Page[Thing]:
        """One page; `rest` is what the page before said. Raises `Expired` if that took too long.

        A kind without pages comes from the server's cache: cheap for it, perhaps a moment old.
        """
        parameters = {"resourceVersion": "0"}
        if kind.page_size:
            parameters = {"limit": str(kind.page_size)}
        if rest:
            parameters["continue"] = rest
        return kind.decode_page(await self._ask("GET", kind.path, parameters))

    @contextlib.asynccontextmanager
    async def watch(self, kind: Kind[Any], version: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Enter when the server has accepted it; then iterate over lines. Raises `Expired`."""
        parameters = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=REQUEST_TIMEOUT_S, sock_read=SILENCE_S)
        with self._translated():
            async with self._client().get(
                self._server.url + kind.path,
                params=parameters,
                headers=self._headers(),
                timeout=timeout,
            ) as response:
                _check(response.status, await _body_of_failure(response))
                yield self._lines(response)

    async def get_node(self, name: str) -> Node | None:
        """As the database has it at this moment; None if there is none of this name."""
        try:
            return NODES.decode(await self._ask("GET", f"{NODES.path}/{name}"))
        except ApiNotFound:
            return None

    async def say_network_is_up(self, name: str) -> None:
        """Set the node's condition NetworkUnavailable to false."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": NETWORK_UNAVAILABLE,
            "status": "False",
            "reason": "WeavepyIsUp",
            "message": "weavepy gives pods addresses on this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        await self._ask(
            "PATCH",
            f"{NODES.path}/{name}/status",
            body={"status": {"conditions": [condition]}},
            content_type=STRATEGIC_PATCH,
        )

    async def read_register(self) -> Register:
        try:
            return Register.parse(*decode_config_map(await self._ask("GET", self._register_path)))
        except ApiNotFound as error:
            raise self._no_register() from error

    async def write_register(
        self, changes: Mapping[str, str | None], version: str | None = None
    ) -> Register:
        """Swap these keys in and return what it is then. With a `version`, only if it is still
        that one; else raises `ApiConflict`."""
        body: dict[str, Any] = {"data": dict(changes)}
        if version is not None:
            body["metadata"] = {"resourceVersion": version}
        try:
            answer = await self._ask(
                "PATCH", self._register_path, body=body, content_type=MERGE_PATCH
            )
        except ApiNotFound as error:
            raise self._no_register() from error
        return Register.parse(*decode_config_map(answer))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- how -------------------------------------------------------------------------------

    def _no_register(self) -> WeavepyError:
        return ApiNotFound(
            f"there is no ConfigMap {self._register_name}: apply docker/weavepy.yaml, which has it"
        )

    async def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        content_type: str = "",
    ) -> bytes:
        with self._translated():
            async with self._client().request(
                method,
                self._server.url + path,
                params=parameters,
                data=None if body is None else json.dumps(body).encode(),
                headers=self._headers(content_type),
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            ) as response:
                answer = await response.read()
                _check(response.status, answer)
                return answer

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._translated():
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield line
                if len(pending) > MAX_LINE_BYTES:
                    raise ApiAway("the API server sends a line without end")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ApiAway(f"the API server {self._server.url} is away: {reason}") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = True
            if self._server.ca_file is not None and self._server.url.startswith("https:"):
                context = ssl.create_default_context(cafile=self._server.ca_file)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS), trust_env=False
            )
        return self._session

    def _headers(self, content_type: str = "") -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        if self._server.token_file is not None:
            headers["Authorization"] = f"Bearer {self._server.token_file.read_text().strip()}"
        return headers


async def _body_of_failure(response: aiohttp.ClientResponse) -> bytes:
    return b"" if response.status == 200 else await response.read()


def _check(status: int, answer: bytes) -> None:
    if 200 <= status < 300:
        return
    text = answer[:300].decode(errors="replace")
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(answer).get("message", text))
    text = f"the API server says {status}: {text}"
    match status:
        case 401 | 403:
            raise ApiRefused(text)
        case 404:
            raise ApiNotFound(text)
        case 409:
            raise ApiConflict(text)
        case 410:
            raise Expired(text)
        case _:
            raise ApiAway(text)

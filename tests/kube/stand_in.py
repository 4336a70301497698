"""An API server for what a real one cannot be made to do on demand.

It speaks the real HTTP: list, watch in chunks with bookmarks, 410 for versions it has forgotten,
compare-and-swap by resource version, tokens, and the rules of a Role by which everything else is
forbidden. What is asked of it is on record, as (verb, resource). Only what the router uses is here:
nodes, their status, and ConfigMaps.
"""

import asyncio
import json
import socket
from collections.abc import Iterable
from typing import Any

from aiohttp import web

Rules = dict[str, frozenset[str]]
"""Resource ("nodes/status") to verbs."""

EVERYTHING: Rules = {
    "nodes": frozenset({"get", "list", "watch"}),
    "nodes/status": frozenset({"patch"}),
    "configmaps": frozenset({"get", "patch"}),
}


class StandIn:
    def __init__(self, rules: Rules = EVERYTHING, token: str = "") -> None:
        self.rules = rules
        self.token = token
        self.asked: list[tuple[str, str]] = []
        self.nodes: dict[str, dict[str, Any]] = {}
        self.register: dict[str, Any] | None = None
        self.url = ""
        self.failing = 0
        """If not 0, the status with which everything is answered."""
        self._version = 100
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self._forgotten = 0
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.make_register({})

    # --- life ------------------------------------------------------------------------------

    async def start(self, listener: socket.socket | None = None) -> None:
        """On a socket that listens already, such as one of another network namespace."""
        app = web.Application()
        app.router.add_get("/api/v1/nodes", self._nodes)
        app.router.add_get("/api/v1/nodes/{name}", self._node)
        app.router.add_patch("/api/v1/nodes/{name}/status", self._node_status)
        app.router.add_get("/api/v1/namespaces/{namespace}/configmaps/{name}", self._read)
        app.router.add_patch("/api/v1/namespaces/{namespace}/configmaps/{name}", self._write)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        if listener is None:
            listener = socket.create_server(("127.0.0.1", self._port))
        host, self._port = listener.getsockname()[:2]
        await web.SockSite(self._runner, listener).start()
        self.url = f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def stop(self) -> None:
        """Whoever watches loses the connection; `start` again takes the same port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- what is in it ---------------------------------------------------------------------

    async def put_node(self, name: str, uid: str, *addresses: str) -> None:
        kind = "MODIFIED" if name in self.nodes else "ADDED"
        self.nodes[name] = {
            "metadata": {"name": name, "uid": uid},
            "status": {
                "addresses": [
                    *({"type": "InternalIP", "address": address} for address in addresses),
                    {"type": "Hostname", "address": name},
                ],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        await self._happened(kind, self.nodes[name])

    async def delete_node(self, name: str) -> None:
        await self._happened("DELETED", self.nodes.pop(name))

    async def bookmark(self) -> None:
        await self._happened("BOOKMARK", {"metadata": {}})

    def forget(self) -> None:
        """As etcd's compaction: who asks for what was before gets 410."""
        self._events.clear()
        self._forgotten = self._version

    def make_register(self, data: dict[str, str] | None) -> None:
        self._version += 1
        meta = {"resourceVersion": str(self._version)}
        self.register = None if data is None else {"metadata": meta, "data": dict(data)}

    def verbs(self) -> set[tuple[str, str]]:
        return set(self.asked)

    # --- requests --------------------------------------------------------------------------

    async def _nodes(self, request: web.Request) -> web.StreamResponse:
        watches = request.query.get("watch") == "1"
        self._check(request, "watch" if watches else "list", "nodes")
        if watches:
            return await self._watch(request)
        meta = {"resourceVersion": str(self._version)}
        return web.json_response({"metadata": meta, "items": list(self.nodes.values())})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            if seen < self._forgotten:
                gone = {"code": 410, "message": "too old resource version"}
                await response.write(_line("ERROR", gone))
                return response
            for version, kind, found in [event for event in self._events if event[0] > seen]:
                await response.write(_line(kind, found))
                seen = version
            async with self._changed:
                await self._changed.wait()

    async def _node(self, request: web.Request) -> web.Response:
        self._check(request, "get", "nodes")
        found = self.nodes.get(request.match_info["name"])
        return _not_found() if found is None else web.json_response(found)

    async def _node_status(self, request: web.Request) -> web.Response:
        self._check(request, "patch", "nodes/status")
        found = self.nodes.get(request.match_info["name"])
        if found is None:
            return _not_found()
        patched = await request.json()
        kept = found["status"]["conditions"]
        for one in patched["status"]["conditions"]:
            kept[:] = [each for each in kept if each["type"] != one["type"]] + [one]
        await self._happened("MODIFIED", found)
        return web.json_response(found)

    async def _read(self, request: web.Request) -> web.Response:
        self._check(request, "get", "configmaps")
        return _not_found() if self.register is None else web.json_response(self.register)

    async def _write(self, request: web.Request) -> web.Response:
        self._check(request, "patch", "configmaps")
        if self.register is None:
            return _not_found()
        patched = await request.json()
        wanted = patched.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, self.register["metadata"]["resourceVersion"]):
            return _failure(409, "the object has been modified")
        data = {**self.register["data"], **patched["data"]}
        self.make_register({key: value for key, value in data.items() if value is not None})
        return web.json_response(self.register)

    # ---------------------------------------------------------------------------------------

    def _check(self, request: web.Request, verb: str, resource: str) -> None:
        self.asked.append((verb, resource))
        if self.failing:
            raise _raised(self.failing, "not now")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise _raised(401, "Unauthorized")
        if verb not in self.rules.get(resource, frozenset()):
            raise _raised(403, f"cannot {verb} resource {resource}")

    async def _happened(self, kind: str, found: dict[str, Any]) -> None:
        self._version += 1
        copy = json.loads(json.dumps(found))
        copy["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, kind, copy))
        async with self._changed:
            self._changed.notify_all()


def rules_of(roles: Iterable[dict[str, Any]]) -> Rules:
    """Read the rules of Role and ClusterRole objects; all of them are of the core group."""
    found: dict[str, set[str]] = {}
    for role in roles:
        for rule in role["rules"]:
            assert rule["apiGroups"] == [""]
            for resource in rule["resources"]:
                found.setdefault(resource, set()).update(rule["verbs"])
    return {resource: frozenset(verbs) for resource, verbs in found.items()}


def _line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def _failure(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message}, status=status)


def _not_found() -> web.Response:
    return _failure(404, "not found")


def _raised(status: int, message: str) -> web.HTTPException:
    class Failure(web.HTTPException):
        status_code = status

    return Failure(text=json.dumps({"code": status, "message": message}))

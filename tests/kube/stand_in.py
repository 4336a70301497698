"""An API server for what a real one cannot be made to do on demand.

It speaks the real HTTP: list, watch in chunks with bookmarks, 410 for versions it has forgotten,
compare-and-swap by resource version, tokens, and the rules of a Role by which everything else is
forbidden. What is asked of it is on record, as (verb, resource). Only what the router uses is here:
nodes, their status, ConfigMaps, and what network policies are about.
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
    "pods": frozenset({"list", "watch"}),
    "namespaces": frozenset({"list", "watch"}),
    "networkpolicies": frozenset({"list", "watch"}),
}
KINDS = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
}
Object = dict[str, Any]


class StandIn:
    def __init__(self, rules: Rules = EVERYTHING, token: str = "") -> None:
        self.rules = rules
        self.token = token
        self.asked: list[tuple[str, str]] = []
        self.objects: dict[str, dict[str, Object]] = {resource: {} for resource in KINDS}
        """By resource and "NAMESPACE/NAME", or name."""
        self.nodes = self.objects["nodes"]
        self.register: dict[str, Any] | None = None
        self.url = ""
        self.failing = 0
        """If not 0, the status with which everything is answered."""
        self._version = 100
        self._events: list[tuple[int, str, str, Object]] = []
        """Version, resource, type and object."""
        self._lists: dict[str, list[Object]] = {}
        """What those get who go on with a list, by its version."""
        self.pages = 0
        """How many of lists were given that were not the first."""
        self._changed = asyncio.Condition()
        self._forgotten = 0
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.make_register({})

    # --- life ------------------------------------------------------------------------------

    async def start(self, listener: socket.socket | None = None) -> None:
        """On a socket that listens already, such as one of another network namespace."""
        app = web.Application()
        for resource, path in KINDS.items():
            app.router.add_get(path, self._list_or_watch, name=resource)
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
        node: Object = {
            "metadata": {"name": name, "uid": uid},
            "status": {
                "addresses": [
                    *({"type": "InternalIP", "address": address} for address in addresses),
                    {"type": "Hostname", "address": name},
                ],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        await self.put("nodes", node)

    async def delete_node(self, name: str) -> None:
        await self.delete("nodes", name)

    async def put(self, resource: str, *found: Object) -> None:
        """New objects, or in place of those of their names."""
        for one in found:
            known = self.objects[resource]
            kind = "MODIFIED" if key_of(one) in known else "ADDED"
            known[key_of(one)] = one
            await self._happened(resource, kind, one)

    async def delete(self, resource: str, key: str) -> None:
        await self._happened(resource, "DELETED", self.objects[resource].pop(key))

    async def bookmark(self) -> None:
        await self._happened("nodes", "BOOKMARK", {"metadata": {}})

    def forget(self) -> None:
        """As etcd's compaction: who asks for what was before gets 410."""
        self._events.clear()
        self._lists.clear()
        self._forgotten = self._version

    def make_register(self, data: dict[str, str] | None) -> None:
        self._version += 1
        meta = {"resourceVersion": str(self._version)}
        self.register = None if data is None else {"metadata": meta, "data": dict(data)}

    def verbs(self) -> set[tuple[str, str]]:
        return set(self.asked)

    # --- requests --------------------------------------------------------------------------

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info.route.name
        assert resource is not None
        watches = request.query.get("watch") == "1"
        self._check(request, "watch" if watches else "list", resource)
        return await self._watch(request, resource) if watches else self._page(request, resource)

    def _page(self, request: web.Request, resource: str) -> web.Response:
        version, _, first = request.query.get("continue", "").partition("/")
        if version and version not in self._lists:
            return _failure(410, "the continue parameter is too old")
        self.pages += bool(version)
        found = self._lists[version] if version else [*self.objects[resource].values()]
        version, start = version or str(self._version), int(first or 0)
        end = start + int(request.query.get("limit", 0) or len(found))
        meta = {"resourceVersion": version}
        if end < len(found):
            self._lists[version] = found
            meta["continue"] = f"{version}/{end}"
        return web.json_response({"metadata": meta, "items": found[start:end]})

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            if seen < self._forgotten:
                gone = {"code": 410, "message": "too old resource version"}
                await response.write(_line("ERROR", gone))
                return response
            for version, of, kind, found in [event for event in self._events if event[0] > seen]:
                if of == resource:
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
        await self._happened("nodes", "MODIFIED", found)
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

    async def _happened(self, resource: str, kind: str, found: Object) -> None:
        self._version += 1
        copy = json.loads(json.dumps(found))
        copy["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, resource, kind, copy))
        async with self._changed:
            self._changed.notify_all()


def rules_of(roles: Iterable[dict[str, Any]]) -> Rules:
    """Read the rules of Role and ClusterRole objects."""
    found: dict[str, set[str]] = {}
    for role in roles:
        for rule in role["rules"]:
            for resource in rule["resources"]:
                group = "networking.k8s.io" if resource == "networkpolicies" else ""
                assert rule["apiGroups"] == [group]
                found.setdefault(resource, set()).update(rule["verbs"])
    return {resource: frozenset(verbs) for resource, verbs in found.items()}


def key_of(found: Object) -> str:
    return "/".join(filter(None, (found["metadata"].get("namespace"), found["metadata"]["name"])))


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

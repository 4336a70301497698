"""The CNI plugin's work, done by the router: environment and configuration in, what to print out.

The plugin of a runtime lives for milliseconds. So it only passes on what it was given
(`cni/launcher.c`, `cni/quick.py`), and what `cni/plugin.py` would make of that is made here, by the
same functions. Another IPAM plugin is the runtime's to run, not the router's: with one, the plugin
sees to it itself.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from cni import call as calls
from cni import quick
from cni.errors import CniError
from cni.plugin import Plugin, failure, failure_line, printed, refusal
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema

Handler = Callable[[web.Request], Awaitable[web.Response]]


REQUESTS: dict[str, type[schema.Struct]] = {
    "ADD": schema.CniAddRequest,
    "DEL": schema.CniDelRequest,
    "CHECK": schema.CniCheckRequest,
    "GC": schema.CniGcRequest,
    "STATUS": schema.CniStatusRequest,
}
"""Every verb that is put to the router."""


class Pods(Protocol):
    async def cni_add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer: ...
    async def cni_del(self, request: schema.CniDelRequest) -> schema.CniDelAnswer: ...
    async def cni_check(self, request: schema.CniCheckRequest) -> schema.CniCheckAnswer: ...
    async def cni_gc(self, request: schema.CniGcRequest) -> schema.CniGcAnswer: ...
    async def cni_status(self, request: schema.CniStatusRequest) -> schema.CniStatusAnswer: ...


def handler(pods: Pods, code_of: Callable[[WeavepyError], str]) -> Handler:
    """`code_of` an error is that of the `Failure` which other routes answer."""

    async def handle(request: web.Request) -> web.Response:
        status, body = await execute(
            pods, code_of, await request.read(), lambda: is_unheard(request)
        )
        return web.Response(status=status, body=body)

    return handle


async def execute(
    pods: Pods,
    code_of: Callable[[WeavepyError], str],
    content: bytes,
    is_unheard: Callable[[], bool],
) -> tuple[int, bytes]:
    """Do what the plugin would; return the status and the content of the answer."""
    environment, data = quick.decode(content)
    call = None
    try:
        calls.check_environment(environment)
        call = calls.understand(environment, data)
        calls.check(call)
        plugin = Plugin(call, environment.get("NAME", ""))
        if call.verb == "VERSION":
            return quick.DONE, printed(plugin.versions())
        if _is_elsewhere(plugin):
            return quick.ELSEWHERE, b""
        wanted = _converted(plugin.question(), REQUESTS[call.verb])
        answer = await getattr(pods, f"cni_{call.verb.lower()}")(wanted)
        if isinstance(wanted, schema.CniAddRequest) and is_unheard():
            await pods.cni_del(as_del(wanted))
        return quick.DONE, printed(plugin.outcome(msgspec.to_builtins(answer)))
    except WeavepyError as error:
        refused = refusal(code_of(error), str(error))
    except CniError as error:
        refused = error
    line = failure_line(environment, refused).encode("utf-8", "backslashreplace")
    return quick.REFUSED, line + failure(call, refused)


def is_unheard(request: web.Request) -> bool:
    """Whether who asked has gone. Nobody learnt of what was done then, or would undo it."""
    return request.transport is None or request.transport.is_closing()


def as_del(wanted: schema.CniAddRequest) -> schema.CniDelRequest:
    return schema.CniDelRequest(
        network=wanted.network,
        container=wanted.container,
        interface=wanted.interface,
        kind=wanted.kind,
    )


def _is_elsewhere(plugin: Plugin) -> bool:
    """Whether the plugin has to see to it itself, or was mistaken in whom it asked."""
    return plugin.socket != plugin.call.environment.get("SOCKET") or bool(plugin.other_ipam())


def _converted(question: dict[str, Any], kind: type[schema.Struct]) -> schema.Struct:
    try:
        return msgspec.convert(question, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request is malformed: {error}") from error

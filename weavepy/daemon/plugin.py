"""The CNI plugin's work, done by the router: environment and configuration in, what to print out.

The plugin of a runtime lives for milliseconds, most of which an interpreter takes to start. So for
ADD and DEL it only passes on what it was given (`cni/quick.py`), and what `cni/plugin.py` would
make of that is made here, by the same functions. What is refused, it hears as from the other
routes; what is not quite as always it has to see to by itself.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web

from cni import call as calls
from cni import quick, result, text
from cni.call import Call
from cni.errors import CniError
from cni.plugin import Plugin
from weavepy.client import schema

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Pods(Protocol):
    async def cni_add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer: ...
    async def cni_del(self, request: schema.CniDelRequest) -> schema.CniDelAnswer: ...


def handler(pods: Pods) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        asked = understood(await request.read())
        if asked is None:
            return web.Response(status=quick.ELSEWHERE)
        call, wanted = asked
        if isinstance(wanted, schema.CniDelRequest):
            await pods.cni_del(wanted)
            return web.Response()
        answer = await pods.cni_add(wanted)
        if is_unheard(request):
            await pods.cni_del(as_del(wanted))
        printed = text.encode(result.of_interface(call, msgspec.to_builtins(answer)))
        return web.Response(body=printed.encode() + b"\n")

    return handle


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


def understood(content: bytes) -> tuple[Call, schema.CniAddRequest | schema.CniDelRequest] | None:
    """What the plugin would ask in its own process; None for what it has to see to there."""
    environment, config = quick.decode(content)
    try:
        calls.check_environment(environment)
        call = Call(environment, calls.decode_config(config))
        calls.check(call)
        plugin = Plugin(call)
        if plugin.socket != environment.get("SOCKET") or plugin.other_ipam():
            return None
        match call.verb:
            case "ADD":
                wanted = plugin.attachment() | plugin.wishes()
                return call, msgspec.convert(wanted, schema.CniAddRequest)
            case "DEL":
                return call, msgspec.convert(plugin.attachment(), schema.CniDelRequest)
    except (CniError, msgspec.ValidationError):
        pass
    return None

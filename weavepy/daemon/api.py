"""The control API: HTTP over a UNIX socket, each route one method of `Service`.

A route decodes its request with the schema, awaits the service, and encodes the answer. What
went wrong becomes a `Failure` whose status says whose fault it was; only our own bugs are logged
with a traceback.
"""

import asyncio
import contextlib
import grp
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web

from cni import quick
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon import plugin
from weavepy.daemon.plugin import as_del, is_unheard

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256 * 1024
MAX_OBJECTS_BYTES = 32 * 1024 * 1024
"""Of network policies and what goes with them, which are applied all together or not at all: as
many as may be known, at 1.6 kB each."""

STREAM_POLL_S = 0.5
"""How often a stream that has nothing to say looks whether anybody still listens."""


class NotFound(WeavepyError):
    """No such peer, container, address or attachment."""


class Conflict(WeavepyError):
    """What was asked contradicts what is: an address in use, another secret."""


class NotReady(WeavepyError):
    """It may work later: no ring yet, the router is stopping."""


class TimedOut(WeavepyError):
    """It was waited for in vain; the text says for what."""


FAILURES: tuple[tuple[type[WeavepyError], str, int], ...] = (
    (UsageError, "usage", 400),
    (NotFound, "not-found", 404),
    (Conflict, "conflict", 409),
    (NotReady, "not-ready", 503),
    (TimedOut, "timeout", 504),
    (WeavepyError, "failed", 500),
)


class Parts(Protocol):
    """An answer in parts."""

    async def next(self, timeout_s: float) -> bytes | None:
        """The next part, b"" if none came within this time, None at the end."""
        ...


Streaming = AbstractAsyncContextManager[Parts]


class Service(Protocol):
    """What the daemon does for those who ask."""

    async def status(self) -> schema.Status: ...
    async def report(self) -> schema.Report: ...
    async def connect(self, request: schema.ConnectRequest) -> schema.TargetsAnswer: ...
    async def forget(self, request: schema.ForgetRequest) -> schema.TargetsAnswer: ...
    async def attach(self, request: schema.AttachRequest) -> schema.Attachment: ...
    async def detach(self, request: schema.DetachRequest) -> schema.DetachAnswer: ...
    async def attachments(self) -> schema.AttachmentList: ...
    async def expose(self, request: schema.ExposeRequest) -> schema.ExposeAnswer: ...
    async def hide(self, request: schema.HideRequest) -> schema.ExposeAnswer: ...
    async def ipam(self) -> schema.IpamStatus: ...
    async def allocate(self, request: schema.AllocateRequest) -> schema.AddressAnswer: ...
    async def claim(self, request: schema.ClaimRequest) -> schema.AddressAnswer: ...
    async def release(self, request: schema.ReleaseRequest) -> schema.ReleaseAnswer: ...
    async def lookup(self, request: schema.LookupRequest) -> schema.LookupAnswer: ...
    async def prime(self, request: schema.PrimeRequest) -> schema.IpamStatus: ...
    async def addresses(self) -> schema.AddressList: ...
    async def history(self) -> schema.HistoryAnswer: ...
    async def check(self) -> schema.CheckAnswer: ...
    async def rmpeer(self, request: schema.RmpeerRequest) -> schema.RmpeerAnswer: ...
    async def cni_add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer: ...
    async def cni_del(self, request: schema.CniDelRequest) -> schema.CniDelAnswer: ...
    async def cni_check(self, request: schema.CniCheckRequest) -> schema.CniCheckAnswer: ...
    async def cni_gc(self, request: schema.CniGcRequest) -> schema.CniGcAnswer: ...
    async def cni_status(self, request: schema.CniStatusRequest) -> schema.CniStatusAnswer: ...
    def capture(self, request: schema.CaptureRequest) -> Streaming: ...
    async def bench(self, request: schema.BenchRequest) -> schema.BenchAnswer: ...
    async def policy_status(self) -> schema.PolicyStatus: ...
    async def policy_apply(self, request: schema.PolicyObjects) -> schema.PolicyAnswer: ...
    async def policy_delete(self, request: schema.PolicyObjects) -> schema.PolicyAnswer: ...
    async def policy_explain(self, request: schema.ExplainRequest) -> schema.ExplainAnswer: ...
    async def policy_matrix(self, request: schema.MatrixRequest) -> schema.MatrixAnswer: ...
    async def policy_lint(self, request: schema.LintRequest) -> schema.LintAnswer: ...
    def policy_trace(self, request: schema.TraceRequest) -> Streaming: ...
    async def stop(self, request: schema.StopRequest) -> schema.Done: ...
    async def reset(self, request: schema.ResetRequest) -> schema.Done: ...


def application(service: Service) -> web.Application:
    app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[_failures])
    app.router.add_get("/v1/status", _get(service.status))
    app.router.add_get("/v1/report", _get(service.report))
    app.router.add_get("/v1/attachments", _get(service.attachments))
    app.router.add_get("/v1/ipam", _get(service.ipam))
    app.router.add_get("/v1/ipam/addresses", _get(service.addresses))
    app.router.add_get("/v1/ipam/history", _get(service.history))
    app.router.add_get("/v1/ipam/check", _get(service.check))
    app.router.add_get("/v1/policy", _get(service.policy_status))
    posts: tuple[tuple[str, type[Any], Callable[[Any], Awaitable[schema.Struct]]], ...] = (
        ("/v1/connect", schema.ConnectRequest, service.connect),
        ("/v1/forget", schema.ForgetRequest, service.forget),
        ("/v1/attach", schema.AttachRequest, service.attach),
        ("/v1/detach", schema.DetachRequest, service.detach),
        ("/v1/expose", schema.ExposeRequest, service.expose),
        ("/v1/hide", schema.HideRequest, service.hide),
        ("/v1/ipam/allocate", schema.AllocateRequest, service.allocate),
        ("/v1/ipam/claim", schema.ClaimRequest, service.claim),
        ("/v1/ipam/release", schema.ReleaseRequest, service.release),
        ("/v1/ipam/lookup", schema.LookupRequest, service.lookup),
        ("/v1/ipam/prime", schema.PrimeRequest, service.prime),
        ("/v1/ipam/rmpeer", schema.RmpeerRequest, service.rmpeer),
        ("/v1/cni/del", schema.CniDelRequest, service.cni_del),
        ("/v1/cni/check", schema.CniCheckRequest, service.cni_check),
        ("/v1/cni/gc", schema.CniGcRequest, service.cni_gc),
        ("/v1/cni/status", schema.CniStatusRequest, service.cni_status),
        ("/v1/bench", schema.BenchRequest, service.bench),
        ("/v1/policy/explain", schema.ExplainRequest, service.policy_explain),
        ("/v1/policy/matrix", schema.MatrixRequest, service.policy_matrix),
        ("/v1/policy/lint", schema.LintRequest, service.policy_lint),
        ("/v1/stop", schema.StopRequest, service.stop),
        ("/v1/reset", schema.ResetRequest, service.reset),
    )
    for path, kind, method in posts:
        app.router.add_post(path, _post(kind, method))
    for path, method in (
        ("/v1/policy/apply", service.policy_apply),
        ("/v1/policy/delete", service.policy_delete),
    ):
        app.router.add_post(path, _large(_post(schema.PolicyObjects, method)))
    app.router.add_post("/v1/cni/add", _cni_add(service))
    streams: tuple[tuple[str, type[Any], str, Callable[[Any], Streaming]], ...] = (
        ("/v1/capture", schema.CaptureRequest, "application/x-pcapng", service.capture),
        ("/v1/policy/trace", schema.TraceRequest, "application/x-ndjson", service.policy_trace),
    )
    for path, kind, content_type, streaming in streams:
        app.router.add_post(path, _stream(kind, content_type, streaming))
    app.router.add_post(
        quick.PATH, plugin.handler(service, lambda error: failure_of(error)[0].code)
    )
    return app


def waiting_application(why: Callable[[], str]) -> web.Application:
    """Whatever is asked, the answer is why nothing can be done yet."""

    async def refuse(request: web.Request) -> web.Response:
        raise NotReady(why())

    app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[_failures])
    app.router.add_route("*", "/{path:.*}", refuse)
    return app


async def serve(app: web.Application, path: Path) -> web.AppRunner:
    """Listen on the socket at `path`: for root, and for a group `weavepy` where there is one."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    before = os.umask(0o117)
    try:
        await web.UnixSite(runner, str(path)).start()
    finally:
        os.umask(before)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam("weavepy").gr_gid)
    return runner


def _get(method: Callable[[], Awaitable[schema.Struct]]) -> Callable[..., Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return _json(await method())

    return handle


def _post(
    kind: type[Any], method: Callable[[Any], Awaitable[schema.Struct]]
) -> Callable[..., Awaitable[web.Response]]:
    decoder = msgspec.json.Decoder(kind)

    async def handle(request: web.Request) -> web.Response:
        try:
            wanted = decoder.decode(await request.read() or b"{}")
        except msgspec.MsgspecError as error:
            raise UsageError(f"the request is malformed: {error}") from error
        return _json(await method(wanted))

    return handle


def _large(
    handle: Callable[..., Awaitable[web.Response]],
) -> Callable[..., Awaitable[web.Response]]:
    """The same, for requests of up to `MAX_OBJECTS_BYTES`."""

    async def with_more_room(request: web.Request) -> web.Response:
        return await handle(request.clone(client_max_size=MAX_OBJECTS_BYTES))

    return with_more_room


def _cni_add(service: Service) -> Callable[..., Awaitable[web.Response]]:
    add = _post(schema.CniAddRequest, service.cni_add)

    async def handle(request: web.Request) -> web.Response:
        answer = await add(request)
        if is_unheard(request):
            wanted = msgspec.json.decode(await request.read(), type=schema.CniAddRequest)
            await service.cni_del(as_del(wanted))
        return answer

    return handle


def _stream(
    kind: type[Any], content_type: str, streaming: Callable[[Any], Streaming]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    decoder = msgspec.json.Decoder(kind)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            wanted = decoder.decode(await request.read() or b"{}")
        except msgspec.MsgspecError as error:
            raise UsageError(f"the request is malformed: {error}") from error
        async with streaming(wanted) as parts:
            response = web.StreamResponse(headers={"Content-Type": content_type})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                # Who is not there any more is noticed even if nothing comes.
                while request.transport is not None and not request.transport.is_closing():
                    part = await parts.next(STREAM_POLL_S)
                    if part is None:
                        break
                    if part:
                        await response.write(part)
            return response

    return handle


def failure_of(error: WeavepyError) -> tuple[schema.Failure, int]:
    """What is answered then, and with which status."""
    code, status = next((c, s) for kind, c, s in FAILURES if isinstance(error, kind))
    return schema.Failure(code=code, message=str(error)), status


@web.middleware
async def _failures(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except WeavepyError as error:
        return _json(*failure_of(error))
    except web.HTTPRequestEntityTooLarge as error:
        text = f"{request.path}: that is too much for one request; ask for less at once"
        return _json(schema.Failure(code="usage", message=text), error.status)
    except web.HTTPException as error:
        failure = schema.Failure(code="usage", message=f"{request.path}: {error.reason}")
        return _json(failure, error.status)
    except asyncio.CancelledError:
        raise
    except Exception:  # the last stand: a bug of ours must not end the router
        log.exception("%s %s failed", request.method, request.path)
        failure = schema.Failure(code="internal", message="a bug: see the router's log")
        return _json(failure, 500)


def _json(answer: schema.Struct, status: int = 200) -> web.Response:
    body = msgspec.json.encode(answer)
    return web.Response(body=body, status=status, content_type="application/json")

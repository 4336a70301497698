"""The read-only listener: `/metrics`, `/healthz`, `/readyz`. It shows, it never changes anything.

`/healthz` says that the process runs its loop. `/readyz` says that containers can be attached:
the datapath is there and, unless addresses are managed elsewhere, the ring is, or nothing
hinders making it on the first request.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from weavepy.base.errors import WeavepyError
from weavepy.client import schema


def not_ready(status: schema.Status) -> str:
    """Return why containers cannot be attached, or nothing."""
    if not status.datapath.running:
        return "the datapath is not running"
    if status.ipam.state == "waiting":
        return f"no addresses yet: {status.ipam.reason}"
    return ""


async def serve(
    render_metrics: Callable[[], Awaitable[bytes]],
    why_not_ready: Callable[[], Awaitable[str]],
    host: str,
    port: int,
) -> web.AppRunner:
    """Raises `WeavepyError` if the address is taken."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=await render_metrics(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        why = await why_not_ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise WeavepyError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --http-addr, or"
            " none with --http-addr off"
        ) from error
    return runner

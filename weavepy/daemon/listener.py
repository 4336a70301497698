"""The read-only listener: `/metrics`, `/healthz`, `/readyz`. It shows, it never changes anything.

`/healthz` says that the process runs its loop. `/readyz` says that containers can be attached:
the datapath is there and, unless addresses are managed elsewhere, the ring is, or nothing
hinders making it on the first request.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from weavepy.client import schema

StatusOf = Callable[[], Awaitable[schema.Status]]
Render = Callable[[schema.Status], bytes]


def not_ready(status: schema.Status) -> str:
    """Return why containers cannot be attached, or nothing."""
    if not status.datapath.running:
        return "the datapath is not running"
    if status.ipam.state == "waiting":
        return f"no addresses yet: {status.ipam.reason}"
    return ""


async def serve(status: StatusOf, render: Render, host: str, port: int) -> web.AppRunner:
    """Raises `OSError` if the address is taken."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=render(await status()),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        why = not_ready(await status())
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner

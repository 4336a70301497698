"""Control connections: bytes between the kernel's TCP and the mesh core.

The shell accepts, dials, reads, writes and closes, and tells the core about each. It keeps no
protocol state; which connection is kept and what its bytes mean is the core's business.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Protocol, cast

from router.mesh.effects import CloseLink, Dial, LinkId, SendBytes

log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 5.0

MAX_UNSENT_BYTES = 1 << 20
"""Bytes that a link may hold unsent before the core is told to wait; four times a frame."""

MAX_STUCK_BYTES = 8 << 20
"""A peer that does not read at all is cut off here, whatever the core still had to say."""


class LinkEvents(Protocol):
    """Where the shell reports; the daemon forwards to `Mesh` with the time."""

    def new_link_id(self) -> LinkId: ...
    def link_accepted(self, link: LinkId, host: str, port: int) -> None: ...
    def link_opened(self, link: LinkId, host: str, port: int) -> None: ...
    def dial_failed(self, link: LinkId, reason: str) -> None: ...
    def bytes_received(self, link: LinkId, data: bytes) -> None: ...
    def link_closed(self, link: LinkId, reason: str) -> None: ...
    def link_paused(self, link: LinkId) -> None: ...
    def link_resumed(self, link: LinkId) -> None: ...


class TcpShell:
    """Owns the listening sockets, every open transport and every dial under way."""

    def __init__(self, events: LinkEvents) -> None:
        self._events = events
        self._servers: list[asyncio.Server] = []
        self._links: dict[LinkId, _Link] = {}
        self._dials: dict[LinkId, asyncio.Task[None]] = {}

    async def listen(self, port: int) -> None:
        """Listen on all addresses of both families; raises `OSError` if the port is taken."""
        loop = asyncio.get_running_loop()
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                listener = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                continue  # a kernel without IPv6
            with contextlib.ExitStack() as undo:
                undo.callback(listener.close)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    try:
                        listener.bind((host, port))
                    except OSError as error:
                        log.info("no IPv6 for control connections: %s", error)
                        continue
                else:
                    listener.bind((host, port))
                self._servers.append(
                    await loop.create_server(self._accept, sock=listener, backlog=64)
                )
                undo.pop_all()

    def dial(self, effect: Dial) -> None:
        self._dials[effect.link] = asyncio.create_task(
            self._dial(effect), name=f"dial {effect.host}:{effect.port}"
        )

    def send(self, effect: SendBytes) -> None:
        link = self._links.get(effect.link)
        if link is not None:
            link.send(effect.data)

    def close(self, effect: CloseLink) -> None:
        """Close after what was sent has gone out; the core hears no more of this link."""
        dial = self._dials.pop(effect.link, None)
        if dial is not None:
            dial.cancel()
        link = self._links.pop(effect.link, None)
        if link is not None:
            link.close()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for dial in list(self._dials.values()):
            dial.cancel()
        for link in list(self._links.values()):
            link.close()
        self._links.clear()
        await asyncio.sleep(0)

    def abort(self) -> None:
        """Cut everything off at once."""
        for link in self._links.values():
            link.abort()

    def _accept(self) -> asyncio.Protocol:
        return _Link(self, None)

    async def _dial(self, effect: Dial) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await loop.create_connection(
                    lambda: _Link(self, effect.link), effect.host, effect.port
                )
        except TimeoutError:
            self._dial_failed(effect.link, f"no answer within {DIAL_TIMEOUT_S:g} s")
        except socket.gaierror as error:
            self._dial_failed(effect.link, f"cannot resolve {effect.host}: {error.strerror}")
        except OSError as error:
            self._dial_failed(effect.link, (error.strerror or str(error)).lower())
        finally:
            self._dials.pop(effect.link, None)

    def _dial_failed(self, link: LinkId, reason: str) -> None:
        self._dials.pop(link, None)
        self._events.dial_failed(link, reason)

    def connected(self, link: "_Link", host: str, port: int) -> None:
        if link.id is None:
            link.id = self._events.new_link_id()
            self._links[link.id] = link
            self._events.link_accepted(link.id, host, port)
        elif link.id in self._dials:
            self._links[link.id] = link
            self._events.link_opened(link.id, host, port)
        else:
            link.abort()  # closed by the core while it was being dialled

    def lost(self, link: "_Link", reason: str) -> None:
        if link.id is not None and self._links.pop(link.id, None) is not None:
            self._events.link_closed(link.id, reason)

    def received(self, link: "_Link", data: bytes) -> None:
        if link.id in self._links:
            assert link.id is not None
            self._events.bytes_received(link.id, data)

    def paused(self, link: "_Link") -> None:
        if link.id in self._links:
            assert link.id is not None
            self._events.link_paused(link.id)

    def resumed(self, link: "_Link") -> None:
        if link.id in self._links:
            assert link.id is not None
            self._events.link_resumed(link.id)


class _Link(asyncio.Protocol):
    """One TCP connection, either way round."""

    def __init__(self, shell: TcpShell, link: LinkId | None) -> None:
        self.id = link
        self._shell = shell
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not a subclass of asyncio's, but it has all of its methods.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        host, port = self._transport.get_extra_info("peername")[:2]
        self._shell.connected(self, host, port)

    def data_received(self, data: bytes) -> None:
        self._shell.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = "closed by the other side" if exc is None else str(exc) or type(exc).__name__
        self._shell.lost(self, reason)

    def pause_writing(self) -> None:
        self._shell.paused(self)

    def resume_writing(self) -> None:
        self._shell.resumed(self)

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_STUCK_BYTES:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

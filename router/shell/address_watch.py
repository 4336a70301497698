"""Tells when the addresses of this host may have changed; what they are, `underlay` tells.

The kernel multicasts each change to whoever listens. Nothing of that is read but that there was
one: changes come in bursts, a burst may overflow the socket, and a look at all addresses costs
little. Should a change go unnoticed all the same, a look now and then finds it.
"""

import asyncio
import errno
import socket

LOOK_INTERVAL_S = 60.0

SETTLE_S = 0.3
"""From the first word of a burst to the look."""

_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
_READ_BYTES = 1 << 16


class AddressWatch:
    """Listens, from when it is made, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

    async def changed(self) -> None:
        """Return when it is time to look."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._socket.fileno(), told.set)
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await told.wait()
        except TimeoutError:
            return
        finally:
            # Before the pause: a reader of what is not read is called over and over.
            loop.remove_reader(self._socket.fileno())
        await asyncio.sleep(SETTLE_S)
        self._drain()

    def close(self) -> None:
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
